"""Whose the rows are: nothing is written over a row of another file, or over one that was not made from a file."""

from __future__ import annotations

from collections.abc import Sequence

from mrl_retrieval.errors import InvalidInput

from .files import FileSource, Scope
from .records import Record, RecordOptions, read_records
from .state import Owner, StoredRows

__all__ = ["Owners", "row_ids"]


def row_ids(key: str, pieces: int) -> list[str]:
    """What the rows of a record are called."""
    return [key] if pieces == 1 else [f"{key}#{number}" for number in range(1, pieces + 1)]


class Owners:
    """Tells what a file may write from what is taken."""

    def __init__(self, stored: StoredRows, sources: Sequence[FileSource], scope: Scope, records: RecordOptions) -> None:
        self._stored, self._scope, self._records = stored, scope, records
        self._unread = {source.name: source for source in sources}
        self._looked_into: set[str] = set()

    def start_file(self, source: FileSource) -> None:
        """This one is read now; what it has is known from the rows that are kept."""
        self._unread.pop(source.name, None)

    def refuse_taken(self, source: FileSource, record: Record, pieces: int) -> None:
        """Refuse a record whose id another file has, or whose rows would overwrite somebody else's.

        Raises:
            InvalidInput: which row it would be, whose that is, and the remedy; begins with ``file:line:``.
        """
        for id in (record.key, f"{record.key}#1"):
            owner = self._other(source, id)
            if owner is not None and owner.record == record.key:
                raise _taken(source, record, f"the id {record.key!r} is already there from {owner.source}")
        for id in row_ids(record.key, pieces):
            owner = self._other(source, id)
            if owner is None:
                continue
            wanted = f"the id {id!r}"
            if pieces > 1:
                wanted += f", the name of a chunk of {record.key!r} (it has {pieces}),"
            if owner.source is None:
                had = "is that of a row that mrl index did not make and will not overwrite"
            elif owner.record == id:
                had = f"is already there from {owner.source}"
            else:
                had = f"is already there from {owner.source}, as the name of a chunk of {owner.record!r}"
            raise _taken(source, record, f"{wanted} {had}")

    def _other(self, source: FileSource, id: str) -> Owner | None:
        """Whose a row is that this file must not overwrite."""
        owner = self._stored.owner(id)
        if owner is None or owner.source == source.name:
            return None
        # Rows of a file that has vanished, or no longer has the record, may be taken over: a file was renamed, or a
        # record moved.
        if owner.source is None or owner.record is None or owner.source not in self._scope or owner.kept:
            return owner
        return owner if self._still_has(owner.source, owner.record) else None

    def _still_has(self, name: str, record: str) -> bool:
        """Whether a file that is yet to be read has this record."""
        later = self._unread.get(name)
        if later is None:
            return False
        if name not in self._looked_into:
            self._looked_into.add(name)
            read = read_records(later, self._records)
            self._stored.expect(name, (record.key for record in read if record.text))
        return self._stored.is_expected(name, record)


def _taken(source: FileSource, record: Record, what: str) -> InvalidInput:
    if record.own_id:
        remedy = "use another collection, another field with --id, or --no-id"
    elif source.kind == "text":
        remedy = "use another collection, or name the files differently with --relative-to"
    else:
        remedy = "use another collection"
    return InvalidInput(f"{source.path}:{record.line}: {what}; {remedy}")
