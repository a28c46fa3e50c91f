"""``mrl index --vectors``: what ``mrl embed`` wrote into a collection, without encoding anything."""

from __future__ import annotations

import argparse
import sys
import time
from itertools import islice

from mrl_retrieval.encoder import Encoder, as_encoder
from mrl_retrieval.errors import EncoderError, InvalidInput, MissingExtra, ModelMismatchError, UnknownNameError
from mrl_retrieval.generations import open_current
from mrl_retrieval.identity import MIN_CANARY_COSINE, check_canaries, check_card
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.progress import progress_report
from mrl_retrieval.resolutions.contents import Contents
from mrl_retrieval.resolutions.reading import load_verified

from .arguments import wants_progress
from .output import Output, plural
from .reading import given_reading
from .writing import finish, print_rotation, writing

__all__ = ["run_vectors"]


def run_vectors(arguments: argparse.Namespace, output: Output) -> int:
    """Check what is stored and its encoder, then write every row."""
    if given := given_reading(arguments):
        raise InvalidInput(f"--vectors takes the rows as they were embedded; leave out {', '.join(given)}")
    began = time.perf_counter()
    contents, vectors, rows = load_verified(arguments.vectors)  # so that nothing is written of what is damaged
    encoder, why_not = _encoder(arguments.encoder, contents, str(arguments.vectors))
    with open_current(arguments.to, **dict(arguments.option)) as backend:
        manifest = backend.read_manifest()
        if manifest is not None:
            _check_same(manifest, contents, str(arguments.vectors), str(backend.address))
        with writing(arguments, backend, encoder=encoder, dim=contents.dim) as retriever:
            with progress_report(wants_progress(arguments, sys.stderr), range(contents.rows)) as report:
                for start in range(0, contents.rows, arguments.batch_size):
                    part = list(islice(rows, arguments.batch_size))
                    retriever.index(
                        [row.document for row in part],
                        ids=[row.id for row in part],
                        metadatas=[row.metadata for row in part],
                        vectors=vectors[start : start + len(part)],
                        batch_size=arguments.batch_size,
                    )
                    report(start + len(part))
            finish(arguments, retriever)
            retriever.flush()
            held, now = retriever.count(), retriever.manifest
            kept = "" if retriever.backend.capabilities.persistent else ", until this process ends"
            address = retriever.backend.address
    output.line(
        f"{plural(contents.rows, 'row')} of {arguments.vectors} written in {time.perf_counter() - began:.1f} s; "
        "nothing was encoded."
    )
    if encoder is None and manifest is None:
        output.line(f"note: {why_not}, so the collection does not know its encoder: it is searched by vectors alone")
    output.line(f"{address} holds {plural(held, 'row')}{kept}.")
    print_rotation(output, manifest, now)
    return 0


def _encoder(name: str | None, contents: Contents, folder: str) -> tuple[Encoder | None, str]:
    """The encoder that made the vectors, held to its card and its canaries; else None, and why.

    Raises:
        ModelMismatchError: it is not the one that made them.
        MRLError: it was named, and cannot be loaded.
    """
    known = None if contents.encoder is None else contents.encoder.name
    if name is None and known is None:
        return None, f"{folder} names no encoder"
    try:
        encoder = as_encoder(name or known)
    except (EncoderError, MissingExtra, UnknownNameError) as error:
        if name is not None:
            raise
        return None, f"the encoder {known!r} cannot be loaded ({error})"
    made = contents.as_collection()
    check_card(made, encoder, folder)
    check_canaries(made, encoder, folder)
    return encoder, ""


def _check_same(manifest: Manifest, contents: Contents, folder: str, where: str) -> None:
    """Refuse to add vectors of one encoder to a collection of another one."""
    if manifest.dim != contents.dim:
        differing = [("dim", manifest.dim, contents.dim)]
    elif manifest.encoder is None or contents.encoder is None:
        return
    else:
        differing = manifest.encoder.differences(contents.encoder)
    if differing:
        told = "; ".join(f"{name} is {theirs!r}, the collection's is {ours!r}" for name, ours, theirs in differing)
        raise ModelMismatchError(
            f"{folder} and {where} were made with different encoders: {told}; use another collection"
        )
    if manifest.canaries is not None and contents.canaries is not None:
        cosine = min(manifest.canaries.similarity(contents.canaries))
        if cosine < MIN_CANARY_COSINE:
            raise ModelMismatchError(
                f"{folder} was not made with the encoder of {where}: the vectors of the canary texts agree only to "
                f"cosine {cosine:.4f}, they must to {MIN_CANARY_COSINE}; use another collection"
            )
