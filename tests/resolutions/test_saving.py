"""What is saved comes back: against NumPy, at every length."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_retrieval import EncoderCard, prefix
from mrl_retrieval.errors import (
    CollectionNotFound,
    DimensionError,
    DuplicateIdError,
    InvalidInput,
    LockTimeout,
    NonFiniteError,
    NotACollection,
)
from mrl_retrieval.resolutions import (
    ResolutionWriter,
    load_resolution,
    load_rows,
    resolution_summary,
    save_multi_resolution,
    verify_resolutions,
)
from mrl_retrieval.resolutions import saving as module


def some(rows, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32) * 3


def stored(vectors, dim):
    """The oracle: what a row of this length must be after float16."""
    return prefix(vectors, dim).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("rows", [0, 1, 7, 5000])
def test_round_trip(tmp_path, rows):
    vectors = some(rows, 96)
    summary = save_multi_resolution(vectors, [64, 16, 64], tmp_path / "v")
    assert tuple(summary.bytes) == (16, 64, 96)
    for dim in (16, 64, 96):
        found = load_resolution(tmp_path / "v", dim)
        assert (len(found), found.dim, found.shape) == (rows, dim, (rows, dim))
        array = found.array()
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, stored(vectors, dim))
        np.testing.assert_allclose(array, prefix(vectors, dim), atol=5e-4)
        np.testing.assert_array_equal(np.asarray(found), array)
        np.testing.assert_array_equal(np.asarray(found, dtype=np.float64), array)
    assert load_resolution(tmp_path / "v").dim == 96
    assert [row.id for row in load_rows(tmp_path / "v")] == [str(i) for i in range(rows)]
    assert verify_resolutions(tmp_path / "v").rows == rows


def test_numpy_can_read_the_files(tmp_path):
    vectors = some(100, 32)
    save_multi_resolution(vectors, [8], tmp_path)
    data = tmp_path / json.loads((tmp_path / "resolutions.json").read_text())["data"]
    for dim in (8, 32):
        array = np.load(data / f"dim-{dim}.npy", mmap_mode="r")
        assert array.dtype == np.float16
        np.testing.assert_array_equal(array, prefix(vectors, dim).astype(np.float16))


def test_picking_rows(tmp_path):
    vectors = some(6000, 48)
    save_multi_resolution(vectors, [], tmp_path)
    rows, right = load_resolution(tmp_path), stored(vectors, 48)
    mask = np.zeros(6000, dtype=bool)
    mask[[3, 5999]] = True
    for index in (0, -1, np.int64(17), slice(10, 20), slice(None), slice(-5, None), slice(5, 2), slice(0, 6000, 777),
                  slice(None, None, -1), [5, 3, 5], [], np.array([5999, -1, 0]), mask):  # fmt: skip
        got = rows[index]
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, right[index if not isinstance(index, list) else np.array(index, dtype=int)])
    np.testing.assert_array_equal(np.stack(list(rows)), right)
    parts = list(rows.batches(1000))
    assert [len(part) for part in parts] == [1000] * 6
    np.testing.assert_array_equal(np.concatenate(parts), right)
    rows[0][:] = 7  # the caller's own
    np.testing.assert_array_equal(rows[0], right[0])
    for index in (6000, -6001, [0, 6000]):
        with pytest.raises(IndexError, match="of 6000 rows"):
            rows[index]
    for index in ("a", 1.5, None, [[1]], [True, False], (1, 2, 3, "x"), np.array([1.0])):
        with pytest.raises(InvalidInput, match="picked by a number"):
            rows[index]
    with pytest.raises(InvalidInput, match="size"):
        next(rows.batches(0))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 40),
    dim=st.integers(1, 20),
    data=st.data(),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4, 1e30]),
)
def test_any_shape(tmp_path_factory, rows, dim, data, scale):
    dims = data.draw(st.lists(st.integers(1, dim), max_size=4))
    vectors = some(rows, dim) * np.float32(scale)
    if rows:
        vectors[0, : dim // 2 + 1] = 0  # a prefix of zeros stays zeros
    folder = tmp_path_factory.mktemp("any")
    save_multi_resolution(vectors, dims, folder)
    for d in {*dims, dim}:
        np.testing.assert_array_equal(load_resolution(folder, d).array(), stored(vectors, d))


def test_rows_longer_than_a_block_of_checksums(tmp_path):
    vectors = some(3, 600_000)  # 1.2 MB each
    save_multi_resolution(vectors, [7], tmp_path)
    rows, right = load_resolution(tmp_path), stored(vectors, 600_000)
    np.testing.assert_array_equal(rows[[2, 0]], right[[2, 0]])
    np.testing.assert_array_equal(rows[1], right[1])


def test_ids_texts_and_card(tmp_path):
    card = EncoderCard(dim=4, name="mine", model="m", revision="1", prompts={"query": "q: "})
    texts = ["one\nline", None, "Über 🚀 \u2028 \x85 x"]
    save_multi_resolution(np.eye(3, 4), [2], tmp_path, ids=["a", 7, "ü"], texts=texts, identity=card)
    assert [(row.id, row.document) for row in load_rows(tmp_path)] == list(zip(["a", "7", "ü"], texts, strict=True))
    assert verify_resolutions(tmp_path).encoder == card
    assert resolution_summary(tmp_path).encoder == "mine"


def test_saving_again_replaces(tmp_path):
    save_multi_resolution(some(10, 8), [4], tmp_path, ids=[f"old{i}" for i in range(10)])
    before = load_resolution(tmp_path, 4)
    old = before.array()
    vectors = some(3, 12, seed=1)
    save_multi_resolution(vectors, [6], tmp_path)
    np.testing.assert_array_equal(load_resolution(tmp_path, 6).array(), stored(vectors, 6))
    np.testing.assert_array_equal(before.array(), old)  # who has it open goes on reading what was there
    assert len([entry for entry in tmp_path.iterdir() if entry.name.startswith("data-")]) == 1


def test_a_call_that_fails_replaces_nothing(tmp_path, monkeypatch):
    vectors = some(10, 8)
    save_multi_resolution(vectors, [4], tmp_path)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 2)
    bad = some(9, 8, seed=1)
    bad[7, 3] = np.nan
    with pytest.raises(NonFiniteError, match=r"embeddings\[7\] has nan at component 3"):
        save_multi_resolution(bad, [4], tmp_path)
    np.testing.assert_array_equal(load_resolution(tmp_path).array(), stored(vectors, 8))
    assert sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.startswith("data-")) == [
        "resolutions.json", "write.lock",
    ]  # fmt: skip
    with pytest.raises(NonFiniteError):
        save_multi_resolution(bad, [4], tmp_path / "new")
    with pytest.raises(CollectionNotFound, match="no stored vectors"):
        load_resolution(tmp_path / "new")


def test_memory_is_that_of_a_part(tmp_path):
    rows, dim = 40_000, 256
    source = np.memmap(tmp_path / "source", dtype=np.float32, mode="w+", shape=(rows, dim))
    source[:] = some(rows, dim)
    tracemalloc.start()
    save_multi_resolution(source, [64], tmp_path / "v")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < source.nbytes / 1.5  # a part in float64 takes 8 MB, and the ids of 40,000 rows their share
    tracemalloc.start()
    total = sum(float(batch.sum()) for batch in load_resolution(tmp_path / "v", 64).batches(1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6
    assert np.isfinite(total)


def test_summary(tmp_path):
    summary = save_multi_resolution(some(1000, 256), [64], tmp_path / "v", texts=["x"] * 1000)
    assert summary == resolution_summary(tmp_path / "v")
    assert (summary.rows, summary.dim, summary.encoder) == (1000, 256, None)
    assert summary.bytes == {64: 128_000, 256: 512_000}
    assert summary.float32_bytes == 1_024_000
    assert (summary.share(64), summary.share(256), summary.share()) == (0.125, 0.5, 0.625)
    data = next(path for path in (tmp_path / "v").iterdir() if path.name.startswith("data-"))
    on_disk = sum(path.stat().st_size for path in data.iterdir())
    assert summary.total_bytes == on_disk - 2 * 128  # but for the headers
    assert str(summary).splitlines() == [
        f"{tmp_path / 'v'}: 1,000 rows, 256 dims",
        "dims    bytes  of float32",
        "  64  128,000       12.5%",
        " 256  512,000       50.0%",
        " all  640,000       62.5%",
        f"rows  {summary.row_bytes:>7,}",
    ]
    assert save_multi_resolution(some(0, 4), [], tmp_path / "empty").share() == 0


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dims": [0]}, DimensionError, "a stored dim must be from 1 to 8, got 0"),
        ({"dims": [9]}, DimensionError, "a stored dim must be from 1 to 8, got 9"),
        ({"dims": [2.5]}, DimensionError, "whole number"),
        ({"dims": 4}, DimensionError, r"dims is a list.*got 4"),
        ({"embeddings": np.zeros((3, 0))}, DimensionError, "D of at least 1|at least 1 component"),
        ({"embeddings": [["a", "b"]]}, InvalidInput, "rectangle of real numbers"),
        ({"ids": ["a", "b"]}, InvalidInput, "ids must be a list with one for each of the 3 embeddings, got 2"),
        ({"ids": ["a", "b", "a"]}, DuplicateIdError, "id 'a' is given twice, at positions 0 and 2"),
        ({"ids": ["1", 2, 1]}, DuplicateIdError, "'1' is given twice"),
        ({"ids": ["a", "", "c"]}, InvalidInput, r"ids\[1\] is empty"),
        ({"ids": ["a", None, "c"]}, InvalidInput, r"ids\[1\] is None"),
        ({"ids": "abc"}, InvalidInput, "ids must be a list"),
        ({"texts": ["a"]}, InvalidInput, "texts must be a list"),
        ({"texts": ["a", 2, "c"]}, InvalidInput, r"documents\[1\] is int"),
        ({"identity": EncoderCard(dim=9)}, DimensionError, "8 dims, the encoder's card says 9"),
    ],
)
def test_bad_input(tmp_path, arguments, error, message):
    given = {"embeddings": np.ones((3, 8)), "dims": [4], "folder": tmp_path / "v", **arguments}
    with pytest.raises(error, match=message):
        save_multi_resolution(given.pop("embeddings"), given.pop("dims"), given.pop("folder"), **given)
    assert not (tmp_path / "v").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "data-0123abcd").mkdir()
    (tmp_path / "data-0123abcd" / "thesis.txt").write_text("mine")
    with pytest.raises(NotACollection, match="holds 'data-0123abcd'"):
        save_multi_resolution(np.eye(3), [2], tmp_path)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(NotACollection, match="holds 'data-0123abcd' and 1 more"):
        save_multi_resolution(np.eye(3), [2], tmp_path)
    assert (tmp_path / "data-0123abcd" / "thesis.txt").read_text() == "mine"
    with pytest.raises(NotACollection, match="holds no resolutions.json"):
        load_resolution(tmp_path)
    with pytest.raises(NotACollection, match="is a file"):
        save_multi_resolution(np.eye(3), [2], tmp_path / "thesis.txt")
    with pytest.raises(CollectionNotFound, match="no stored vectors at .*'mrl embed'"):
        load_rows(tmp_path / "nowhere")


def test_one_writer_at_a_time(tmp_path):
    with (
        ResolutionWriter(tmp_path, (4,)),
        pytest.raises(LockTimeout, match="writer lock"),
        ResolutionWriter(tmp_path, (4,), lock_timeout=0.01),
    ):
        pass


def test_what_was_opened_is_one_publishing(tmp_path):
    """Rows and vectors that were opened stay what they were when others are published and the old files removed."""
    save_multi_resolution(some(3000, 8), [4], tmp_path, texts=["old"] * 3000)
    vectors, rows = load_resolution(tmp_path, 4), load_rows(tmp_path)
    save_multi_resolution(some(5, 8, seed=1), [4], tmp_path, texts=["new"] * 5)
    assert [row.document for row in rows] == ["old"] * 3000
    np.testing.assert_array_equal(vectors.array(), stored(some(3000, 8), 4))
    assert len(list(load_rows(tmp_path))) == 5
