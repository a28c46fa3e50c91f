"""What a folder of resolutions holds: its manifest, in the same form the journal of a run that is not finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mrl_retrieval._version import __version__
from mrl_retrieval.documents import canonical_json
from mrl_retrieval.encoder import EncoderCard
from mrl_retrieval.errors import CollectionNotFound, ManifestError, NewerFormatError, NotACollection
from mrl_retrieval.manifest import Canaries, Manifest
from mrl_retrieval.storage.files import os_errors, write_atomically

from .block_sums import BlockSums

__all__ = ["JOURNAL", "MANIFEST", "Contents", "existing", "found", "npy_header", "read", "vector_file"]

MANIFEST = "resolutions.json"
JOURNAL = "unfinished.json"
ROWS = "rows.jsonl"
LOCK = "write.lock"
DATA = "data-"
"""What the names of the folders with the data begin with."""
TEMPORARY = ".tmp-"
"""What the names of files begin with that are not finished (:func:`mrl_retrieval.storage.files.temporary`)."""
HEADER_BYTES = 128
VERSION = 1
_FORMAT = "mrl-resolutions"


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in one data folder. Immutable; replaced as a whole."""

    data: str
    """Name of the data folder."""
    dim: int
    """Full length."""
    dims: tuple[int, ...]
    """Lengths of the stored prefixes, ascending; the last one is ``dim``."""
    rows: int = 0
    """Rows of every vector file."""
    vectors: Mapping[int, BlockSums] = field(default_factory=dict)
    """Of each dim's file, without its header."""
    log: BlockSums = field(default_factory=BlockSums)
    """Of the file with ids, documents and metadata."""
    encoder: EncoderCard | None = None
    """None where vectors were given by the caller."""
    canaries: Canaries | None = None
    created_with: str = __version__

    @classmethod
    def empty(
        cls, data: str, dims: tuple[int, ...], encoder: EncoderCard | None = None, canaries: Canaries | None = None
    ) -> Contents:
        """Of a data folder without any row."""
        sums = {dim: BlockSums() for dim in dims}
        return cls(data, dims[-1], dims, vectors=sums, encoder=encoder, canaries=canaries)

    def extended(self, rows: int, vectors: Mapping[int, bytes], log: bytes) -> Contents:
        """With so many rows more, and what is appended to the files for them."""
        return replace(
            self,
            rows=self.rows + rows,
            vectors={dim: sums.extended(vectors.get(dim, b"")) for dim, sums in self.vectors.items()},
            log=self.log.extended(log),
        )

    def as_collection(self) -> Manifest:
        """The same as a collection's manifest, whose rules for encoders apply here too."""
        return Manifest(
            dim=self.dim, coarse_dims=self.dim, fine_dims=self.dim, encoder=self.encoder, canaries=self.canaries
        )

    def write(self, path: Path) -> None:
        """Replace the file, whole or not at all."""
        value = {
            "format": _FORMAT,
            "version": VERSION,
            "data": self.data,
            "dim": self.dim,
            "dims": list(self.dims),
            "rows": self.rows,
            "dtype": "float16",
            "vectors": {str(dim): sums.to_json() for dim, sums in self.vectors.items()},
            "log": self.log.to_json(),
            "encoder": None if self.encoder is None else self.encoder.to_json(),
            "canaries": None if self.canaries is None else self.canaries.to_json(),
            "created_with": self.created_with,
        }
        with os_errors(f"writing {path}"):
            write_atomically(path, (canonical_json(value | {"checksum": _checksum(value)}) + "\n").encode())


def read(path: Path) -> Contents | None:
    """What :meth:`Contents.write` wrote; None where there is no such file.

    Raises:
        ManifestError: it is damaged.
        NewerFormatError: a newer version of this library wrote it.
    """
    try:
        with os_errors(f"reading {path}"):
            if not path.exists():
                return None
            text = path.read_bytes()
        value = json.loads(text)
        if value["format"] != _FORMAT or type(value["version"]) is not int:
            raise ValueError(f"its format is {value['format']!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(
            f"{path} is not what it should be, the manifest of stored resolutions ({error!r}): restore it from a "
            "backup, or write the vectors again"
        ) from error
    if value["version"] > VERSION:
        raise NewerFormatError(f"{path} has version {value['version']}, this library reads up to {VERSION}: upgrade it")
    stored = value.pop("checksum", None)
    if stored != (actual := _checksum(value)):
        raise ManifestError(
            f"the checksum of {path} is {actual}, it should be {stored}: it was damaged or edited by hand; restore it "
            "from a backup, or write the vectors again"
        )
    try:
        return _parsed(value)
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{path} is incomplete ({error!r}): restore it from a backup") from error


def existing(folder: Path) -> Contents | None:
    """What a run would go on from: what was not finished, else what is published; None where there is nothing.

    Raises:
        ManifestError: it is damaged.
    """
    place = folder.expanduser()
    return read(place / JOURNAL) or read(place / MANIFEST)


def found(folder: Path) -> Contents:
    """The manifest of a folder.

    Raises:
        CollectionNotFound: nothing is there, or only a run that was not finished.
        NotACollection: something else is there.
        ManifestError: it is damaged.
    """
    contents = read(folder / MANIFEST)
    if contents is not None:
        return contents
    if (unfinished := read(folder / JOURNAL)) is not None:
        raise CollectionNotFound(
            f"the vectors in {folder} are not finished ({unfinished.rows:,} rows are in): run again what writes them"
        )
    if folder.exists() and (not folder.is_dir() or any(entry.name != LOCK for entry in folder.iterdir())):
        raise NotACollection(f"{folder} holds no {MANIFEST}, so it holds no stored vectors; 'mrl embed' makes them")
    raise CollectionNotFound(
        f"there are no stored vectors at {folder}: 'mrl embed' or save_multi_resolution makes them"
    )


def vector_file(dim: int) -> str:
    """The name of a dim's file."""
    return f"dim-{dim}.npy"


def npy_header(rows: int, dim: int) -> bytes:
    """The header of a NumPy file (format 1.0), always of ``HEADER_BYTES``, so that rows can be appended.

    Source: the docstring of ``numpy.lib.format``.
    """
    described = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({rows}, {dim}), }}"
    start = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
    return start + described.encode().ljust(HEADER_BYTES - len(start) - 1) + b"\n"


def _parsed(value: dict[str, Any]) -> Contents:
    dims = tuple(int(dim) for dim in value["dims"])
    vectors = {dim: BlockSums.from_json(value["vectors"][str(dim)]) for dim in dims}
    contents = Contents(
        data=str(value["data"]),
        dim=int(value["dim"]),
        dims=dims,
        rows=int(value["rows"]),
        vectors=vectors,
        log=BlockSums.from_json(value["log"]),
        encoder=None if value["encoder"] is None else EncoderCard.from_json(value["encoder"]),
        canaries=None if value["canaries"] is None else Canaries.from_json(value["canaries"], int(value["dim"])),
        created_with=str(value["created_with"]),
    )
    sizes = {dim: sums.length for dim, sums in vectors.items()}
    if dims[-1] != contents.dim or sizes != {dim: contents.rows * dim * 2 for dim in dims}:
        raise ValueError(f"{contents.rows} rows, dims {dims} and file sizes {sizes} do not fit together")
    if not contents.data.startswith(DATA) or "/" in contents.data:
        raise ValueError(f"{contents.data!r} is no data folder")
    return contents


def _checksum(value: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]
