"""The pointer from one generation to the next: set once, wherever a run stops, and a way back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, collection, errors, reindex, rollback
from mrl_retrieval.registry import open_backend
from tests.moving.sixty import TEXTS, Breaking, made, names


def test_many_generations(memory: str) -> None:
    for number, encoder in enumerate(["hashing:32", "hashing:48", "hashing:24"], 1):
        report = reindex(memory, encoder)
        assert report.generation == f"default.g{number}"
    assert names(memory) == ["default", "default.g2", "default.g3"]
    with open_backend(memory) as base:
        assert base.count() == 0
    assert rollback(memory) == "default.g2"
    with MatryoshkaRetriever.open(memory) as retriever:
        assert retriever.manifest is not None and retriever.manifest.dim == 48 and retriever.count() == 60
    for by in (f"{memory}?collection=default.g3", f"{memory}?collection=default.g2"):
        with MatryoshkaRetriever.open(by) as retriever:
            assert retriever.backend.address.collection == "default.g2"
    assert reindex(f"{memory}?collection=default.g2", "hashing:16").generation == "default.g4"
    assert names(memory) == ["default", "default.g2", "default.g4"]


def test_a_run_that_was_killed_in_its_last_pass(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl_retrieval.moving import reindexing

    monkeypatch.setattr(reindexing.Turn, "switch", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        reindex(memory, "hashing:32")
    with MatryoshkaRetriever.open(memory) as retriever:
        assert retriever.search(TEXTS[5], 1).ids == ["5"]
        with pytest.raises(errors.ConflictError, match="being reindexed"):
            retriever.index(["x"])
    assert rollback(memory) == "default"
    with MatryoshkaRetriever.open(memory) as retriever:
        retriever.index(["x"], ["x"])
    monkeypatch.undo()
    report = reindex(memory, "hashing:32")
    assert (report.rows, report.encoded) == (61, 1)


def test_somebody_elses_collection_with_the_name_of_a_generation(memory: str) -> None:
    with MatryoshkaRetriever(None, f"{memory}?collection=default.g1") as other:
        other.index(["theirs"], ["theirs"], vectors=np.ones((1, 4)))
    assert reindex(memory, "hashing:32").generation == "default.g2"
    reindex(memory, "hashing:48")
    reindex(memory, "hashing:24")
    assert "default.g1" in names(memory)


def test_a_run_that_is_called_off_does_not_switch(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl_retrieval.moving import switching

    bring = switching.bring_over

    def called_off(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("to_the_end", True):
            assert rollback(memory) == "default"
            with MatryoshkaRetriever.open(memory) as user:
                user.index(["late"], ["late"])
        return bring(*args, **kwargs)

    monkeypatch.setattr(switching, "bring_over", called_off)
    with pytest.raises(errors.ConflictError, match="called off"):
        reindex(memory, "hashing:32")
    with MatryoshkaRetriever.open(memory) as retriever:
        assert retriever.get(["late"])[0] is not None


def test_readers_of_a_generation_that_was_taken_away(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "_LOOK_AGAIN", 0)
    reader = MatryoshkaRetriever.open(memory)
    reindex(memory, "hashing:32")
    assert len(reader.search(TEXTS[0], 3)) == 3
    reindex(memory, "hashing:48")
    with pytest.raises(errors.ConflictError, match="open it again"):
        reader.search(TEXTS[0], 3)
    with pytest.raises(errors.ConflictError, match="open it again"):
        reader.copy_to("memory:")


def test_stopped_just_before_the_switch(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl_retrieval.moving import reindexing

    monkeypatch.setattr(reindexing.Turn, "switch", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        reindex(memory, "hashing:32")
    monkeypatch.undo()
    report = reindex(memory, "hashing:32")
    assert (report.generation, report.encoded, report.rows) == ("default.g1", 0, 60)


def test_stopped_just_after_the_switch(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run again, it clears up, encodes nothing, and keeps the generation before for a rollback."""
    from mrl_retrieval.moving import switching

    reindex(memory, "hashing:32")
    reindex(memory, "hashing:24")
    monkeypatch.setattr(switching, "clear_up", lambda base, current, options: stop(current))

    def stop(current: Any) -> None:
        if current.address.collection == "default.g3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reindex(memory, "hashing:48")
    monkeypatch.undo()
    assert names(memory) == ["default", "default.g1", "default.g2", "default.g3"]
    with open_backend(f"{memory}?collection=default.g2") as before:
        assert before.manifest.frozen == "default.g3"
    report = reindex(memory, "hashing:48")
    assert (report.untouched, report.generation, report.previous, report.rows, report.encoded) == (
        True,
        "default.g3",
        "default.g2",
        60,
        0,
    )
    with open_backend(f"{memory}?collection=default.g2") as before:
        assert (before.manifest.frozen, before.manifest.moved_to) == (None, "default.g3")
    assert rollback(memory) == "default.g2"
    with MatryoshkaRetriever.open(memory) as retriever:
        retriever.index(["writable"], ["w"])
        assert retriever.count() == 61


def test_older_generations_are_cleared_by_the_run_after_an_interrupted_one(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mrl_retrieval.moving import reindexing, switching

    reindex(memory, "hashing:32")
    for module in (reindexing, switching):
        monkeypatch.setattr(module, "clear_up", lambda *_: None)
    reindex(memory, "hashing:24")
    reindex(memory, "hashing:48")
    assert names(memory) == ["default", "default.g1", "default.g2", "default.g3"]
    monkeypatch.undo()
    assert reindex(memory, "hashing:48").untouched
    assert names(memory) == ["default", "default.g2", "default.g3"]
    with open_backend(memory) as base:
        assert base.count() == 0


def test_a_generation_in_use_that_was_dropped(memory: str) -> None:
    """Its collection says so, and the one before it is there to go back to."""
    reindex(memory, "hashing:32")
    with open_backend(f"{memory}?collection=default.g1") as one:
        one.drop()
    for use in (
        lambda: MatryoshkaRetriever.open(memory),
        lambda: MatryoshkaRetriever("hashing:32", memory),
        lambda: reindex(memory, "hashing:48"),
    ):
        with pytest.raises(errors.CollectionNotFound, match=r"'default\.g1', which was dropped: go back"):
            use()
    assert rollback(memory) == "default"
    with MatryoshkaRetriever.open(memory) as retriever:
        assert retriever.count() == 60 and retriever.search(TEXTS[3], 1).ids == ["3"]
    with pytest.raises(errors.ConflictError, match="no generation before"):
        rollback(memory)
    for encoder in ("hashing:32", "hashing:48"):
        reindex(memory, encoder)
    with open_backend(f"{memory}?collection=default.g2") as two:
        two.drop()
    assert rollback(memory) == "default.g1"
    with MatryoshkaRetriever.open(memory) as retriever:
        retriever.index(["writable"], ["w"])
        assert retriever.count() == 61


@pytest.mark.parametrize("length", [57, 58, 63])
def test_long_names(place: str, length: int) -> None:
    name = ("long-" * 13)[: length - 1] + "x"
    base, other = f"{place}?collection={name}", f"{place}?collection={'y' + name[1:]}"
    for address in (base, other):
        made(address)
        reindex(address, "hashing:32")
        reindex(address, "hashing:48")
    assert len(names(place)) == 6 and max(map(len, names(place))) <= 63
    assert rollback(base).endswith(".g1")
    with MatryoshkaRetriever.open(base) as retriever:
        assert retriever.count() == 60 and retriever.manifest is not None and retriever.manifest.dim == 32


def test_a_collection_made_again_is_a_stranger(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "_LOOK_AGAIN", 0)
    made(place)
    with MatryoshkaRetriever.open(place) as stale:
        with open_backend(place) as backend:
            backend.read_manifest()
            backend.drop()
        made(place)
        for call in (
            lambda: stale.index(["x"], ["x"]),
            lambda: stale.delete(["1"]),
            lambda: stale.search("x"),
            lambda: stale.get(["1"]),
            stale.count,
        ):
            with pytest.raises(errors.CollectionError):
                call()
    with MatryoshkaRetriever.open(place) as retriever:
        assert retriever.count() == 60


def test_a_rollback_during_the_first_passes_calls_the_run_off(memory: str) -> None:
    """What is written afterwards, in whichever generation, is not lost to the end of the run."""
    for encoder in ("hashing:24", "hashing:48"):
        reindex(memory, encoder)
    rolled_back: list[str] = []

    def meanwhile(done: int, total: int | None) -> None:
        if not rolled_back:
            rolled_back.extend([rollback(memory), rollback(memory)])
            with MatryoshkaRetriever.open(memory) as user:
                user.index(["precious"], ["precious"])

    with pytest.raises(errors.ConflictError, match="not in 'default.g2' any more"):
        reindex(memory, "hashing:32", progress=meanwhile, batch_size=8)
    assert rolled_back == ["default.g2", "default.g1"]
    with MatryoshkaRetriever.open(memory) as retriever:
        assert retriever.backend.address.collection == "default.g1" and retriever.get(["precious"]) != [None]
    assert rollback(memory) == "default.g2"
    assert reindex(memory, "hashing:32").rows == 60


def test_a_run_that_is_called_off_leaves_room_for_another_encoder(memory: str) -> None:
    with pytest.raises(errors.EncoderError):
        reindex(memory, Breaking(32), batch_size=8)
    with pytest.raises(errors.ConflictError, match="call it off"):
        reindex(memory, "hashing:48")
    assert rollback(memory) == "default"
    report = reindex(memory, "hashing:48")
    assert (report.generation, report.rows) == ("default.g2", 60)
    assert names(memory) == ["default", "default.g2"]


def test_a_run_that_is_called_off_leaves_room_for_other_dims(memory: str) -> None:
    with pytest.raises(errors.EncoderError):
        reindex(memory, Breaking(32), batch_size=8)
    with pytest.raises(errors.CollectionMismatchError, match="fine_dims"):
        reindex(memory, "hashing:32", fine_dims=16)
    assert rollback(memory) == "default"
    assert reindex(memory, "hashing:32", fine_dims=16).generation == "default.g2"


def test_a_run_that_looked_before_another_had_finished(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not take on a generation that has come to be the current one."""
    from mrl_retrieval.moving import reindexing

    with pytest.raises(errors.EncoderError):
        reindex(memory, Breaking(32), batch_size=8)
    count = reindexing._count_texts

    def slowly(current: Any) -> tuple[int, int]:
        monkeypatch.setattr(reindexing, "_count_texts", count)
        assert reindex(memory, "hashing:32").generation == "default.g1"
        with MatryoshkaRetriever.open(memory) as user:
            user.index(["precious", "changed"], ["precious", "1"])
            user.delete(["2"])
        return count(current)

    monkeypatch.setattr(reindexing, "_count_texts", slowly)
    with pytest.raises(errors.ConflictError, match="not in 'default' any more"):
        reindex(memory, "hashing:32")
    with MatryoshkaRetriever.open(memory) as retriever:
        assert retriever.count() == 60
        assert [row and row.document for row in retriever.get(["precious", "1", "2"])] == ["precious", "changed", None]


def test_a_run_that_is_overtaken_in_its_last_pass(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl_retrieval.moving import switching

    bring = switching.bring_over

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("to_the_end", True):
            monkeypatch.setattr(switching, "bring_over", bring)
            assert reindex(memory, "hashing:32").encoded == 0
            with MatryoshkaRetriever.open(memory) as user:
                user.index(["precious"], ["precious"])
        return bring(*args, **kwargs)

    monkeypatch.setattr(switching, "bring_over", overtaken)
    with pytest.raises(errors.ConflictError, match="not in 'default' any more"):
        reindex(memory, "hashing:32")
    with MatryoshkaRetriever.open(memory) as retriever:
        assert retriever.get(["precious"]) != [None] and retriever.count() == 61
