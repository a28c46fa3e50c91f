"""A collection knows its encoder: cards are compared when it is opened, canary vectors at the first encoding."""

from __future__ import annotations

from .encoder import CANARY_TEXTS, Encoder, encode_checked
from .errors import ModelMismatchError
from .manifest import Canaries, Manifest

__all__ = ["MIN_CANARY_COSINE", "check_canaries", "check_card", "make_canaries"]

MIN_CANARY_COSINE = 0.999
"""Below this, two encoders are not the same. Rounding, another batch size or half precision stay above it."""

_REMEDY = "use the encoder the collection was made with, or index the documents again into another collection"


def make_canaries(encoder: Encoder) -> Canaries:
    """The vectors by which this encoder is recognised later."""
    texts = list(CANARY_TEXTS)
    return Canaries(encode_checked(encoder, texts, queries=False), encode_checked(encoder, texts, queries=True))


def check_card(manifest: Manifest, encoder: Encoder, where: str) -> None:
    """Compare what both sides know of the encoder. Calls no model.

    Raises:
        ModelMismatchError: they differ; the message names the field and both values.
    """
    if manifest.encoder is None:
        differing = [("dim", manifest.dim, encoder.dim)] if encoder.dim != manifest.dim else []
    else:
        differing = manifest.encoder.differences(encoder.identity)
    if differing:
        told = "; ".join(f"{name} is {theirs!r}, the collection's is {ours!r}" for name, ours, theirs in differing)
        raise ModelMismatchError(f"{where} was made with another encoder: {told}. Remedy: {_REMEDY}")


def check_canaries(manifest: Manifest, encoder: Encoder, where: str) -> None:
    """Encode the canary texts again and compare. Catches what the card does not say.

    Raises:
        ModelMismatchError: a canary's cosine with its stored vector is below :data:`MIN_CANARY_COSINE`.
    """
    if manifest.canaries is None:
        return
    documents, queries = manifest.canaries.similarity(make_canaries(encoder))
    for field, cosine in (("document", documents), ("query", queries)):
        if cosine < MIN_CANARY_COSINE:
            raise ModelMismatchError(
                f"{where} was made with another encoder, or another setting of it: the vectors of the canary texts "
                f"(encoded as {field}) agree only to cosine {cosine:.4f}, they must to {MIN_CANARY_COSINE}. Look at "
                f"its revision, prompts, pooling and quantisation. Remedy: {_REMEDY}"
            )
