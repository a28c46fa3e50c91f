"""Tasks from files: ``KIND:PATH?OPTION=…``, such as ``search:scifact`` or ``sts:pairs.tsv?score=gold``."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from ..errors import InvalidInput
from ..ingest.files import FileSource, kind_of
from ..ingest.qrels import read_qrels
from ..ingest.records import read_rows
from .tasks import ClassificationTask, ClusteringTask, PairsTask, SearchTask, StsTask, Task

__all__ = ["FORMS", "load_task"]

FORMS = "search:FOLDER, classification:FILE, clustering:FILE, sts:FILE, pairs:FILE"
_TEST_SHARE = 5  # one text of so many of a class is tested on where a file has no column split
_SEED = 0


def load_task(spec: str) -> Task:
    """Read a task.

    ``search:FOLDER``
        in BEIR's form: ``corpus.jsonl`` and ``queries.jsonl`` with ``_id``, ``title`` and ``text``, and
        ``qrels/test.tsv`` or ``qrels.tsv`` with ``query-id``, ``corpus-id`` and ``score``, each also ``.gz``.
        ``?split=NAME`` takes ``qrels/NAME.tsv``.
    ``classification:FILE``, ``clustering:FILE``
        jsonl, csv or tsv with the columns ``text``, ``label`` and, if there, ``split``: classification learns from
        ``train`` and is tested on ``test``; without it on every class's fifth. Clustering takes ``test``.
    ``sts:FILE``
        with ``sentence1``, ``sentence2`` and ``score``.
    ``pairs:FILE``
        with ``sentence1``, ``sentence2`` and, if there, ``label``: 1 for pairs that belong together, 0 for others.

    A column of another name is given as an option: ``?label=intent&text=question``. In tsv files quotation marks are
    characters like others.

    Raises:
        InvalidInput: the form, the path or what is there cannot be used.
    """
    kind, colon, rest = spec.partition(":")
    loaders: dict[str, Callable[[Path, dict[str, str]], Task]] = {
        "search": _search,
        "classification": _classification,
        "clustering": _clustering,
        "sts": _sts,
        "pairs": _pairs,
    }
    if not colon or kind not in loaders:
        raise InvalidInput(f"no task {spec!r}: expected one of {FORMS}")
    path, _, query = rest.partition("?")
    if not path:
        raise InvalidInput(f"the task {spec!r} names no path: expected one of {FORMS}")
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if query else {}
    except ValueError as error:
        raise InvalidInput(f"the options of {spec!r} cannot be read: write NAME=VALUE, with & between them") from error
    try:
        return loaders[kind](Path(path).expanduser(), options)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error


def _search(folder: Path, options: dict[str, str]) -> SearchTask:
    split = options.pop("split", None)
    _nothing_left(options, "search", ("split",))
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "is not there"
        raise InvalidInput(f"{folder} {what}; a search task is a folder with corpus.jsonl, queries.jsonl and qrels")
    corpus, queries = (_there(folder, f"{name}.jsonl") for name in ("corpus", "queries"))
    judgements = read_qrels(_qrels(folder, split))
    documents = dict(_texts(corpus))
    asked = dict(_texts(queries))
    return SearchTask(
        name=f"search:{folder.name}",
        ids=tuple(id for id, _ in documents.values()),
        documents=tuple(text for _, text in documents.values()),
        query_ids=tuple(id for id, _ in asked.values()),
        queries=tuple(text for _, text in asked.values()),
        judgements=judgements,
    )


def _texts(path: Path) -> Iterator[tuple[int, tuple[str, str]]]:
    """By line the id, and title and text with a space between them, as BEIR and MTEB join them."""
    for line, row in read_rows(_source(path)):
        id, title, text = (row.get(name, "") for name in ("_id", "title", "text"))
        if "_id" not in row or "text" not in row:
            raise InvalidInput(f"{path}:{line}: expected the fields _id and text, got {', '.join(row) or 'none'}")
        if not isinstance(text or "", str) or not isinstance(title or "", str) or not isinstance(id, (str, int)):
            raise InvalidInput(f"{path}:{line}: _id, title and text are strings, got {row!r:.80}")
        yield line, (str(id), f"{title or ''} {text or ''}".strip())


def _qrels(folder: Path, split: str | None) -> Path:
    if split is not None:
        return _there(folder, f"qrels/{split}.tsv")
    for name in ("qrels/test.tsv", "qrels.tsv"):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    found = sorted({path.name.partition(".")[0] for path in (folder / "qrels").glob("*.tsv*")})
    if len(found) == 1:
        return _there(folder, f"qrels/{found[0]}.tsv")
    if found:
        raise InvalidInput(f"{folder} has the qrels {', '.join(found)}; choose one with ?split=NAME")
    raise InvalidInput(f"{folder} has neither qrels/test.tsv nor qrels.tsv (also with .gz): is it in BEIR's form?")


def _there(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InvalidInput(f"{folder} has no {name} (or {name}.gz): is it in BEIR's form?")


def _classification(path: Path, options: dict[str, str]) -> ClassificationTask:
    table = _Table.read(path, options, "classification", ("text", "label"), ("split",))
    texts, labels = table.strings("text"), table.strings("label")
    if table.has("split"):
        splits = table.strings("split")
        missing = {"train", "test"} - set(splits)
        if missing:
            raise InvalidInput(f"{path}: no row has the split {min(missing)!r}, there are {sorted(set(splits))!r:.80}")
        train, test = ([i for i, split in enumerate(splits) if split == name] for name in ("train", "test"))
    else:
        train, test = _divided(labels, path)
    return ClassificationTask(
        f"classification:{table.name}",
        *(tuple(column[i] for i in part) for part in (train, test) for column in (texts, labels)),
    )


def _divided(labels: list[str], path: Path) -> tuple[list[int], list[int]]:
    """Places to learn from and to test on: of each class a fifth to test, one at least, drawn with a fixed seed."""
    by_label: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        by_label.setdefault(label, []).append(place)
    test: set[int] = set()
    for label, places in sorted(by_label.items()):
        if len(places) < 2:
            raise InvalidInput(
                f"{path}: one text alone has the label {label!r}: none is left to test on. Give each label two at "
                "least, or a column split with train and test"
            )
        chosen = random.Random(f"{_SEED}:{label}")  # noqa: S311 - a repeatable draw, no secret
        test.update(chosen.sample(places, max(len(places) // _TEST_SHARE, 1)))
    return [i for i in range(len(labels)) if i not in test], sorted(test)


def _clustering(path: Path, options: dict[str, str]) -> ClusteringTask:
    table = _Table.read(path, options, "clustering", ("text", "label"), ("split",)).of_test()
    return ClusteringTask(f"clustering:{table.name}", tuple(table.strings("text")), tuple(table.strings("label")))


def _sts(path: Path, options: dict[str, str]) -> StsTask:
    table = _Table.read(path, options, "sts", ("sentence1", "sentence2", "score"), ("split",)).of_test()
    first, second = (tuple(table.strings(name)) for name in ("sentence1", "sentence2"))
    return StsTask(f"sts:{table.name}", first, second, tuple(table.numbers("score")))


def _pairs(path: Path, options: dict[str, str]) -> PairsTask:
    table = _Table.read(path, options, "pairs", ("sentence1", "sentence2"), ("label", "split")).of_test()
    first, second = (tuple(table.strings(name)) for name in ("sentence1", "sentence2"))
    alike = None
    if table.has("label"):
        labels = table.numbers("label")
        if wrong := set(labels) - {0.0, 1.0}:
            raise InvalidInput(f"{path}: the label of a pair is {min(wrong):g}, expected 0 or 1")
        alike = tuple(label == 1.0 for label in labels)
    return PairsTask(f"pairs:{table.name}", first, second, alike)


@dataclass(frozen=True)
class _Table:
    """The rows of a file, and which column is what."""

    path: Path
    rows: list[tuple[int, dict[str, Any]]]
    columns: Mapping[str, str]

    @classmethod
    def read(
        cls, path: Path, options: dict[str, str], kind: str, wanted: tuple[str, ...], optional: tuple[str, ...]
    ) -> _Table:
        names = (*wanted, *optional)
        columns = {name: options.pop(name, name) for name in names}
        given = {name for name in optional if columns[name] != name}
        _nothing_left(options, kind, names)
        if not path.is_file():
            raise InvalidInput(f"{path} {'is no file' if path.exists() else 'is not there'}; expected {kind}:FILE")
        rows = list(read_rows(_source(path), literal_tsv=True))
        if not rows:
            raise InvalidInput(f"{path} holds no rows")
        for name in (*wanted, *sorted(given)):
            line, row = next(((line, row) for line, row in rows if columns[name] not in row), (0, {}))
            if line:
                raise InvalidInput(
                    f"{path}:{line}: no column {columns[name]!r} (columns: {', '.join(map(repr, row)) or 'none'}); "
                    f"name it with {kind}:{path}?{name}=COLUMN"
                )
        return cls(path, rows, columns)

    @property
    def name(self) -> str:
        """The file's name without its endings."""
        return self.path.name.partition(".")[0] or self.path.name

    def has(self, name: str) -> bool:
        """Whether every row has it; some rows alone are a mistake."""
        having = sum(self.columns[name] in row for _, row in self.rows)
        if having not in (0, len(self.rows)):
            raise InvalidInput(f"{self.path}: {having} of {len(self.rows)} rows have {self.columns[name]!r}: give all")
        return bool(having)

    def of_test(self) -> _Table:
        """The rows of the split ``test``, where the file has splits."""
        if not self.has("split"):
            return self
        counts = Counter(self.strings("split"))
        if not counts["test"]:
            raise InvalidInput(f"{self.path}: no row has the split 'test', there are {sorted(counts)!r:.80}")
        kept = [(line, row) for line, row in self.rows if row[self.columns["split"]] == "test"]
        return _Table(self.path, kept, self.columns)

    def strings(self, name: str) -> list[str]:
        found = []
        for line, row in self.rows:
            value = row[self.columns[name]]
            if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
                raise InvalidInput(f"{self.path}:{line}: {self.columns[name]} is {value!r:.80}, expected text")
            found.append(str(value))
        return found

    def numbers(self, name: str) -> list[float]:
        found = []
        for line, row in self.rows:
            try:
                found.append(float(row[self.columns[name]]))
            except (TypeError, ValueError) as error:
                value = row[self.columns[name]]
                raise InvalidInput(
                    f"{self.path}:{line}: {self.columns[name]} is {value!r:.80}, expected a number"
                ) from error
        return found


def _source(path: Path) -> FileSource:
    return FileSource(path, path.name, kind_of(path), path.stat().st_size)


def _nothing_left(options: Mapping[str, str], kind: str, known: tuple[str, ...]) -> None:
    if options:
        raise InvalidInput(f"a {kind} task has no option {min(options)!r}; it has {', '.join(known)}")
