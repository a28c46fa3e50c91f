"""A folder of stored resolutions as the target of files: what they hold is encoded and appended, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_retrieval.encoder import Encoder
from mrl_retrieval.identity import check_canaries
from mrl_retrieval.long_texts import OnLong, TextEncoding

from .writing import ResolutionWriter

__all__ = ["EncodingTarget"]


class EncodingTarget:
    """What :func:`mrl_retrieval.ingest.sync` writes to; it encodes with one encoder.

    Args:
        folder: for messages.
        writer: open, with the encoder's card and canaries where the folder is new.
        encoder: made the vectors that are there.
        on_long: what becomes of a text beyond its context.
    """

    def __init__(self, folder: Path, writer: ResolutionWriter, encoder: Encoder, on_long: OnLong) -> None:
        self._folder, self._encoder, self._encode = folder, encoder, TextEncoding(on_long)
        self.backend = writer
        self._checked = False

    @property
    def manifest(self) -> object | None:
        """None where there is no row yet."""
        return self.backend.contents if self.backend.rows else None

    @property
    def encoder(self) -> Encoder | None:
        """The encoder."""
        return self._encoder

    def index(
        self, documents: Sequence[str], *, ids: Sequence[str], metadatas: Sequence[Mapping[str, Any]], batch_size: int
    ) -> None:
        """Encode and append.

        Raises:
            ModelMismatchError: the folder was made with another encoder, as its canaries say.
            EncoderError: the encoder failed.
        """
        if not self._checked:
            check_canaries(self.backend.contents.as_collection(), self._encoder, str(self._folder))
            self._checked = True
        for start in range(0, len(documents), batch_size):
            part = range(start, min(start + batch_size, len(documents)))
            # Where a run ended within a document, its first pieces are in.
            new = [i for i in part if not self.backend.holds(ids[i], documents[i], dict(metadatas[i]))]
            texts = [documents[i] for i in new]
            vectors = self._encode(self._encoder, texts, queries=False)
            self.backend.append(vectors, [ids[i] for i in new], texts, [dict(metadatas[i]) for i in new])

    def delete(self, ids: list[str]) -> int:
        """Remove rows; how many were there."""
        return self.backend.delete(ids)

    def flush(self) -> None:
        """Nothing is held back."""
