"""Our collections in a LanceDB database: one table that lists them, and one table of rows for each.

``mrl-collections`` has a row a collection: its manifest, its settings, and the name of its rows' table,
``mrl-rows.TOKEN.NAME``, where TOKEN is new for every collection made. A change of that one row is one commit of
LanceDB's, so a collection is made, changed and dropped at once; what a killed process leaves behind is a table of rows
that no collection names, which nobody reads, and which the next write of the manifest, drop or repair removes. So it is
with the table of attachments, whose name follows from that of the rows.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mrl_retrieval.errors import ConflictError, NotACollection
from mrl_retrieval.manifest import Manifest

from .attachments import Attachments, table_beside
from .database import Database
from .filters import key_of, keys_in
from .options import Settings
from .package import pa
from .rows import row_schema

__all__ = ["Collections", "Entry"]

logger = logging.getLogger(__name__)

_CATALOGUE = "mrl-collections"
_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("rows", pa.string(), nullable=False),
        pa.field("manifest", pa.large_string(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),
    ]
)
_COMMITS_BETWEEN_CLEANINGS = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """What the catalogue says of a collection."""

    manifest: Manifest
    settings: Settings
    rows: str
    """Name of the table of its rows."""


class Collections:
    """Makes, finds, lists and drops one collection. The caller holds the collection's writer lock where it writes."""

    def __init__(self, database: Database, name: str, asked: Mapping[str, Any], keep_versions: float) -> None:
        self._database = database
        self._name = name
        self._asked = asked
        self._keep = timedelta(seconds=keep_versions)
        self._new = Settings.of(asked)

    def read(self) -> Entry | None:
        """The collection as it is now; None where there is none.

        Raises:
            CollectionMismatchError: it was made with other settings than those asked for.
        """
        with self._database.errors("reading the manifest"):
            catalogue = self._catalogue()
            if catalogue is None:
                return None
            found = catalogue.search().where(keys_in([self._name])).select(["rows", "manifest", "settings"])
            rows = found.limit(None).to_arrow().to_pylist()
        if not rows:
            return None
        settings = Settings.loads(rows[0]["settings"])
        settings.held_to(self._asked)
        return Entry(Manifest.loads(rows[0]["manifest"]), settings, rows[0]["rows"])

    def write(self, manifest: Manifest, expected: Manifest | None) -> Entry:
        """Compare-and-set, under the catalogue's own lock."""
        with self._database.writing("catalogue"), self._database.errors("writing the manifest"):
            old = self.read()
            if (old and old.manifest.checksum) != (expected and expected.checksum):
                raise ConflictError(
                    f"the manifest of {self._database.address} was changed meanwhile; open the collection again and "
                    "repeat"
                )
            entry = self._made(manifest) if old is None else Entry(manifest, old.settings, old.rows)
            self._put(entry)
        if old is None:
            self.drop_orphans()
        return entry

    def _made(self, manifest: Manifest) -> Entry:
        entry = Entry(manifest, self._new, f"mrl-rows.{uuid.uuid4().hex[:12]}.{self._name}")
        self._database.connection().create_table(entry.rows, schema=row_schema(manifest, self._new.fine_dtype))
        return entry

    def _put(self, entry: Entry) -> None:
        row = {
            "key": key_of(self._name),
            "name": self._name,
            "rows": entry.rows,
            "manifest": entry.manifest.dumps(),
            "settings": entry.settings.dumps(),
        }
        catalogue = self._catalogue()
        if catalogue is None:
            catalogue = self._database.connection().create_table(_CATALOGUE, schema=_SCHEMA)
        new = pa.Table.from_pylist([row], schema=_SCHEMA)
        catalogue.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(new)
        if catalogue.version % _COMMITS_BETWEEN_CLEANINGS == 0:
            catalogue.optimize(cleanup_older_than=self._keep)

    def names(self) -> list[str]:
        """Our collections at this place, sorted."""
        with self._database.errors("listing collections"):
            catalogue = self._catalogue()
            if catalogue is None:
                return []
            return sorted(catalogue.search().select(["name"]).limit(None).to_arrow()["name"].to_pylist())

    def drop(self) -> None:
        """Remove the collection: taking it out of the catalogue drops it at once, its rows go afterwards."""
        if self._database.reader() is None:
            return
        with self._database.writing("catalogue"), self._database.errors("dropping the collection"):
            catalogue = self._catalogue()
            if catalogue is not None and catalogue.count_rows(keys_in([self._name])):
                catalogue.delete(keys_in([self._name]))
        self.drop_orphans()

    def attachments(self, entry: Entry) -> Attachments:
        """Those of the collection."""
        return Attachments(self._database, entry.rows, self._keep)

    def drop_orphans(self) -> None:
        """Remove the tables of rows and attachments of this name that the catalogue does not know."""
        entry = self.read()
        used = set() if entry is None else {entry.rows, table_beside(entry.rows)}
        orphan = re.compile(rf"mrl-(rows|attachments)\.[0-9a-f]{{12}}\.{re.escape(self._name)}")
        for name in self._database.table_names():
            if orphan.fullmatch(name) and name not in used:
                with self._database.errors("dropping the rows"):
                    self._database.connection().drop_table(name)
                logger.debug("%s: dropped the table %s", self._database.address, name)

    def _catalogue(self) -> Any | None:
        table = self._database.open_table(_CATALOGUE)
        if table is not None and not set(_SCHEMA.names) <= set(table.schema.names):
            raise NotACollection(
                f"LanceDB at {self._database.address} has a table {_CATALOGUE!r} that this library did not make; "
                "rename it there, or use another folder"
            )
        return table
