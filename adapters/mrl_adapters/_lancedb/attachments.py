"""Attachments in LanceDB: a table beside that of the rows, with a row for each.

``mrl-attachments.TOKEN.NAME`` has the TOKEN of the table of rows, so that what an interrupted drop leaves behind is
never taken up again. A change of one row is one commit of LanceDB's.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from mrl_retrieval.errors import BackendError

from .database import Database
from .package import pa

__all__ = ["Attachments", "table_beside"]

logger = logging.getLogger(__name__)

_SCHEMA = pa.schema(
    [pa.field("name", pa.string(), nullable=False), pa.field("content", pa.large_binary(), nullable=False)]
)
_ROWS, _BESIDE = "mrl-rows.", "mrl-attachments."


def table_beside(rows: str) -> str:
    """Name of the table of attachments, from that of the rows."""
    return _BESIDE + rows.removeprefix(_ROWS)


class Attachments:
    """Those of one collection. The caller holds the collection's writer lock where it writes."""

    def __init__(self, database: Database, rows: str, keep: timedelta) -> None:
        self._database = database
        self._name = table_beside(rows)
        self._keep = keep

    def read(self, name: str) -> bytes | None:
        """What was last written under a checked name, sealed; None where there is nothing."""
        table = self._database.open_table(self._name)
        if table is None:
            return None
        found = table.search().where(_is(name)).select(["content"]).limit(None).to_arrow()["content"].to_pylist()
        return found[0] if found else None

    def write(self, name: str, sealed: bytes) -> None:
        """Put this in the place of what has the name."""
        new = pa.Table.from_pylist([{"name": name, "content": sealed}], schema=_SCHEMA)
        table = self._database.open_table(self._name)
        if table is None:
            self._database.connection().create_table(self._name, data=new)
            return
        table.merge_insert("name").when_matched_update_all().when_not_matched_insert_all().execute(new)
        self._tidy(table)

    def clear(self) -> None:
        """Remove old contents, and what a killed writer left. Call it while nobody else writes."""
        table = self._database.open_table(self._name)
        if table is not None:
            table.optimize(cleanup_older_than=self._keep, delete_unverified=True)

    def _tidy(self, table: Any) -> None:
        """An old content is as large as a new one: none is kept for longer than readers need it. The write that this
        follows stands whatever becomes of it."""
        try:
            with self._database.errors("tidying up"):
                table.optimize(cleanup_older_than=self._keep)
        except BackendError as error:
            logger.warning("%s: %s; it is tried again after a later write", self._name, error)


def _is(name: str) -> str:
    return f"name = '{name}'"  # checked: letters, digits and hyphens
