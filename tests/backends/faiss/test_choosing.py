"""Which structure the index gets, when it gets another one, and that searches and rows are safe meanwhile."""

import errno
import json
import logging
import threading

import numpy as np
import pytest

from mrl_adapters._faiss import choosing
from mrl_retrieval.errors import InvalidInput, MemoryBudgetError
from tests.backends.common import queries
from tests.backends.faiss.helpers import COARSE, exact, folder, ids_of, rows, two_stages, vectors_of


@pytest.fixture
def small(monkeypatch):
    """What is chosen from 10,000 and 40,000 vectors on, is chosen from 100 and 400 on."""
    monkeypatch.setattr(choosing, "_EXACT_ROWS", 100)
    monkeypatch.setattr(choosing, "_IVF_ROWS", 400)
    monkeypatch.setattr(choosing, "_LEAST_PER_LIST", 8)


def filled(kb, n, start=0, dim=None):
    kb.upsert(rows([f"d{i:05}" for i in range(start, start + n)], vectors_of(n, seed=start)))


def kind(backend):
    return backend.stats().details["index"]


def settled(backend):
    """Wait for what is being made in the background."""
    backend._index.choose_if_due()
    return backend


def recall(backend, candidates=300):
    asked = queries(20, seed=99)
    truth = ids_of(backend.search(exact(asked, 10)))
    found = ids_of(backend.search(two_stages(asked, 10, candidates)))
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(truth, found, strict=True)])


def test_small_collections_are_compared_exactly(kb, small):
    filled(kb, 100)
    settled(kb)
    assert kind(kb) == "flat, exact"


def test_it_grows_from_flat_to_codes_to_lists(kb, small, monkeypatch, opened, address):
    # Here a scan of all takes no time: what is measured must not decide.
    monkeypatch.setattr(choosing, "_WORTH", 1e9)
    filled(kb, 100)
    settled(kb)
    filled(kb, 50, 100)
    assert kind(settled(kb)) == "flat, 4-bit codes"
    filled(kb, 500, 150)
    assert kind(settled(kb)) == "ivf, 4-bit codes"
    details = kb.stats().details
    assert "lists find on" in details["why"] and details["lists"] > 1
    lists = details["lists"]
    assert recall(kb) > 0.85
    filled(kb, 1000, 650)  # not yet fourfold
    assert settled(kb).stats().details["lists"] == lists
    filled(kb, 1200, 1650)
    assert settled(kb).stats().details["lists"] > lists
    kb.close()
    again = opened(address)
    again.read_manifest()
    assert kind(again) == "ivf, 4-bit codes"
    all_lists = opened(address, probes=10**6)
    all_lists.read_manifest()
    assert recall(again) > 0.97 * recall(all_lists)
    assert again.stats().details["why"].endswith("of its time")
    assert again.verify().ok


def test_lists_that_are_no_faster_are_not_taken(kb, small, monkeypatch):
    monkeypatch.setattr(choosing, "_WORTH", 0.0)
    filled(kb, 600)
    assert kind(settled(kb)) == "flat, 4-bit codes"
    assert "lists find" in kb.stats().details["why"]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ("flat", "flat, 4-bit codes"),
        ("ivf", "ivf, 4-bit codes"),
        ("hnsw", "hnsw, 8 bits"),
        ("graph", "graph, SymphonyQG"),
    ],
)
def test_what_is_asked_for_is_made(opened, address, manifest, small, index, expected):
    kb = opened(address, index=index)
    kb.write_manifest(manifest, None)
    filled(kb, 500)
    assert kind(settled(kb)) == expected
    assert recall(kb) > 0.9
    kb.delete([f"d{i:05}" for i in range(0, 500, 3)])
    assert recall(kb) > 0.9
    kb.flush()
    kb.close()
    other = opened(address)
    other.read_manifest()
    assert recall(other) > 0.9
    assert kind(other) == expected


def test_a_wish_is_kept_until_there_is_another(kb, small, opened, address):
    filled(kb, 500)
    kb.optimize(index="hnsw", memory_budget=10**8)
    kb.close()
    again = opened(address)
    again.read_manifest()
    filled(again, 1600, 500)
    settled(again)
    assert kind(again) == "hnsw, 8 bits" and again._index._coarse.chosen["memory_budget"] == 10**8
    again.optimize()
    assert kind(again) == "hnsw, 8 bits"
    again.optimize(index="auto")
    assert kind(again) != "hnsw, 8 bits"


def test_a_graph_that_has_dropped_places_is_made_again_before_it_is_kept(kb, small, opened, address):
    filled(kb, 600)
    kb.optimize(index="hnsw")
    kb.delete([f"d{i:05}" for i in range(0, 600, 2)])
    filled(kb, 40, 600)
    kb.compact()
    asked = two_stages(vectors_of(3, 9), 5, 600)
    before = ids_of(kb.search(asked))
    kb.flush()
    kb.close()
    again = opened(address)
    again.read_manifest()
    assert ids_of(again.search(asked)) == before and kind(again) == "hnsw, 8 bits"
    assert again.verify().ok


def test_another_wish_makes_another_index(kb, small, opened, address):
    filled(kb, 500)
    kb.flush()
    kb.close()
    graph = opened(address, index="hnsw")
    graph.read_manifest()
    assert kind(settled(graph)) == "hnsw, 8 bits"


def test_lists_that_are_asked_for_are_measured_too(kb, small):
    filled(kb, 600)
    choice = kb.optimize(index="ivf")
    assert "lists a search keep" in choice.why
    assert kb.stats().details["margin"] > 0
    assert recall(kb) >= 0.97 * recall(kb, 600 // 2)


def test_lists_that_were_asked_for_are_used_without_numba(kb, small, opened, address, monkeypatch):
    filled(kb, 600)
    kb.optimize(index="ivf")
    kb.close()
    monkeypatch.setattr(choosing, "available", lambda: False)
    again = opened(address)
    again.read_manifest()
    again.refresh()
    assert kind(again) == "ivf, 4-bit codes"


def test_an_index_that_could_not_be_kept_is_used(kb, small, opened, address, caplog):
    filled(kb, 600)
    with kb._store.writing_files(5), caplog.at_level(logging.INFO):
        other = opened(address)
        other.read_manifest()
        other.refresh()
        other._index._background.wait()
        assert "why" in other.stats().details
    assert "is not kept yet" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert other._index._gave_up_at == 0


def test_too_few_for_lists(kb, small, opened, address):
    filled(kb, 60)
    with pytest.raises(InvalidInput, match=r"index='ivf' needs at least 128 vectors.* has 60"):
        kb.optimize(index="ivf")
    assert kind(kb) != "ivf, 4-bit codes" and recall(kb) == 1
    kb.close()
    patient = opened(address, index="ivf")  # waits until there are enough
    patient.read_manifest()
    assert kind(settled(patient)) == "flat, exact"
    filled(patient, 200, 60)
    assert kind(settled(patient)) == "ivf, 4-bit codes"


def test_a_budget_that_nothing_fits(kb, small):
    filled(kb, 500)
    before = kind(settled(kb))
    for index in ("auto", "flat", "ivf", "hnsw", "graph"):
        with pytest.raises(MemoryBudgetError, match=r"takes about \d+ bytes, memory_budget is 1000"):
            kb.optimize(index=index, memory_budget=1000)
    assert kind(kb) == before and recall(kb) > 0.9


def test_a_budget_rules_out_what_does_not_fit(kb, small, monkeypatch):
    monkeypatch.setattr(choosing, "_WORTH", 1e9)
    filled(kb, 500)
    assert kb.optimize(memory_budget=10**9).index == "ivf"
    flat = choosing.CodeLists.bytes_for(500, COARSE, 0)
    choice = kb.optimize(memory_budget=flat + 10)
    assert choice.index == "flat" and "memory budget" in choice.why


@pytest.mark.parametrize(
    "options",
    [
        {"index": "tree"},
        {"index": 3},
        {"memory_budget": 0},
        {"memory_budget": "1GB"},
        {"memory_budget": True},
        {"probes": 0},
        {"probes": 1.5},
    ],
)
def test_options_that_cannot_be(opened, address, options):
    with pytest.raises(InvalidInput, match=rf"{next(iter(options))}="):
        opened(address, **options)


def test_probes_can_be_given(opened, address, kb, small):
    filled(kb, 600)
    kb.optimize(index="ivf")
    few, all_of_them = opened(address, probes=1, index="ivf"), opened(address, probes=10**6, index="ivf")
    for backend in (few, all_of_them):
        backend.read_manifest()
    assert recall(few, 10) < recall(all_of_them, 10)
    assert recall(few) > 0.9, "more lists are looked into where few of them hold too few candidates"


def test_searches_go_on_while_another_is_made(kb, small, monkeypatch):
    made, go = threading.Event(), threading.Event()
    real = choosing.make

    def slow(*args):
        result = real(*args)
        made.set()
        assert go.wait(30)
        return result

    monkeypatch.setattr("mrl_adapters._faiss.following.make", slow)
    filled(kb, 500)
    kb.refresh()
    assert made.wait(30)
    assert "in the background" in kb.stats().details["making"]
    filled(kb, 100, 500)
    kb.delete(["d00003", "d00501"])
    kb.upsert(rows(["d00004"], vectors_of(1, 1234)))
    before = ids_of(kb.search(two_stages(vectors_of(3, 9), 5, 600)))
    go.set()
    settled(kb)
    assert "making" not in kb.stats().details
    assert ids_of(kb.search(two_stages(vectors_of(3, 9), 5, 600))) == before
    assert ids_of(kb.search(two_stages(vectors_of(1, 1234), 1, 600))) == [["d00004"]]
    assert kb.count() == 598


def test_a_failure_leaves_the_index_as_it_was(kb, small, monkeypatch, caplog):
    filled(kb, 500)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mrl_adapters._faiss.cache.publish", full)
    with caplog.at_level(logging.WARNING):
        settled(kb)
    assert "No space left on device" in caplog.text and "everything goes on as it was" in caplog.text
    assert recall(kb) > 0.9
    assert not folder(kb).joinpath("coarse.json").exists()
    assert not [path for path in folder(kb).iterdir() if "tmp" in path.name]
    monkeypatch.undo()
    kb.flush()
    assert json.loads(folder(kb).joinpath("coarse.json").read_text())["rows"] == 500


def test_closing_gives_up_what_is_being_made(kb, small, monkeypatch, opened, address):
    begun = threading.Event()

    def endless(snapshot, wish, stop, sample):
        begun.set()
        while not stop():
            threading.Event().wait(0.01)
        raise choosing.Stopped

    monkeypatch.setattr("mrl_adapters._faiss.following.make", endless)
    filled(kb, 500)
    kb.refresh()
    assert begun.wait(30)
    kb.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "mrl-coarse-index"]


def test_without_numba_everything_is_compared_exactly(kb, small, monkeypatch):
    monkeypatch.setattr(choosing, "available", lambda: False)
    filled(kb, 600)
    assert kind(settled(kb)) == "flat, exact" and recall(kb, 600) == 1
    choice = kb.optimize()
    assert choice.index == "flat" and "numba" in choice.why
    assert kind(kb) == "flat, exact"
