"""Every error of psycopg and PostgreSQL, as ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors

from mrl_retrieval.address import Address
from mrl_retrieval.errors import BackendError, BackendUnavailable, CollectionNotFound, LockTimeout, MRLError

__all__ = ["Errors", "NoAnswer"]

# A refused connection has no SQLSTATE, only words; these are of a server that is there and will take us later.
_LATER = ("starting up", "shutting down", "recovery mode", "too many clients", "connection slots are reserved",
          "too many connections", "not yet accepting connections", "terminating connection")  # fmt: skip

# These come from libpq on our side, and no waiting mends them.
_OURS_TO_MEND = ("no password supplied", "does not support SSL", "certificate", "private key", "sslmode", " value: \"",
                 "invalid integer value", "invalid port number", "definition of service")  # fmt: skip


class NoAnswer(Exception):
    """Nothing came from the server for longer than it was given."""


class Errors:
    """Maps errors, for one place."""

    def __init__(self, address: Address, timeout: float, secrets: Callable[[], list[str]]) -> None:
        self._address = address
        self._timeout = timeout
        self._secrets = secrets

    @contextmanager
    def mapped(self, doing: str) -> Iterator[None]:
        """Run a block.

        Raises:
            BackendUnavailable: no connection, a connection lost, an answer too late, a conflict of two writers.
            CollectionNotFound: the table was dropped meanwhile.
            BackendError: the server refused.
        """
        try:
            yield
        except MRLError:
            raise
        except NoAnswer as error:
            raise BackendUnavailable(
                f"no answer from {self._where} while {doing} in timeout={self._timeout} s; is it overloaded, or "
                "does it need longer?"
            ) from error
        except psycopg.Error as error:
            raise self.error(doing, error) from error

    def error(self, doing: str, error: psycopg.Error) -> MRLError:
        """Ours for one of psycopg's."""
        words = self._words(error)
        said = f"{self._where} refused {doing}: {words}"
        state = error.sqlstate or ""
        match error:
            case errors.QueryCanceled():
                return BackendUnavailable(
                    f"{self._where} stopped {doing} ({words}); ask for less at once, or raise timeout={self._timeout}"
                )
            case errors.LockNotAvailable():
                return LockTimeout(f"{said}; somebody else holds the table: repeat the call later")
            case errors.DeadlockDetected() | errors.SerializationFailure():
                return BackendUnavailable(f"{said}; another writer came first: repeat the call")
            case errors.UndefinedTable() | errors.InvalidSchemaName():
                return CollectionNotFound(
                    f"there is no collection at {self._address}; it was dropped, or index something first ({words})"
                )
            case errors.InvalidSqlStatementName() | errors.DuplicatePreparedStatement():
                return BackendError(
                    f"{said}; a pooler between us gives each transaction another connection: open with prepare=False, "
                    "or let it keep prepared statements"
                )
            case errors.InsufficientPrivilege():
                return BackendError(f"{said}; have the right granted, or connect as another user=")
            case errors.ReadOnlySqlTransaction():
                return BackendError(f"{said}; this is a replica, or a read-only database: connect to the primary")
            case errors.DiskFull():
                return BackendError(
                    f"{said}; make room on the server's disk, then repeat the call: nothing was written"
                )
            case errors.OutOfMemory():
                return BackendError(f"{said}; write smaller batches, or raise the server's memory settings")
            case _ if state[:2] in ("08", "57") or state == "53300":
                return self._unavailable(doing, words)
            case psycopg.OperationalError() if not state:
                # Lost connections, and connections that were refused, which only their words tell apart.
                if "FATAL:" in words and not any(each in words for each in _LATER):
                    return BackendError(
                        f"{self._where} refused the connection: {words}; check the user and the password (options "
                        "user= and password=, PGUSER, PGPASSWORD, ~/.pgpass) and the database's name"
                    )
                if any(each in words for each in _OURS_TO_MEND):
                    return BackendError(
                        f"no connection to {self._where}: {words}; check password=, sslmode=, connection= and the "
                        "certificates"
                    )
                return self._unavailable(doing, words)
        return BackendError(said)

    def _unavailable(self, doing: str, words: str) -> BackendUnavailable:
        return BackendUnavailable(
            f"no answer from {self._where} while {doing} ({words}); is it running, are host and port right?"
        )

    @property
    def _where(self) -> str:
        return f"PostgreSQL at {self._address}"

    def _words(self, error: psycopg.Error) -> str:
        diagnosis = error.diag
        parts = [diagnosis.message_primary, diagnosis.message_detail, diagnosis.message_hint]
        words = "; ".join(part for part in parts if part) or " ".join(str(error).split()) or type(error).__name__
        for secret in self._secrets():
            words = words.replace(secret, "***")
        return words
