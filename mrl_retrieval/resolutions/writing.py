"""``ResolutionWriter``: rows appended to the vector files of all lengths, durably, batch by batch.

The data lies in a folder of its own, and the manifest names it. A run writes into a new data folder, keeps in a journal
how far its files are good, and is published by replacing the manifest: until then readers see what was there before.
A run that was killed is taken up by the next one, at the end of its last whole batch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from mrl_retrieval.documents import Metadata, Row, RowBatch
from mrl_retrieval.encoder import EncoderCard
from mrl_retrieval.errors import CorruptionError, InvalidInput
from mrl_retrieval.manifest import Canaries
from mrl_retrieval.matryoshka import FloatArray, as_vectors, prefix
from mrl_retrieval.storage.files import os_errors, sync_folder
from mrl_retrieval.storage.locks import WriterLock

from . import contents as layout
from .compaction import compacted
from .contents import Contents, npy_header, vector_file
from .place import check_same, make_folder, new_name, sweep
from .row_log import LiveRows, deletion_line, lines, row_line

__all__ = ["ResolutionWriter"]

_SCAN_ROWS = 1000


class ResolutionWriter:
    """Writes one folder; use it in a ``with``, and call :meth:`finish` at its end. Not thread-safe.

    What was appended survives a kill: the next writer of the folder goes on from there, unless ``restart`` is set.
    Leaving the ``with`` without :meth:`finish` is no different from a kill.

    Args:
        folder: is made if it is not there.
        dims: lengths of the prefixes, ascending, the last one the full length. Those of the folder where it exists.
        identity: the encoder's card; None: the vectors are given.
        canaries: the encoder's, see :func:`mrl_retrieval.identity.make_canaries`.
        restart: begin with no rows, whatever is there; readers see that until :meth:`finish`.
        lock_timeout: seconds to wait for another writer.

    Raises:
        NotACollection: the folder holds something else.
        CollectionMismatchError: the rows there have other dims.
        ModelMismatchError: they are another encoder's.
        LockTimeout: another writer is at it.
    """

    def __init__(
        self,
        folder: str | Path,
        dims: Sequence[int],
        *,
        identity: EncoderCard | None = None,
        canaries: Canaries | None = None,
        restart: bool = False,
        lock_timeout: float = 5.0,
    ) -> None:
        self._folder = Path(folder).expanduser()
        self._now = Contents.empty("", tuple(dims), identity, canaries)
        self._restart, self._timeout = restart, lock_timeout
        self._base: Contents | None = None
        """What is published, where this run adds to it."""
        self._state = "closed"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ResolutionWriter:
        with contextlib.ExitStack() as undo:
            make_folder(self._folder)
            undo.enter_context(WriterLock(self._folder / layout.LOCK, self._timeout).held())
            self._live = LiveRows()
            undo.callback(self._live.close)
            with os_errors(f"reading {self._folder}"):
                self._open()
            self._stack = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._state = "closed"
        self._stack.close()

    @property
    def rows(self) -> int:
        """Rows that are in."""
        return len(self._live)

    @property
    def contents(self) -> Contents:
        """What the files hold now: until :meth:`finish` also rows that were replaced or deleted."""
        return self._now

    def append(
        self,
        vectors: Any,
        ids: Sequence[str],
        documents: Sequence[str | None] | None = None,
        metadatas: Sequence[Metadata] | None = None,
    ) -> None:
        """Add rows, durably; an id that is there is replaced.

        Args:
            vectors: ``(N, D)``, of any length; stored at unit length.
            ids: N of them, each once.
            documents: N texts or None.
            metadatas: N dicts.

        Raises:
            DimensionError, NonFiniteError: the vectors have another length, or a value that is not finite.
            InvalidInput: the columns have different lengths.
        """
        rows = as_vectors(vectors, dim=self._now.dim)
        texts = [None] * len(rows) if documents is None else documents
        about = [{} for _ in range(len(rows))] if metadatas is None else metadatas
        lengths = {"vectors": len(rows), "ids": len(ids), "documents": len(texts), "metadatas": len(about)}
        if len(set(lengths.values())) > 1 or len(set(ids)) < len(ids):
            told = ", ".join(f"{count} {name}" for name, count in lengths.items())
            raise InvalidInput(f"a batch needs one of each for every row, and every id once, got {told}")
        if not len(rows):
            return
        self._begin()
        data = {dim: _half(rows, dim) for dim in self._now.dims}
        own = [row_line(id, text, metadata) for id, text, metadata in zip(ids, texts, about, strict=True)]
        self._commit(self._now.extended(len(rows), data, log := b"".join(own)), data, log)
        self._live.put(list(zip(ids, own, strict=True)), self._now.rows - len(rows))

    def holds(self, id: str, document: str | None, metadata: Metadata) -> bool:
        """Whether this very row is in, so that it need not be encoded again."""
        return self._live.holds(id, row_line(id, document, metadata))

    def delete(self, ids: Sequence[str]) -> int:
        """Remove rows; unknown ids are no error. How many were there."""
        known = [id for id in dict.fromkeys(ids) if self._live.row(id) is not None]
        if known:
            self._begin()
            self._commit(self._now.extended(0, {}, log := deletion_line(known)), {}, log)
            self._live.remove(known)
        return len(known)

    def scan(self, *, documents: bool = True) -> Iterator[RowBatch]:
        """Every row that is in, without its vector, in batches."""
        batch: list[Row] = []
        for _, row in self._live_rows():
            batch.append(row)
            if len(batch) == _SCAN_ROWS:
                yield _batch(batch, documents)
                batch = []
        if batch:
            yield _batch(batch, documents)

    def finish(self) -> Contents:
        """Publish what was written: from now on readers see it, and this writer writes no more."""
        if self._state == "reading" and self._base is not None:
            self._state = "closed"
            return self._now  # nothing was written: what is published stays
        self._begin()
        if len(self._live) < self._now.rows:
            self._now = compacted(self._folder, self._now, new_name(), self._live_rows())
        with os_errors(f"writing {self._folder}"):
            for dim in self._now.dims:
                with (self._folder / self._now.data / vector_file(dim)).open("r+b") as file:
                    file.write(npy_header(self._now.rows, dim))
                    _sync(file)
            self._now.write(self._folder / layout.MANIFEST)
            (self._folder / layout.JOURNAL).unlink(missing_ok=True)
            sync_folder(self._folder)
            sweep(self._folder, {self._now.data})
        self._state = "closed"
        return self._now

    def discard(self) -> None:
        """Give up what was not finished, of this run and of killed ones; what is published stays."""
        with os_errors(f"clearing {self._folder}"):
            (self._folder / layout.JOURNAL).unlink(missing_ok=True)
            published = layout.read(self._folder / layout.MANIFEST)
            sweep(self._folder, set() if published is None else {published.data})
        self._state = "closed"

    def _open(self) -> None:
        published = layout.read(self._folder / layout.MANIFEST)
        if self._restart:
            (self._folder / layout.JOURNAL).unlink(missing_ok=True)
        journal = layout.read(self._folder / layout.JOURNAL)
        self._base = None if self._restart else published
        there = journal or self._base
        if there is not None:
            check_same(there, self._now, self._folder)
        sweep(self._folder, {found.data for found in (published, journal) if found is not None})
        self._state = "reading" if journal is None else "writing"
        if there is None:
            return
        self._now = there
        if journal is not None:
            self._cut(journal)
        self._live.load(lines(self._folder / there.data / layout.ROWS, there.log))

    def _cut(self, journal: Contents) -> None:
        """Take away what a killed run wrote of a batch that it did not finish."""
        data = self._folder / journal.data
        sizes = {data / vector_file(dim): layout.HEADER_BYTES + sums.length for dim, sums in journal.vectors.items()}
        for path, size in (sizes | {data / layout.ROWS: journal.log.length}).items():
            there = path.stat().st_size if path.exists() else 0
            if there < size:
                raise CorruptionError(
                    f"{path} has {there:,} bytes, its journal says {size:,}: restore it from a backup, or remove "
                    f"{self._folder / layout.JOURNAL}, which gives up what was not finished"
                )
            os.truncate(path, size)

    def _begin(self) -> None:
        """Have a data folder of this run: empty, or a copy of the one that it adds to."""
        if self._state == "writing":
            return
        if self._state == "closed":
            raise InvalidInput(f"the writer of {self._folder} is closed; open another one")
        name = new_name()
        data = self._folder / name
        with os_errors(f"writing {self._folder}"):
            data.mkdir()
            for file in [*(vector_file(dim) for dim in self._now.dims), layout.ROWS]:
                if self._base is not None:
                    shutil.copyfile(self._folder / self._base.data / file, data / file)
                else:
                    (data / file).write_bytes(b"" if file == layout.ROWS else bytes(layout.HEADER_BYTES))
                with (data / file).open("r+b") as written:
                    _sync(written)
            sync_folder(data)
            self._now = replace(self._now, data=name)
            self._now.write(self._folder / layout.JOURNAL)
        self._state = "writing"

    def _commit(self, after: Contents, vectors: Mapping[int, bytes], log: bytes) -> None:
        """Append to the files, and once that is on the disk, say so in the journal."""
        data = self._folder / self._now.data
        parts = [(layout.ROWS, self._now.log.length, log)]
        parts += [
            (vector_file(d), layout.HEADER_BYTES + self._now.vectors[d].length, new) for d, new in vectors.items()
        ]
        with os_errors(f"writing {self._folder}"):
            for name, at, content in parts:
                with (data / name).open("r+b") as file:
                    file.seek(at)
                    file.write(content)
                    file.truncate()
                    _sync(file)
            after.write(self._folder / layout.JOURNAL)
        self._now = after

    def _live_rows(self) -> Iterator[tuple[int, Row]]:
        """Numbers and rows that were neither replaced nor deleted, in their order."""
        number = 0
        if self._state == "reading" and self._base is None:
            return  # nothing is there yet
        for entry in lines(self._folder / self._now.data / layout.ROWS, self._now.log):
            if isinstance(entry, Row):
                if self._live.row(entry.id) == number:
                    yield number, entry
                number += 1


def _batch(rows: list[Row], documents: bool) -> RowBatch:
    return RowBatch(
        ids=[row.id for row in rows],
        documents=[row.document if documents else None for row in rows],
        metadatas=[row.metadata for row in rows],
        vectors=None,
        has_vector=np.ones(len(rows), dtype=np.bool_),
    )


def _half(rows: FloatArray, dim: int) -> bytes:
    """The renormalised prefixes of rows as they are stored: float16, little-endian."""
    return prefix(rows, dim).astype("<f2").tobytes()


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
