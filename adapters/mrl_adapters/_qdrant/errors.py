"""Every error that Qdrant's client can raise, as one of ours, with the server's own words and what to do.

A collection in strict mode refuses what its settings forbid; the message then names the setting.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from mrl_retrieval.address import Address
from mrl_retrieval.errors import (
    BackendError,
    BackendUnavailable,
    CollectionNotFound,
    ConflictError,
    LockTimeout,
    MRLError,
)

__all__ = ["API_KEY_VARIABLE", "Failures", "forbids_exact"]

API_KEY_VARIABLE = "MRL_QDRANT_API_KEY"

_HTTP_STATUS = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
}

_NO_EXACT = "search_allow_exact"
# What a strict-mode refusal says, the setting behind it, and what a user of this library can do.
_STRICT_MODE = (
    ('"limit"', "max_query_limit", "ask with smaller coarse_top_k and top_k"),
    ('"hnsw_ef"', "search_max_hnsw_ef", "pass a smaller hnsw_ef="),
    ('"oversampling"', "search_max_oversampling", "pass a smaller oversampling="),
    ('"search batch size"', "search_max_batchsize", "search with fewer queries in one call"),
    ("Exact search", _NO_EXACT, "search without exact=True"),
    ("Index required", "unindexed_filtering_retrieve", "name the field in index_fields= and call repair()"),
    ("ondition limit", "filter_max_conditions", "use a filter of fewer conditions"),
    ("ondition size", "condition_max_size", "use a filter that lists fewer values, or is pushed down"),
    ('"upsert', "upsert_max_batchsize", "index with a smaller batch_size="),
    ("payload indi?[ce]e?", "max_payload_index_count", "name fewer index_fields="),
    ("vector storage size", "max_collection_vector_size_bytes", "delete rows"),
    ("payload storage size", "max_collection_payload_size_bytes", "delete rows"),
    ("points count", "max_points_count", "delete rows"),
    ("memory usage", "max_resident_memory_percent", "delete rows"),
)


@dataclass(frozen=True)
class Failures:
    """Maps the errors of one connection."""

    address: Address
    timeout: int
    lock_timeout: float
    secret: str | None = field(default=None, repr=False)

    @contextmanager
    def mapped(self, doing: str) -> Iterator[None]:
        """Turn what Qdrant's client raises into an :class:`~mrl_retrieval.errors.MRLError`.

        Args:
            doing: what fails, as in "Qdrant refused writing rows".
        """
        try:
            yield
        except MRLError:
            raise
        except UnexpectedResponse as error:
            raise self._refused(doing, error.status_code, _words(error)) from error
        except ResponseHandlingException as error:
            if isinstance(error.source, httpx.HTTPError):
                raise self._unreachable(doing, error.source) from error
            raise self._failed(doing, error.source) from error
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
            words = error.details() if isinstance(error, grpc.Call) else str(error)
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise self._unreachable(doing, words) from error
            raise self._refused(doing, _HTTP_STATUS.get(code), words or code.name) from error
        except QdrantException as error:
            raise self._refused(doing, 429, str(error)) from error
        except (ApiException, ValueError, RuntimeError, OSError, sqlite3.Error) as error:
            if not self.address.url and str(error).startswith("Collection") and str(error).endswith("not found"):
                raise self._gone() from error
            raise self._failed(doing, error) from error

    def _refused(self, doing: str, status: int | None, words: str) -> MRLError:
        said = f"Qdrant at {self.address.url} refused {doing}: {self._masked(words)}"
        if status in (401, 403):
            return BackendError(f"{said}; pass the right key as api_key= or in {API_KEY_VARIABLE}")
        if status == 404 and "ollection" in words:
            return self._gone()
        if status == 409:
            return ConflictError(f"{said}; somebody else made it meanwhile: read the manifest again and repeat")
        if status == 413:
            return BackendError(f"{said}; ask for fewer rows, queries or ids at once")
        if status in (429, 502, 503, 504):
            return BackendUnavailable(f"{said}; it is too busy or not up yet: repeat the call later")
        if "Help:" in words or "storage size limit" in words:  # how strict mode words it
            return BackendError(f"{said} {_strict_mode(words)}")
        return BackendError(said)

    def _unreachable(self, doing: str, cause: object) -> BackendError:
        words = self._masked(str(cause)) or type(cause).__name__
        if "CERTIFICATE_VERIFY_FAILED" in words:
            return BackendError(
                f"the certificate of Qdrant at {self.address.url} is not trusted ({words}); give the path of its CA "
                "certificate as verify="
            )
        return BackendUnavailable(
            f"no answer from Qdrant at {self.address.url} while {doing} ({words}); is it running, is the port right, "
            f"does it need more than timeout={self.timeout} s?"
        )

    def _failed(self, doing: str, error: object) -> BackendError:
        return BackendError(
            f"Qdrant failed while {doing} at {self.address}: {self._masked(str(error)) or type(error).__name__}"
        )

    def _gone(self) -> CollectionNotFound:
        return CollectionNotFound(f"there is no collection at {self.address}; it was dropped, or index something first")

    def _masked(self, text: str) -> str:
        return text.replace(self.secret, "***") if self.secret else text

    def held(self) -> LockTimeout:
        """Another process has the folder of local mode."""
        return LockTimeout(
            f"another process has {self.address} open, and did not close it within lock_timeout="
            f"{self.lock_timeout} s. Qdrant's local mode gives a folder to one process at a time, readers "
            "included: close the other one, wait longer, or run a Qdrant server and use qdrant+http://host:6333"
        )


def forbids_exact(error: BackendError) -> bool:
    """Whether an error of :class:`Failures` is strict mode's refusal of ``exact``."""
    return f"This is {_NO_EXACT} " in str(error)


def _strict_mode(words: str) -> str:
    """Which setting of strict mode forbids it, and what to do."""
    for said, setting, remedy in _STRICT_MODE:
        if re.search(said, words):
            return f"This is {setting} of the collection's strict mode: {remedy}, or have the setting raised"
    return "This is the collection's strict mode: ask for less, or have its settings raised"


def _words(error: UnexpectedResponse) -> str:
    """The server's own sentence, out of the JSON around it."""
    try:
        said = json.loads(error.content)["status"]["error"]
    except (ValueError, KeyError, TypeError):
        said = error.content.decode(errors="replace")[:500] or error.reason_phrase
    return f"{error.status_code} {said}"
