"""Connections to PostgreSQL: a few kept open, one for each call at a time, each call a transaction.

A connection that waits here is looked at before it is used: what a server says to an idle connection is that it ends.
So the call after a restart makes a new connection, without asking the server first on every call.
"""

from __future__ import annotations

import selectors
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.waiting import Ready

from mrl_retrieval.address import Address
from mrl_retrieval.errors import BackendError, BackendUnavailable
from mrl_retrieval.storage import forks

from .errors import Errors, NoAnswer
from .options import Options, libpq_parameters, secrets_of
from .values import Binary, BinaryDumper

__all__ = ["Connections", "Statement"]

T = TypeVar("T")
Row = tuple[Any, ...]

_GRACE_SECONDS = 5.0
"""The server ends a statement that takes too long; if it cannot even do that, we stop waiting this much later."""

_ONLY_ON_DEMAND = 2**31
"""psycopg prepares a statement that came so often; None would keep it from preparing any at all."""

_SET = sql.SQL("set_config({name}, {value}, TRUE)")


@dataclass(frozen=True)
class Statement:
    """One statement and its parameters."""

    text: sql.SQL | sql.Composed | bytes
    parameters: Mapping[str, Any] | None = None
    prepare: bool = False
    """It will come again: the server is to parse it once for each connection."""


class _Connection(psycopg.Connection[Row]):
    """Does not wait for ever for a server that has stopped in its tracks."""

    patience = float("inf")

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        try:
            return super().wait(_with_patience(gen, self.patience), *args, **kwargs)
        except NoAnswer:
            self.close()  # else the end of the transaction would wait as long again
            raise


def _with_patience(gen: PQGen[T], seconds: float) -> PQGen[T]:
    """The same, but it fails when nothing happened for so long. psycopg says now and then that nothing did."""
    try:
        wanted = next(gen)
        until = time.monotonic() + seconds
        while True:
            ready = yield wanted
            now = time.monotonic()
            if ready != Ready.NONE:
                until = now + seconds
            elif now > until:
                raise NoAnswer
            wanted = gen.send(ready)
    except StopIteration as stop:
        result: T = stop.value
        return result


class Connections:
    """The connections of one backend. Thread-safe; nothing is connected before the first call."""

    def __init__(self, address: Address, options: Options) -> None:
        self._address = address
        self._options = options
        self._parameters = parameters = libpq_parameters(address, options)
        self._errors = Errors(address, options.timeout, lambda: secrets_of(parameters))
        self._inherited: list[_Connection] = []
        self._closed = False
        self._start()
        forks.register(self)

    def _start(self) -> None:
        """Without a connection."""
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(self._options.pool_size)
        self._idle: list[_Connection] = []
        self._at_the_end = weakref.finalize(self, _close_all, self._idle)

    def after_fork(self) -> None:
        """In a child process the idle connections are the parent's: one socket cannot serve two processes."""
        self._inherited += self._idle  # kept, because closing them would end the parent's sessions
        self._at_the_end.detach()
        self._start()

    def ask(
        self, doing: str, statements: Sequence[Statement], settings: Mapping[str, str], *, writing: bool = False
    ) -> list[list[Row]]:
        """Run statements in one transaction and one round trip: the rows of each.

        Args:
            doing: what this is for, as messages put it ("PostgreSQL refused *doing*").
            statements: what to run, in this order.
            settings: server settings for this transaction alone.
            writing: the transaction is READ COMMITTED, whatever the server's default. Without, it needs no statements
                of its own: what is sent together in a pipeline is one.

        Raises:
            MRLError: see :class:`~mrl_adapters._pgvector.errors.Errors`.
        """
        cursors = []
        with self._connection(doing) as connection:
            with connection.pipeline(), connection.transaction() if writing else nullcontext():
                setting = self._setting(settings)
                for statement in (setting, *statements):
                    cursors.append(connection.cursor(binary=True))
                    cursors[-1].execute(statement.text, statement.parameters, prepare=statement.prepare)
                    # Else the server keeps what it has to say until the end, and seems to stand still so long.
                    connection.pgconn.send_flush_request()
            return [cursor.fetchall() if (r := cursor.pgresult) and r.nfields else [] for cursor in cursors[1:]]

    def transact(self, doing: str, work: Callable[[psycopg.Connection[Row]], T]) -> T:
        """Run ``work`` in a transaction."""
        with self.transaction(doing, {}) as connection:
            return work(connection)

    @contextmanager
    def transaction(self, doing: str, settings: Mapping[str, str]) -> Iterator[psycopg.Connection[Row]]:
        """A connection in a transaction, with server settings for it alone."""
        with self._connection(doing) as connection, connection.transaction():
            setting = self._setting(settings)
            connection.execute(setting.text, setting.parameters)
            yield connection

    def _setting(self, settings: Mapping[str, str]) -> Statement:
        """The statement that sets what holds for one transaction."""
        milliseconds = max(1, round(self._options.timeout * 1000))
        # One plan for all filters would be a bad one for most: only the parsing is to be saved.
        values = {"statement_timeout": str(milliseconds), "plan_cache_mode": "force_custom_plan", **settings}
        return Statement(_set_all(tuple(values)), values, prepare=True)

    @contextmanager
    def _connection(self, doing: str) -> Iterator[_Connection]:
        if not self._free.acquire(timeout=self._options.timeout):
            raise BackendUnavailable(
                f"all {self._options.pool_size} connections to {self._address} were busy for timeout="
                f"{self._options.timeout} s; raise pool_size="
            )
        try:
            with self._errors.mapped(doing):
                connection = self._idle_one() or self._connect()
                try:
                    yield connection
                except psycopg.Error:
                    connection.close()  # a statement that failed may have left the server a name that psycopg forgot
                    raise
                finally:
                    self._give_back(connection)
        finally:
            self._free.release()

    def _connect(self) -> _Connection:
        threshold = _ONLY_ON_DEMAND if self._options.prepare else None
        connection = _Connection.connect("", autocommit=True, prepare_threshold=threshold, **self._parameters)
        connection.patience = self._options.timeout + _GRACE_SECONDS
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        connection.adapters.register_dumper(Binary, BinaryDumper)
        return connection

    def _idle_one(self) -> _Connection | None:
        while True:
            with self._lock:
                if self._closed:
                    raise BackendError(f"{self._address} was closed; open it again")
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if not _has_news(connection):
                return connection
            connection.close()

    def _give_back(self, connection: _Connection) -> None:
        """Keep it for the next call, unless it is in a state that nobody knows."""
        idle = not connection.closed and connection.info.transaction_status == TransactionStatus.IDLE
        with self._lock:
            if idle and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their call ends."""
        with self._lock:
            self._closed = True
            _close_all(self._idle)


@lru_cache(maxsize=64)
def _set_all(names: tuple[str, ...]) -> bytes:
    calls = [_SET.format(name=name, value=sql.Placeholder(name)) for name in names]
    return (sql.SQL("SELECT ") + sql.SQL(", ").join(calls)).as_bytes(None)


def _has_news(connection: _Connection) -> bool:
    """Whether the server said something to a connection that asked nothing, or hung up."""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            return bool(selector.select(timeout=0))
    except (psycopg.Error, ValueError, OSError):
        return True


def _close_all(connections: list[_Connection]) -> None:
    while connections:
        connections.pop().close()
