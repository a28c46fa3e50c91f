"""What stored resolutions cost: bytes for each length, and in all, beside full float32 vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import contents as layout

__all__ = ["ResolutionSummary", "resolution_summary"]


@dataclass(frozen=True, slots=True)
class ResolutionSummary:
    """Sizes of the files. ``print`` it for a table."""

    folder: str
    rows: int
    dim: int
    """Full length."""
    encoder: str | None
    """Name or model of the encoder; None where it is not known."""
    bytes: Mapping[int, int]
    """Of the vectors of each length."""
    row_bytes: int
    """Of ids, documents and metadata."""

    @property
    def vector_bytes(self) -> int:
        """Of all vectors."""
        return sum(self.bytes.values())

    @property
    def total_bytes(self) -> int:
        """Of vectors, ids, documents and metadata."""
        return self.vector_bytes + self.row_bytes

    @property
    def float32_bytes(self) -> int:
        """What the full vectors alone would take in float32."""
        return self.rows * self.dim * 4

    def share(self, dim: int | None = None) -> float:
        """Bytes of one length, or of all (None), over :attr:`float32_bytes`; 0 where there are no rows."""
        count = self.vector_bytes if dim is None else self.bytes[dim]
        return count / self.float32_bytes if self.rows else 0.0

    def __str__(self) -> str:
        cells = [("dims", "bytes", "of float32")]
        cells += [(str(dim), f"{count:,}", f"{self.share(dim):.1%}") for dim, count in self.bytes.items()]
        cells += [("all", f"{self.vector_bytes:,}", f"{self.share():.1%}"), ("rows", f"{self.row_bytes:,}", "")]
        widths = [max(len(row[i]) for row in cells) for i in range(3)]
        table = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        made = f" of {self.encoder}" if self.encoder else ""
        return "\n".join([f"{self.folder}: {self.rows:,} rows, {self.dim} dims{made}", *table])


def resolution_summary(folder: str | Path) -> ResolutionSummary:
    """What a folder of stored vectors costs; reads its manifest alone.

    Raises:
        CollectionNotFound, NotACollection: there are no stored vectors.
        ManifestError: the manifest is damaged.
    """
    contents = layout.found(Path(folder).expanduser())
    card = contents.encoder
    return ResolutionSummary(
        folder=str(folder),
        rows=contents.rows,
        dim=contents.dim,
        encoder=None if card is None else card.name or card.model,
        bytes={dim: contents.vectors[dim].length for dim in contents.dims},
        row_bytes=contents.log.length,
    )
