"""Parsing: jsonl, csv and text files to records. Errors name the file and the line."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mrl_retrieval.documents import MOST_LEVELS, canonical_json, check_id, check_metadata, content_id
from mrl_retrieval.errors import InvalidInput

from .files import FileSource
from .reading import Position, read_lines, read_text

__all__ = ["RESERVED", "Record", "RecordOptions", "parse_fields", "read_records", "read_rows"]

RESERVED = frozenset({"source", "start", "end", "mrl"})
"""Metadata keys that indexing writes itself."""


@dataclass(frozen=True, slots=True)
class Record:
    """One text with its metadata, before it is split."""

    key: str
    """Its id: the record's own, the file's name for a text file, else a UUID made from the content."""
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    line: int = 1
    """Where it begins in its file, from 1."""
    own_id: bool = False
    """Whether ``key`` was given in the file."""

    def digest(self, settings: str) -> str:
        """Changes when the text, the metadata or the settings do."""
        content = canonical_json([settings, self.key, self.text, self.metadata])
        return hashlib.sha256(content.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """Which fields of a record are what."""

    id: str | None = None
    """None: ``_id`` or ``id`` if there, else an id made from the content."""
    no_id: bool = False
    """Never take an id from a field."""
    text: tuple[str, ...] = ()
    """Joined by blank lines. Empty: ``title`` if there, and ``text``."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata key to the field it comes from. Empty: ``title`` if ``text`` is empty too."""
    encoding: str = "utf-8"


def parse_fields(spec: str) -> dict[str, str]:
    """``"a,b,new=old"`` to ``{"a": "a", "b": "b", "new": "old"}``.

    Raises:
        InvalidInput: an empty or reserved key, or the same one twice.
    """
    fields: dict[str, str] = {}
    for part in spec.split(","):
        key, _, column = (piece.strip() for piece in part.partition("="))
        column = column or key
        if not key:
            raise InvalidInput(f"--metadata-fields {spec!r} has an empty name; write a,b or new_name=column")
        if key in RESERVED:
            raise InvalidInput(
                f"--metadata-fields: {key!r} is written by indexing itself; rename it, as in original_{key}={column}"
            )
        if key in fields:
            raise InvalidInput(f"--metadata-fields {spec!r} names {key!r} twice")
        fields[key] = column
    return fields


def read_records(source: FileSource, options: RecordOptions, position: Position | None = None) -> Iterator[Record]:
    """The records of a file, in order, one at a time; those without any text are left out.

    Raises:
        InvalidInput: a record cannot be used; the message begins with ``file:line:``.
    """
    if source.kind == "text":
        whole = read_text(source.path, options.encoding)
        if _surrogate(whole) is not None:
            raise InvalidInput(f"{source.path} is not text in {options.encoding}: it holds half of a surrogate pair")
        yield Record(source.name, whole if whole.strip() else "")
        return
    for line, row in read_rows(source, options.encoding, position):
        try:
            record = _record(row, source, options, line)
        except InvalidInput as error:
            raise InvalidInput(f"{source.path}:{line}: {error}") from error
        yield record


def read_rows(
    source: FileSource, encoding: str = "utf-8", position: Position | None = None, *, literal_tsv: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a jsonl, csv or tsv file as they are, each with the line on which it begins.

    Args:
        source: the file.
        encoding: of its text.
        position: is told how far the file is read.
        literal_tsv: in a tsv file a quotation mark is a character like others, as in most data sets.

    Raises:
        InvalidInput: it is a text file, or a row cannot be read; the message begins with ``file:line:``.
    """
    if source.kind == "text":
        raise InvalidInput(f"{source.path} has no rows: name it .jsonl, .csv or .tsv (also with .gz)")
    if source.kind == "jsonl":
        yield from _json_rows(source, encoding, position)
    else:
        quoting: Literal[0, 3] = csv.QUOTE_NONE if literal_tsv and source.kind == "tsv" else csv.QUOTE_MINIMAL
        yield from _csv_rows(source, encoding, position, quoting)


def _json_rows(source: FileSource, encoding: str, position: Position | None) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_lines(source.path, encoding, position), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except RecursionError as error:
            raise InvalidInput(f"{source.path}:{number}: nested too deeply to be read; write it flatter") from error
        except ValueError as error:
            raise InvalidInput(f"{source.path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InvalidInput(f'{source.path}:{number}: expected an object such as {{"text": …}}, got {_shown(row)}')
        yield number, row


def _csv_rows(
    source: FileSource, encoding: str, position: Position | None, quoting: Literal[0, 3]
) -> Iterator[tuple[int, dict[str, Any]]]:
    # The limit is the csv module's own, for the whole process; its default of 128 KiB is less than a long text.
    csv.field_size_limit(2**31 - 1)
    delimiter = "\t" if source.kind == "tsv" else ","
    reader = csv.reader(read_lines(source.path, encoding, position), delimiter=delimiter, quoting=quoting, strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidInput(f"{source.path}:{line}: not valid {source.kind}: {error}") from error
        if row and header is None:
            header = [name.strip() for name in row]
            twice = sorted({name for name in header if header.count(name) > 1})
            if twice:
                raise InvalidInput(f"{source.path}:{line}: the header names {', '.join(map(repr, twice))} twice")
        elif row and header is not None:
            if len(row) != len(header):
                raise InvalidInput(f"{source.path}:{line}: {len(row)} fields, the header has {len(header)}")
            yield line, dict(zip(header, row, strict=True))
        line = reader.line_num + 1


def _record(row: dict[str, Any], source: FileSource, options: RecordOptions, line: int) -> Record:
    default = not options.text
    fields: Sequence[str] = options.text or (("title", "text") if row.get("title") else ("text",))
    parts = [_text(row, name, options) for name in fields]
    text = "\n\n".join(part for part in parts if part.strip())
    columns = options.metadata or ({"title": "title"} if default and row.get("title") else {})
    picked = {key: row[column] for key, column in columns.items() if column in row}
    if source.kind != "jsonl" and len(picked) < len(columns):
        absent = next(column for column in columns.values() if column not in row)
        raise InvalidInput(f"no column {absent!r} (columns: {', '.join(map(repr, row))}); see --metadata-fields")
    for name, value in picked.items():
        _check_value(value, f"the field {columns[name]!r}")
    metadata = check_metadata(picked, 0)
    key = None if options.no_id else _id(row, options)
    if key is None:
        return Record(content_id(text, {**metadata, "source": source.name}), text, metadata, line)
    return Record(key, text, metadata, line, own_id=True)


def _check_value(value: Any, where: str, depth: int = 1) -> None:
    """What :func:`check_metadata` refuses, in the words of the file."""
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(
            f"{where} holds {json.dumps(value)}, which is no number of JSON; write null, or leave it out"
        )
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidInput(f"{where} holds {_shown(value)}, a number beyond 64 bits; write it as a string")
    elif isinstance(value, (dict, list)):
        if depth == MOST_LEVELS:
            raise InvalidInput(
                f"{where} is nested more than {MOST_LEVELS} levels deep; write it flatter, or as a string of JSON"
            )
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            _check_value(item, where, depth + 1)


def _check_text(value: str, where: str) -> None:
    at = _surrogate(value)
    if at is not None:
        raise InvalidInput(
            f"{where} has a lone surrogate, {value[at]!r}, at character {at}: half of a character, which no text can "
            "hold; write the whole one, or \\ufffd"
        )


def _surrogate(text: str) -> int | None:
    """Where the first half of a surrogate pair is that lacks its other half."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def _text(row: dict[str, Any], name: str, options: RecordOptions) -> str:
    value = row.get(name)
    if value is None and name not in row:
        having = ", ".join(map(repr, row)) or "none"
        how = "" if options.text else "; choose the fields with --text"
        raise InvalidInput(f"no field {name!r} (fields: {having}){how}")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidInput(f"the field {name!r} is {_shown(value)}, expected a string")
    _check_text(value, f"the field {name!r}")
    return value


def _id(row: dict[str, Any], options: RecordOptions) -> str | None:
    name = options.id or next((name for name in ("_id", "id") if name in row), None)
    if name is None:
        return None
    if name not in row:
        raise InvalidInput(f"no field {name!r} (fields: {', '.join(map(repr, row)) or 'none'}); choose it with --id")
    value = row[name]
    if value == "" or isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InvalidInput(
            f"the field {name!r} is {_shown(value)}, expected a string or a whole number; "
            "--id chooses another field, --no-id makes ids from the content"
        )
    if isinstance(value, str):
        _check_text(value, f"the field {name!r}")
    return check_id(value, 0)


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "something nested very deeply"
    return text if len(text) <= 40 else text[:39] + "…"
