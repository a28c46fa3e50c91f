"""What LanceDB raises comes out as this library's errors."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("lancedb", reason="lancedb is not installed: pip install 'mrl-retrieval[lancedb]'")


from lancedb.table import LanceTable

from mrl_adapters._lancedb import upkeep
from mrl_adapters.lancedb import LanceDBBackend
from mrl_retrieval.documents import RowBatch
from mrl_retrieval.errors import (
    BackendError,
)
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.lancedb.helpers import COARSE, DIM, batch, rows, vectors


class PanicException(BaseException):
    """Named as PyO3's, which is no Exception either."""


def failing(method: str, error: BaseException) -> Callable[..., Any]:
    """A method of LanceDB's that fails for a collection's rows, and not for the catalogue, which is read before."""
    works = getattr(LanceTable, method)

    def fail(self: LanceTable, *args: Any, **kwargs: Any) -> Any:
        if self.name.startswith("mrl-rows."):
            raise error
        return works(self, *args, **kwargs)

    return fail


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "remedy"),
        [
            (PanicException("index out of bounds"), "open the collection again"),
            (OSError(errno.ENOSPC, "No space left on device"), "make room"),
            (RuntimeError("lance error: LanceError(IO): ... No space left on device (os error 28)"), "make room"),
            (RuntimeError("lance error: ... Permission denied (os error 13)"), "give this process the right"),
            (ValueError("Invalid input, whatever"), "Invalid input, whatever"),
        ],
    )
    def test_lancedbs_errors_are_ours_with_its_words(
        self, memory: LanceDBBackend, monkeypatch: pytest.MonkeyPatch, error: BaseException, remedy: str
    ) -> None:
        memory.upsert(batch(rows(5)))
        asked = vectors(1, dim=COARSE)
        calls: list[tuple[str, str, Callable[[], object]]] = [
            ("merge_insert", "writing rows", lambda: memory.upsert(batch(rows(1)))),
            ("delete", "deleting rows", lambda: memory.delete(["id1"])),
            ("search", "reading rows", lambda: memory.get(["id1"])),
            ("search", "reading vectors", lambda: memory.fetch_vectors(["id1"])),
            ("search", "listing rows", lambda: list(memory.scan())),
            ("search", "searching", lambda: memory.coarse_search(asked, 3, None)),
            (
                "search",
                "searching",
                lambda: memory.search(SearchRequest(vectors(1), (Stage(COARSE, 3), Stage(DIM, 1)))),
            ),
            ("search", "searching exactly", lambda: memory.exact_search(vectors(1), 3, None)),
            ("checkout_latest", "looking for the newest version", lambda: memory.get(["id1"])),
            ("count_rows", "counting", memory.count),
            ("count_rows", "checking the filter", lambda: memory.resolve_filter(parse_filter({"i": {"$gt": 1}}))),
            ("stats", "counting", memory.stats),
            ("optimize", "tidying up", memory.flush),
        ]
        for method, doing, call in calls:
            memory.count()  # the table is known, so that what fails is the call itself
            with monkeypatch.context() as patch:
                patch.setattr(LanceTable, method, failing(method, error))
                with pytest.raises(BackendError, match=rf"^{doing}: .*{re.escape(remedy)}") as raised:
                    call()
            assert raised.value.__cause__ is error

    def test_an_interrupt_is_not_swallowed(self, memory: LanceDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*args: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(LanceTable, "count_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            memory.count()

    def test_a_commit_stands_when_tidying_up_fails(
        self, memory: LanceDBBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(self: upkeep.Upkeep) -> None:
            raise RuntimeError("no room for an index")

        monkeypatch.setattr(upkeep.Upkeep, "if_due", fail)
        memory.upsert(batch(rows(5)))
        assert memory.count() == 5 and "no room for an index" in caplog.text

    def test_after_close(self, memory: LanceDBBackend) -> None:
        memory.upsert(batch(rows(5)))
        memory.close()
        memory.close()
        with pytest.raises(BackendError, match="closed"):
            memory.count()

    def test_a_failed_batch_leaves_nothing(self, memory: LanceDBBackend) -> None:
        memory.upsert(batch(rows(5)))
        good = batch(rows(50, before="new"))
        wrong = RowBatch(
            good.ids, good.documents, [*good.metadatas[:-1], {"x": object()}], good.vectors, good.has_vector
        )
        with pytest.raises((BackendError, TypeError)):
            memory.upsert(wrong)
        assert memory.count() == 5
