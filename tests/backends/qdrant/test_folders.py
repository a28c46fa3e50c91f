"""What both Qdrant backends do with a folder, and with several who use it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mrl_retrieval.documents import Row
from mrl_retrieval.errors import (
    BackendError,
    CollectionNotFound,
    ConflictError,
    MRLError,
    NotACollection,
)
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.registry import open_backend
from mrl_retrieval.two_stage import SearchRequest
from tests.backends.common import COARSE, DIM, batch_of, manifest, queries, random_rows
from tests.backends.nobody import reachable_folder, without_privileges
from tests.backends.qdrant.helpers import BACKENDS, TWO_STAGES, filled


@pytest.mark.parametrize("scheme", BACKENDS)
def test_opening_creates_nothing_and_takes_no_lock(scheme: str, tmp_path: Path) -> None:
    place = tmp_path / "kb"
    with open_backend(f"{scheme}:{place}") as backend:
        assert backend.read_manifest() is None
        assert backend.collections() == []
        backend.drop()
        backend.flush()
        assert not place.exists()
        with pytest.raises(CollectionNotFound):
            backend.count()
        assert not place.exists()


@pytest.mark.parametrize("scheme", BACKENDS)
def test_a_folder_of_something_else_is_refused(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(NotACollection, match="no folder of Qdrant|did not make it"):
        open_backend(f"{scheme}:{tmp_path}")
    with pytest.raises(NotACollection):
        open_backend(f"{scheme}:{tmp_path}/thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("scheme", BACKENDS)
def test_a_folder_without_permission(scheme: str) -> None:
    with reachable_folder() as reachable:
        made, closed = reachable / "made", reachable / "closed"
        with filled(f"{scheme}:{made}"):  # whatever is imported late is there now
            pass
        closed.mkdir(mode=0)
        marker = made / ("meta.json" if scheme == "qdrant" else "mrl-qdrant-edge.json")
        marker.chmod(0)
        with without_privileges():
            for path in (closed, closed / "kb", made):
                with pytest.raises(BackendError, match="is not allowed: no permission to .*/(closed|made)") as caught:
                    open_backend(f"{scheme}:{path}")
                assert isinstance(caught.value.__cause__, PermissionError)
        with open_backend(f"{scheme}:{reachable}/new") as before:
            reachable.chmod(0)
            with without_privileges():
                for call in (before.read_manifest, before.collections):
                    with pytest.raises(BackendError, match="is not allowed: no permission to enter"):
                        call()


@pytest.mark.parametrize("scheme", BACKENDS)
def test_a_path_that_no_system_takes(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / ("x" * 300), tmp_path / "loop"):
        with (
            pytest.raises(MRLError, match=r"too long|symbolic links|File exists"),
            open_backend(f"{scheme}:{path}") as backend,
        ):
            backend.write_manifest(manifest(), None)


@pytest.mark.parametrize("scheme", BACKENDS)
def test_a_manifest_is_read_again_while_others_go_by_it(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread must not see the moment between two manifests, and take the collection for gone."""
    seen = []
    loads = Manifest.loads
    with filled(f"{scheme}:", 3) as backend:
        kept = backend.manifest
        monkeypatch.setattr(Manifest, "loads", lambda text: (seen.append(backend._manifest), loads(text))[1])
        assert backend.read_manifest() == kept
        assert seen == [kept]


@pytest.mark.parametrize("scheme", BACKENDS)
def test_the_manifest_is_compared_and_set(scheme: str, tmp_path: Path) -> None:
    first = manifest()
    with open_backend(f"{scheme}:{tmp_path}/kb") as a, open_backend(f"{scheme}:{tmp_path}/kb") as b:
        a.write_manifest(first, None)
        with pytest.raises(ConflictError):
            b.write_manifest(manifest(), None)
        planned = first.with_plan({"coarse_top_k": 7})
        b.write_manifest(planned, first)
        with pytest.raises(ConflictError):
            a.write_manifest(first.with_plan({"coarse_top_k": 8}), first)
        assert a.read_manifest() == planned


@pytest.mark.parametrize("scheme", BACKENDS)
def test_threads_write_search_and_index_at_once(scheme: str, tmp_path: Path) -> None:
    rows = random_rows(600)
    failures: list[BaseException] = []
    with filled(f"{scheme}:{tmp_path}/kb") as backend:

        def work(part: int) -> None:
            try:
                mine = rows[part * 100 : part * 100 + 100]
                backend.upsert(batch_of(mine))
                for _ in range(5):
                    found = backend.search(SearchRequest(queries(2), TWO_STAGES))
                    assert all(len(ranking.rows) == 5 for ranking in found)
                    if part == 0:
                        backend.flush()
                assert backend.delete([mine[0].id]) == 1
            except BaseException as error:  # handed to the main thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(part,)) for part in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert backend.count() == 594


@pytest.mark.parametrize("scheme", BACKENDS)
def test_capabilities_and_stats(scheme: str, tmp_path: Path) -> None:
    with filled(f"{scheme}:", 4) as memory, filled(f"{scheme}:{tmp_path}/kb", 4) as folder:
        assert not memory.capabilities.persistent
        assert folder.capabilities.persistent
        assert folder.capabilities.server_side_funnel
        assert folder.capabilities.approximate_coarse == (scheme == "qdrant-edge")
        folder.upsert(batch_of([Row("bare", "text", {}, None)]))
        stats = folder.stats()
        assert (stats.rows, stats.vectors) == (5, 4)
        coarse = None if scheme == "qdrant-edge" else 4 * 4 * COARSE
        assert stats.bytes == {"coarse": coarse, "fine": 4 * 4 * (DIM + 12), "rows": None}


def test_what_is_quantised_where() -> None:
    with open_backend("qdrant-edge:") as edge, open_backend("qdrant:") as local:
        assert edge.capabilities.quantization == {"none", "scalar", "binary", "turbo"}
        assert local.capabilities.quantization == frozenset()
    with filled("qdrant-edge:", 1) as made:
        assert made.stats().details["coarse_quantization"] == "none"
    with open_backend("qdrant+http://localhost:6333") as server:
        assert server.capabilities.concurrent_writers
        assert server.capabilities.approximate_coarse
