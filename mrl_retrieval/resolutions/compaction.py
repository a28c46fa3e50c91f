"""A data folder made anew, without the rows that were replaced or deleted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from mrl_retrieval.documents import Row
from mrl_retrieval.storage.files import os_errors, sync_folder

from .contents import HEADER_BYTES, ROWS, Contents, vector_file
from .mapped import MappedRows
from .row_log import row_line

__all__ = ["compacted"]

_ROWS_AT_ONCE = 4096


def compacted(folder: Path, old: Contents, name: str, kept: Iterable[tuple[int, Row]]) -> Contents:
    """Write the data folder ``name`` with some rows of another one, in their order.

    Args:
        folder: where both are.
        old: what the other one holds.
        name: of the new one.
        kept: the rows' numbers in the other one, and what stands beside the vectors.

    Raises:
        CorruptionError: a row that is kept is not as it was written.
    """
    mapped = {
        dim: MappedRows(folder / old.data / vector_file(dim), old.rows, dim, old.vectors[dim], finished=False)
        for dim in old.dims
    }
    new = Contents.empty(name, old.dims, old.encoder, old.canaries)
    data, rows = folder / name, iter(kept)
    with os_errors(f"writing {data}"):
        data.mkdir()
        files = {dim: (data / vector_file(dim)).open("wb") for dim in old.dims}
        log = (data / ROWS).open("wb")
        try:
            for file in files.values():
                file.write(bytes(HEADER_BYTES))
            while part := list(islice(rows, _ROWS_AT_ONCE)):
                numbers = np.array([number for number, _ in part], dtype=np.int64)
                vectors = {dim: mapped[dim].take(numbers).tobytes() for dim in old.dims}
                about = b"".join(row_line(row.id, row.document, row.metadata) for _, row in part)
                for dim, content in vectors.items():
                    files[dim].write(content)
                log.write(about)
                new = new.extended(len(part), vectors, about)
            for file in (*files.values(), log):
                file.flush()
                os.fsync(file.fileno())
        finally:
            for file in (*files.values(), log):
                file.close()
        sync_folder(data)
    return new
