"""Bring a collection in step with files: write what is new or changed, then drop what vanished.

Every row carries the digest of the record it is a piece of, and how many pieces that record has. So a record is
unchanged exactly when all its pieces are there with its digest, and a run that was interrupted heals by repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mrl_retrieval.chunking import split_text
from mrl_retrieval.documents import canonical_json
from mrl_retrieval.encoder import Encoder
from mrl_retrieval.errors import EncoderRequired, InvalidInput, TextTooLongError

from .files import FileSource, Scope
from .owners import Owners, row_ids
from .reading import Position
from .records import Record, RecordOptions, read_records
from .state import BOOKKEEPING, StoredRows
from .target import Target

__all__ = ["BOOKKEEPING", "Counts", "Progress", "SyncOptions", "default_chunk_tokens", "sync"]

LARGEST_DEFAULT_CHUNK = 256
_FORMAT = 1  # of the bookkeeping; another number indexes everything again
_DELETE_BATCH = 1000


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """How files become rows."""

    records: RecordOptions = field(default_factory=RecordOptions)
    chunk: bool = True
    chunk_tokens: int | None = None
    """None: the encoder's context, at most 256."""
    batch_size: int = 256
    on_long: str = "truncate"
    """Only told apart here: another value gives other vectors."""

    @property
    def settings(self) -> str:
        """What makes other rows of the same text."""
        if self.chunk:
            return canonical_json({"format": _FORMAT, "chunk_tokens": self.chunk_tokens})
        return canonical_json({"format": _FORMAT, "on_long": self.on_long})


@dataclass(slots=True)
class Counts:
    """What a run did. Documents are records of jsonl and csv files, and whole text files."""

    files: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    dropped: int = 0
    """Documents that vanished."""
    empty: int = 0
    """Documents without text, which have no row."""
    duplicates: int = 0
    """Records without an id of their own that occur again in the same file."""
    chunks: int = 0
    """Rows written."""
    chunks_dropped: int = 0

    @property
    def documents(self) -> int:
        """Documents that were read and are in the collection now."""
        return self.new + self.changed + self.unchanged


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is."""

    phase: str
    """``"checking"`` or ``"indexing"``."""
    file: str
    done: int
    total: int
    """Bytes on disk, of ``total``."""
    counts: Counts


def default_chunk_tokens(encoder: Encoder) -> int:
    """The encoder's context, at most 256 tokens: longer pieces mix several matters in one vector."""
    return min(encoder.max_tokens or LARGEST_DEFAULT_CHUNK, LARGEST_DEFAULT_CHUNK)


def sync(
    retriever: Target,
    sources: Sequence[FileSource],
    scope: Scope,
    options: SyncOptions,
    report: Callable[[Progress], None] = lambda _: None,
) -> Counts:
    """Make the collection hold what the files hold.

    A file is read whole once before anything of it is written, so that one with a bad record changes nothing. New
    rows are written before old ones are dropped. Rows of files outside ``scope`` are not touched.

    Raises:
        InvalidInput: a record cannot be used (file and line in the message); what was written before stays.
        MRLError: as :meth:`~mrl_retrieval.MatryoshkaRetriever.index`.
    """
    with StoredRows() as stored:
        if retriever.manifest is not None:
            stored.load(retriever.backend)
        run = _Run(retriever, stored, sources, scope, options, report)
        for source in sources:
            run.file(source)
        run.write()
        for name in stored.sources():
            if name in scope and name not in run.names:
                run.drop(name)
    retriever.flush()
    return run.counts


class _Run:
    """One call of :func:`sync`."""

    def __init__(
        self,
        retriever: Target,
        stored: StoredRows,
        sources: Sequence[FileSource],
        scope: Scope,
        options: SyncOptions,
        report: Callable[[Progress], None],
    ) -> None:
        self.retriever, self.stored, self.options = retriever, stored, options
        self.names = frozenset(source.name for source in sources)
        self.counts = Counts()
        self._report = report
        self._total, self._done = sum(source.size for source in sources), 0
        self._pending: list[tuple[str, str, dict[str, Any]]] = []
        self._read_through: list[str] = []
        self._owners = Owners(stored, sources, scope, options.records)

    def file(self, source: FileSource) -> None:
        """Check it, and hand on what is new in it and what is gone from it, for :meth:`write`."""
        self.stored.start_file()
        self._owners.start_file(source)
        self._check(source)
        for record in self._read(source, "indexing"):
            if self.stored.first_line(record.key, record.line) != record.line:
                self.counts.duplicates += 1
            elif not record.text:
                self.counts.empty += 1
            else:
                if source.kind == "text":
                    self._refuse_long(source, record)
                self._record(source, record)
        self.counts.files += 1
        self._read_through.append(source.name)
        self._done += source.size

    def write(self) -> None:
        """Write the rows at hand, which may be of many files; then drop what these files no longer have."""
        if self._pending:
            ids, texts, metadatas = zip(*self._pending, strict=True)
            self.retriever.index(texts, ids=ids, metadatas=metadatas, batch_size=self.options.batch_size)
            self.counts.chunks += len(ids)
            self._pending = []
        for name in self._read_through:
            self.drop(name)
        self._read_through = []

    def drop(self, name: str) -> None:
        """Delete the rows of a file that this run does not keep."""
        ids, documents = self.stored.stale(name)
        for i in range(0, len(ids), _DELETE_BATCH):
            self.counts.chunks_dropped += self.retriever.delete(ids[i : i + _DELETE_BATCH])
        self.stored.forget(ids)
        self.counts.dropped += documents

    def _check(self, source: FileSource) -> None:
        """Read a file of records to its end, and refuse what cannot be written, or would overwrite what is not its."""
        if source.kind == "text":
            return  # one record: there is nothing before it that could have been written
        for record in self._read(source, "checking"):
            self._refuse_long(source, record)
            first = self.stored.first_line(record.key, record.line)
            if first != record.line:
                if record.own_id:
                    raise InvalidInput(
                        f"{source.path}:{record.line}: the id {record.key!r} is also on line {first}; choose another "
                        "field with --id, or --no-id to make ids from the content"
                    )
            elif record.text:
                # Texts are split twice only where the names of their pieces may be taken.
                split = self.options.chunk and self.stored.is_contested(source.name, record.key)
                self._owners.refuse_taken(source, record, len(self._pieces(record.text)) if split else 1)
        if self.options.chunk and (found := self.stored.ambiguous_key()):
            raise InvalidInput(
                f"{source.path}:{found[1]}: the id {found[0]!r} is the name that a chunk of another record gets; "
                "choose another field with --id, or --no-chunk"
            )

    def _refuse_long(self, source: FileSource, record: Record) -> None:
        """What ``on_long="error"`` says, before anything is written and with the line."""
        if self.options.chunk or self.options.on_long != "error":
            return
        encoder = self._encoder()
        limit = encoder.max_tokens
        if limit is not None and (tokens := encoder.count_tokens([record.text])[0]) > limit:
            raise TextTooLongError(
                f"{source.path}:{record.line}: the text has {tokens} tokens, the encoder takes {limit}; leave out "
                "--no-chunk, or choose --on-long truncate or chunk"
            )

    def _encoder(self) -> Encoder:
        encoder = self.retriever.encoder
        if encoder is None:
            raise EncoderRequired(
                "the encoder of this collection has no name, or its vectors were given; name one with --encoder"
            )
        return encoder

    def _read(self, source: FileSource, phase: str) -> Iterator[Record]:
        position = Position()
        for record in read_records(source, self.options.records, position):
            yield record
            done = self._done + min(position.bytes, source.size)
            self._report(Progress(phase, source.name, done, self._total, self.counts))

    def _record(self, source: FileSource, record: Record) -> None:
        digest = record.digest(self.options.settings)
        status = self.stored.status(source.name, record.key, digest)
        if status == "unchanged":
            self.stored.keep(source.name, record.key)
            self.counts.unchanged += 1
            return
        pieces = self._pieces(record.text)
        self._owners.refuse_taken(source, record, len(pieces))
        ids = row_ids(record.key, len(pieces))
        for number, (id, (text, start, end)) in enumerate(zip(ids, pieces, strict=True), start=1):
            own = {"record": record.key, "digest": digest, "chunk": number, "chunks": len(pieces)}
            metadata = {**record.metadata, "source": source.name, "start": start, "end": end, BOOKKEEPING: own}
            self.stored.claim(id, source.name, record.key, digest, len(pieces))
            self._pending.append((id, text, metadata))
            if len(self._pending) >= self.options.batch_size:
                self.write()
        if status == "new":
            self.counts.new += 1
        else:
            self.counts.changed += 1

    def _pieces(self, text: str) -> Sequence[tuple[str, int, int]]:
        if not self.options.chunk:
            return [(text, 0, len(text))]
        encoder = self._encoder()
        tokens = self.options.chunk_tokens or default_chunk_tokens(encoder)
        # An ASCII text has at most a token a character, and a few marks around them: that one fits without counting.
        if text.isascii() and len(text) <= tokens // 2:
            return [(text, 0, len(text))]
        return [(chunk.text, chunk.start, chunk.end) for chunk in split_text(text, tokens, encoder)]
