"""Searches that begin no transaction see every commit that anybody was told of."""

import shutil
import time

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.errors import CollectionMismatchError, CollectionNotFound, CorruptionError, MRLError
from mrl_retrieval.storage import glance, opened
from tests.storage.conftest import vector_of
from tests.storage.test_reading import in_another_process

NAMES = [f"n{i}" for i in range(40)]


@pytest.fixture
def address(tmp_path):
    return f"faiss:{tmp_path / 'kb'}"


@pytest.fixture(autouse=True)
def long(monkeypatch):
    """What is to be seen at once must not be seen only because a second is over."""
    monkeypatch.setattr(glance, "_SECONDS", 1000)


@pytest.fixture
def retriever(address):
    options = {"row_copy": True}
    with MatryoshkaRetriever(None, address, coarse_dims=8, backend_options=options) as made:
        texts, metadatas = [f"text of {n}" for n in NAMES], [{"name": n} for n in NAMES]
        made.index(texts, NAMES, metadatas, [vector_of(n) for n in NAMES])
        made.flush()
        search(made)
        assert glances(made).take() is not None
        yield made


def glances(retriever):
    return retriever.backend._store.glances


def search(retriever, name="n3", **options):
    return [(hit.id, hit.document) for hit in retriever.search_by_vector(vector_of(name), 50, **options)]


def statements(retriever):
    """What SQLite is asked from now on."""
    said = []
    for connection in retriever.backend._store._connections._idle:
        connection.set_trace_callback(said.append)
    return said


def test_a_search_asks_the_database_nothing(retriever):
    before = search(retriever)
    said = statements(retriever)
    assert said == [] and search(retriever) == before and said == []
    found = retriever.search_batch_by_vector([vector_of(n) for n in NAMES], 5, explain=True)
    assert [hits[0].id for hits in found] == NAMES and said == []
    assert found[0].trace.stages[1].candidates_in > 0
    assert search(retriever, filter={"name": {"$in": ["n3", "n4"]}}) == [("n3", "text of n3"), ("n4", "text of n4")][:2]
    assert said != []  # which rows match was not known


def test_filters_that_were_asked_before(retriever):
    wanted = {"name": {"$in": ["n3", "n4"]}}
    before = search(retriever, filter=wanted)
    assert len(before) == 2
    said = statements(retriever)
    assert search(retriever, filter=wanted) == before and said == []


@pytest.mark.parametrize(
    ("code", "gone", "new"),
    [
        ("retriever.index(['new'], ['n3'], vectors=[[1] + [0] * 15])", "text of n3", "new"),
        ("retriever.delete(['n3'])", "text of n3", None),
        ("retriever.delete(['n3']); retriever.flush(); retriever.backend.compact()", "text of n3", None),
    ],
)
def test_what_another_process_committed_is_seen_at_once(retriever, address, code, gone, new):
    in_another_process(address, code)
    documents = [document for _, document in search(retriever)]
    assert gone not in documents and (new is None or new in documents)


def test_what_this_process_committed_is_seen_at_once(retriever):
    for i in range(5):
        retriever.index([f"changed {i}"], ["n3"], vectors=[vector_of("n3")])
        assert search(retriever)[0] == ("n3", f"changed {i}")
        retriever.flush()
        assert search(retriever)[0] == ("n3", f"changed {i}")


def test_a_commit_whose_writer_was_killed_before_it_noted_it_is_seen_in_the_end(retriever, address, monkeypatch):
    monkeypatch.setattr(glance, "_SECONDS", 0.3)
    glances(retriever).forget()
    assert search(retriever)[0] == ("n3", "text of n3")
    with MatryoshkaRetriever(None, address) as other:
        monkeypatch.setattr(opened, "note_commit", lambda *_: None)
        other.index(["changed"], ["n3"], vectors=[vector_of("n3")])
        deadline = time.monotonic() + 20
        while search(retriever)[0] != ("n3", "changed"):
            assert time.monotonic() < deadline
        assert glances(retriever).take() is None  # and the database is asked until another commit is noted
        monkeypatch.undo()
        other.index(["once more"], ["n3"], vectors=[vector_of("n3")])
    assert search(retriever)[0] == ("n3", "once more")


def test_a_collection_that_another_process_dropped(retriever, address):
    in_another_process(address, "retriever.backend.drop()")
    with pytest.raises(CollectionNotFound):
        search(retriever)


def test_a_collection_that_another_process_made_again(retriever, address):
    in_another_process(address, "retriever.backend.drop()")
    with MatryoshkaRetriever(None, address, coarse_dims=8) as other:
        other.index(["other"], ["n3"], vectors=[vector_of("n3")])
    with pytest.raises(CollectionMismatchError):
        search(retriever)


def test_files_that_somebody_took_away_are_missed_in_the_end(retriever, tmp_path, monkeypatch):
    monkeypatch.setattr(glance, "_SECONDS", 0.1)
    glances(retriever).forget()
    search(retriever)
    shutil.rmtree(tmp_path / "kb")
    deadline = time.monotonic() + 20
    with pytest.raises(MRLError):
        while time.monotonic() < deadline:
            search(retriever)


def test_a_segment_that_is_cut_off_is_noticed(retriever, tmp_path):
    (segment,) = (tmp_path / "kb").glob("*/segments/*.seg")
    with segment.open("r+b") as file:
        file.truncate(64)
    with pytest.raises(CorruptionError, match="64 bytes"):
        search(retriever)


def test_a_damaged_copy_of_the_rows_sends_searches_to_the_database(retriever, caplog):
    before = search(retriever)
    path = retriever.backend._store.files.row_copy
    content = bytearray(path.read_bytes())
    for at in range(200, len(content) - 400, 8):
        content[at] ^= 1
    path.write_bytes(content)  # in its place: what is mapped changes
    assert search(retriever) == before
    assert ("not as it was written" in caplog.text and glances(retriever).take() is None) or search(retriever) == before


def test_a_closed_retriever_has_no_glance(retriever):
    kept = glances(retriever)
    retriever.close()
    assert kept.take() is None


def test_ties_beyond_k_are_settled_by_the_database(address):
    with MatryoshkaRetriever(None, address, coarse_dims=8, backend_options={"row_copy": True}) as made:
        made.index([f"t{i:02}" for i in range(30)], [f"t{i:02}" for i in range(30)], vectors=[np.eye(16)[0]] * 30)
        made.flush()
        for _ in range(3):
            assert [hit.id for hit in made.search_by_vector(np.eye(16)[0], 7)] == [f"t{i:02}" for i in range(7)]
