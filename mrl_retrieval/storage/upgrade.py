"""From format version 1 to 2, within the transaction of the first write: nothing is changed unless all of it is.

Version 1 had a checksum for each batch of vectors and none for rows, kept every vector in its place for ever, and
computed from a vector's number where it is. The segment files stay as they are.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import CorruptionError

from .checks import row_crc, text_crc, vector_sums
from .database import BATCH_TABLE, PATH_TABLE, RESTORE, ROW_TABLE, SCHEMA_VERSION, SEGMENT_TABLE, STATE_TABLE
from .query import path_digest
from .records import Span
from .segments import FineView
from .state import State, batch_crc, path_crc

__all__ = ["upgrade"]

logger = logging.getLogger(__name__)


def upgrade(connection: sqlite3.Connection, state: State, spans: list[Span], fine: FineView) -> State:
    """Bring the database to the present version. Returns the state as it is then.

    Raises:
        CorruptionError: a batch of vectors fails its checksum; the database stays at version 1.
    """
    logger.info("upgrading a collection of %d rows from format version 1 to %d", state.rows, SCHEMA_VERSION)
    sums = _upgrade_batches(connection, state, fine)
    connection.create_function("mrl_text_crc", 1, text_crc, deterministic=True)
    connection.create_function("mrl_row_crc", 5, row_crc, deterministic=True)
    connection.create_function("mrl_sum", 1, lambda row: int(sums[row]) if row >= 0 else None)
    connection.execute("ALTER TABLE row RENAME TO row_1")
    connection.execute(ROW_TABLE)
    connection.execute(
        "INSERT INTO row SELECT row, id, metadata, mrl_row_crc(row, id, metadata, mrl_sum(row), "
        "mrl_text_crc(document)), mrl_sum(row), mrl_text_crc(document), document FROM row_1"
    )
    connection.execute("DROP TABLE row_1")
    connection.execute("ALTER TABLE path RENAME TO path_1")
    connection.execute(PATH_TABLE)
    paths = connection.execute("SELECT path, name FROM path_1").fetchall()
    connection.executemany(
        "INSERT INTO path VALUES (?, ?, ?)", [(path, name, path_digest(connection, path)) for path, name in paths]
    )
    connection.execute("DROP TABLE path_1")
    connection.execute(SEGMENT_TABLE)
    connection.executemany("INSERT INTO segment VALUES (?, ?)", spans)
    connection.execute("DROP TABLE state")
    connection.execute(STATE_TABLE)
    numbers, bare = connection.execute("SELECT coalesce(sum(row), 0), coalesce(sum(row < 0), 0) FROM row").fetchone()
    names = sum(path_crc(path, name) for path, name in paths)
    upgraded = replace(state, numbers=numbers, paths=names, bare_rows=bare)
    upgraded.write(connection)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return upgraded


def _upgrade_batches(connection: sqlite3.Connection, state: State, fine: FineView) -> npt.NDArray[np.int64]:
    """Rewrite the list of batches; returns the checksum of every vector, signed."""
    batches = connection.execute("SELECT first, rows, crc32 FROM batch ORDER BY first").fetchall()
    connection.execute("DROP TABLE batch")
    connection.execute(BATCH_TABLE)
    sums = np.empty(state.vectors, dtype=np.int64)
    # The lineages of version 1, so that its cache file stays valid.
    digest = hashlib.blake2b(state.collection_id.encode(), digest_size=16)
    end = 0
    for first, rows, expected in batches:
        crc = fine.crc32(first, first + rows)
        if first != end or crc != expected:
            raise CorruptionError(
                f"vectors {first} to {first + rows - 1} have checksum {crc:#010x}, expected {expected:#010x} for "
                f"those from {end} on: {RESTORE}"
            )
        end = first + rows
        found = np.concatenate([vector_sums(records) for records, _ in fine.pieces(first, end)])
        sums[first:end] = found.view(np.int64)
        digest.update(b"%d %d %d\n" % (first, rows, expected))
        blob, lineage = found.astype("<u8").tobytes(), digest.hexdigest()
        connection.execute(
            "INSERT INTO batch VALUES (?, ?, ?, ?, ?)",
            (first, rows, blob, lineage, batch_crc(first, rows, blob, lineage)),
        )
    if end != state.vectors:
        raise CorruptionError(f"the batches hold {end} vectors, expected {state.vectors}: {RESTORE}")
    return sums
