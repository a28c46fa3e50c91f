"""Fine vectors on disk: exact bytes, bounds, growth, damage."""

import zlib

import numpy as np
import pytest

from mrl_retrieval.errors import CorruptionError, NewerFormatError
from mrl_retrieval.storage.checks import vector_sums
from mrl_retrieval.storage.records import SegmentFormat, Span
from mrl_retrieval.storage.scan import best_of, cosines, exact_scan
from mrl_retrieval.storage.segments import Segments

DIMS = 6


class Log(Segments):
    """Segments with the lists that the database keeps for them."""

    def __init__(self, folder, layout, like=None):
        super().__init__(folder, layout)
        self.spans = [] if like is None else like.spans
        self.sums = np.empty(0, np.uint64) if like is None else like.sums

    def write(self, first, records):
        self.spans = self.spans + self.append(self.spans[-1] if self.spans else None, first, records)
        self.sums = np.concatenate([self.sums[:first], vector_sums(records)])

    def read(self, vectors):
        return self.view(0, vectors, [span for span in self.spans if span.first < vectors], self.sums[:vectors])


def make(folder, dtype="float16", rows=10, collection="c", like=None):
    return Log(folder / "segments", SegmentFormat(dtype, DIMS, rows, collection), like)


def stored_as(vectors, dtype):
    """The stored values, computed plainly."""
    if dtype != "int8":
        return vectors.astype({"float16": "<f2", "float32": "<f4"}[dtype]).astype(np.float32)
    scales = np.abs(vectors).max(axis=1, keepdims=True) / np.float32(127)
    return np.rint(vectors / np.where(scales > 0, scales, 1)).astype(np.float32) * scales


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, DIMS)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("sizes", [[25], [10, 10], [3, 7, 1, 14], [1] * 12])
def test_what_goes_in_comes_out(tmp_path, dtype, sizes):
    segments, vectors = make(tmp_path, dtype), rows(sum(sizes))
    at = 0
    for size in sizes:
        segments.write(at, segments.layout.encode(vectors[at : at + size]))
        at += size
        view = segments.read(at)
        expected = stored_as(vectors[:at], dtype)
        np.testing.assert_array_equal(view.read(0, at), expected)
        some = np.array([at - 1, 0, at // 2, 0])
        np.testing.assert_array_equal(view.gather(some), expected[some])
        assert view.crc32(1, at) == zlib.crc32(segments.layout.encode(vectors[1:at]).tobytes())
    assert view.gather(some).dtype == np.float32
    assert view.read(2, 2).shape == (0, DIMS)


@pytest.mark.parametrize("dims", [1, 3, 4, 7, 64])
def test_int8_keeps_the_direction_of_a_vector(dims):
    layout = SegmentFormat("int8", dims, 10, "c")
    vectors = np.random.default_rng(0).normal(size=(50, dims)).astype(np.float32)
    vectors[7] = 0
    vectors[8] = 1e-30
    records = layout.encode(vectors)
    assert records.shape == (50, layout.row_bytes) and layout.row_bytes % 4 == 0
    back = layout.decode(records)
    step = np.abs(vectors).max(axis=1, keepdims=True) / 127
    assert (np.abs(back - vectors) <= step * 0.5001).all()
    assert not back[7].any()
    again = layout.encode(back)  # nothing more is lost
    np.testing.assert_array_equal(again[:, :dims], records[:, :dims])


def test_the_bytes_are_as_documented(tmp_path):
    segments, vectors = make(tmp_path, "float32"), rows(12)
    segments.write(0, segments.layout.encode(vectors))
    raw = (tmp_path / "segments" / "000002.seg").read_bytes()
    assert raw[:8] == b"MRLSEG\r\n" and raw[12:16] == b"<f4\0"
    places = ((8, 12), (16, 20), (20, 24), (24, 32), (48, 56))
    assert [int.from_bytes(raw[a:b], "little") for a, b in places] == [2, DIMS, 2, 10, 10]
    assert int.from_bytes(raw[60:64], "little") == zlib.crc32(raw[:60])
    np.testing.assert_array_equal(np.frombuffer(raw[64:], "<f4").reshape(2, DIMS), vectors[10:])


def test_a_view_stays_valid_while_the_store_grows(tmp_path):
    segments, vectors = make(tmp_path), rows(40)
    segments.write(0, segments.layout.encode(vectors[:5]))
    early = segments.read(5)
    before = early.read(0, 5)
    segments.write(5, segments.layout.encode(vectors[5:]))
    np.testing.assert_array_equal(early.read(0, 5), before)
    np.testing.assert_array_equal(segments.read(40).gather(np.arange(5)), before)


def test_leftovers_beyond_the_end_are_overwritten(tmp_path):
    segments, vectors = make(tmp_path), rows(40)
    segments.write(0, segments.layout.encode(vectors[:4]))
    segments.append(segments.spans[-1], 4, segments.layout.encode(vectors[20:40]))  # never committed
    segments.write(4, segments.layout.encode(vectors[4:7]))
    fresh = make(tmp_path, like=segments)
    np.testing.assert_array_equal(fresh.read(7).read(0, 7), vectors[:7].astype("<f2").astype(np.float32))
    assert (tmp_path / "segments" / "000001.seg").stat().st_size == 64 + 7 * DIMS * 2
    segments.write(7, segments.layout.encode(vectors[7:15]))
    np.testing.assert_array_equal(
        make(tmp_path, like=segments).read(15).read(0, 15), vectors[:15].astype("<f2").astype(np.float32)
    )


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "half a header": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "a flipped header bit": lambda path: path.write_bytes(path.read_bytes()[:20] + b"\x09" + path.read_bytes()[21:]),
    "another file": lambda path: path.write_bytes(b"hello" * 100),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_before_anything_is_mapped(tmp_path, damage):
    segments = make(tmp_path)
    segments.write(0, segments.layout.encode(rows(15)))
    DAMAGE[damage](tmp_path / "segments" / "000002.seg")
    with pytest.raises(CorruptionError, match=r"000002\.seg.*(expected|cannot be read).*backup"):
        make(tmp_path, like=segments).read(15)
    make(tmp_path, like=segments).read(10)


@pytest.mark.parametrize(
    ("other", "said"),
    [({"dtype": "float32"}, "dtype"), ({"rows": 11}, "rows per segment"), ({"collection": "d"}, "collection")],
)
def test_a_segment_of_another_collection(tmp_path, other, said):
    segments = make(tmp_path)
    segments.write(0, segments.layout.encode(rows(5)))
    with pytest.raises(CorruptionError, match=said):
        make(tmp_path, **other, like=segments).read(1)


def test_a_newer_segment(tmp_path):
    segments = make(tmp_path)
    segments.write(0, segments.layout.encode(rows(5)))
    path = tmp_path / "segments" / "000001.seg"
    raw = bytearray(path.read_bytes())
    raw[8] = 9
    raw[60:64] = zlib.crc32(raw[:60]).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(NewerFormatError, match="version 9"):
        make(tmp_path, like=segments).read(1)


def test_equal_vectors_have_equal_scores_wherever_they_stand():
    vectors = np.repeat(rows(1), 37, axis=0)
    assert len(set(cosines(rows(1, 1)[0], vectors, DIMS).tolist())) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("k", [1, 5, 200, 30_000])
def test_exact_scan_is_the_exact_answer(tmp_path, dtype, k):
    n = 20_000  # more than two blocks
    segments, vectors = make(tmp_path, dtype, rows=7001), rows(n)
    vectors[100:200] = vectors[50]
    vectors[300:310] = 0
    segments.write(0, segments.layout.encode(vectors))
    view, queries = segments.read(n), np.concatenate([rows(2, 5), vectors[50:51], np.zeros((1, DIMS), np.float32)])
    for positions in (np.arange(n), np.flatnonzero(np.arange(n) % 3 == 0), np.array([17]), np.empty(0, np.int64)):
        decoded = view.gather(positions).astype(np.float64)
        lengths = np.linalg.norm(decoded, axis=1) * np.linalg.norm(queries.astype(np.float64), axis=1)[:, None]
        exact = np.divide(queries @ decoded.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        for (found, scores), expected in zip(exact_scan(view, positions, queries, k), exact, strict=True):
            assert len(found) >= min(k, len(positions)) and len(set(found.tolist())) == len(found)
            best = np.sort(scores)[::-1][:k]
            np.testing.assert_allclose(best, np.sort(expected)[::-1][:k], atol=2e-6)
            np.testing.assert_allclose(scores, expected[np.searchsorted(positions, found)], atol=2e-6)


def test_best_of_keeps_the_ties_of_the_last():
    scores = np.array([0.1, 0.5, 0.5, 0.9, 0.5], dtype=np.float32)
    assert best_of(scores, 2).tolist() == [1, 2, 3, 4]
    assert best_of(scores, 1).tolist() == [3]
    assert best_of(scores, 9).tolist() == [0, 1, 2, 3, 4]


def test_every_flipped_bit_of_a_vector_is_noticed(tmp_path):
    segments, vectors = make(tmp_path, rows=12), rows(12)
    segments.write(0, segments.layout.encode(vectors))
    path = tmp_path / "segments" / "000001.seg"
    raw = path.read_bytes()
    for bit in range(64 * 8, len(raw) * 8, 7):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        view = make(tmp_path, rows=12, like=segments).read(12)
        wrong = (bit // 8 - 64) // (DIMS * 2)
        with pytest.raises(CorruptionError, match=r"000001\.seg"):
            view.gather(np.array([wrong]))
        with pytest.raises(CorruptionError, match=r"000001\.seg"):
            view.read(0, 12)
        others = np.setdiff1d(np.arange(12), wrong)
        np.testing.assert_array_equal(view.gather(others), stored_as(vectors, "float16")[others])


def test_a_file_cut_off_under_a_view_is_noticed_before_it_is_read(tmp_path):
    segments = make(tmp_path)
    segments.write(0, segments.layout.encode(rows(8)))
    view = segments.read(8)
    view.check_sizes()
    with (tmp_path / "segments" / "000001.seg").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(CorruptionError, match="has 100 bytes"):
        view.check_sizes()


def test_a_new_segment_never_cuts_a_mapped_file_short(tmp_path):
    segments, vectors = make(tmp_path), rows(10)
    segments.write(0, segments.layout.encode(vectors))
    view = segments.read(10)
    before = view.read(0, 10)
    segments.begin(None, 0)  # takes the name of number 1 again
    np.testing.assert_array_equal(view.read(0, 10), before)
    assert (tmp_path / "segments" / "000001.seg").stat().st_size == 64


def test_spans_need_not_be_full(tmp_path):
    segments, vectors = make(tmp_path), rows(9)
    segments.write(0, segments.layout.encode(vectors[:4]))
    segments.spans = [*segments.spans, segments.begin(segments.spans[-1], 4)]
    segments.write(4, segments.layout.encode(vectors[4:]))
    assert segments.spans == [Span(1, 0), Span(2, 4)]
    np.testing.assert_array_equal(segments.read(9).gather(np.arange(9)), stored_as(vectors, "float16"))
    assert segments.remove_before(2) == 64 + 4 * DIMS * 2
    view = make(tmp_path).view(4, 9, segments.spans[1:], segments.sums[4:])
    np.testing.assert_array_equal(view.gather(np.arange(4, 9)), stored_as(vectors[4:], "float16"))
