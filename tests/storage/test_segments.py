"""Fine vectors on disk: exact bytes, bounds, growth, damage."""

import zlib

import numpy as np
import pytest

from mrl_retrieval.errors import CorruptionError, NewerFormatError
from mrl_retrieval.storage.scan import best_of, cosines, exact_scan
from mrl_retrieval.storage.segments import SegmentFormat, Segments

DIMS = 6


def make(folder, dtype="float16", rows=10, collection="c"):
    return Segments(folder / "segments", SegmentFormat(dtype, DIMS, rows, collection))


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, DIMS)).astype(np.float32)


@pytest.mark.parametrize(("dtype", "stored"), [("float16", "<f2"), ("float32", "<f4")])
@pytest.mark.parametrize("sizes", [[25], [10, 10], [3, 7, 1, 14], [1] * 12])
def test_what_goes_in_comes_out(tmp_path, dtype, stored, sizes):
    segments, vectors = make(tmp_path, dtype), rows(sum(sizes))
    at = 0
    for size in sizes:
        segments.append(at, segments.layout.encode(vectors[at : at + size]))
        at += size
        view = segments.view(at)
        expected = vectors[:at].astype(stored).astype(np.float32)
        np.testing.assert_array_equal(view.read(0, at), expected)
        some = np.array([at - 1, 0, at // 2, 0])
        np.testing.assert_array_equal(view.gather(some), expected[some])
        assert view.crc32(1, at) == zlib.crc32(vectors[1:at].astype(stored).tobytes())
    assert view.gather(some).dtype == np.float32
    assert view.read(2, 2).shape == (0, DIMS)


def test_the_bytes_are_as_documented(tmp_path):
    segments, vectors = make(tmp_path, "float32"), rows(12)
    segments.append(0, segments.layout.encode(vectors))
    raw = (tmp_path / "segments" / "000002.seg").read_bytes()
    assert raw[:8] == b"MRLSEG\r\n" and raw[12:16] == b"<f4\0"
    assert [int.from_bytes(raw[a:b], "little") for a, b in ((8, 12), (16, 20), (20, 24), (24, 32))] == [1, DIMS, 2, 10]
    assert int.from_bytes(raw[60:64], "little") == zlib.crc32(raw[:60])
    np.testing.assert_array_equal(np.frombuffer(raw[64:], "<f4").reshape(2, DIMS), vectors[10:])


def test_a_view_stays_valid_while_the_store_grows(tmp_path):
    segments, vectors = make(tmp_path), rows(40)
    segments.append(0, segments.layout.encode(vectors[:5]))
    early = segments.view(5)
    before = early.read(0, 5)
    segments.append(5, segments.layout.encode(vectors[5:]))
    np.testing.assert_array_equal(early.read(0, 5), before)
    assert segments.view(3) is segments.view(5)
    np.testing.assert_array_equal(segments.view(40).gather(np.arange(5)), before)


def test_leftovers_beyond_the_end_are_overwritten(tmp_path):
    segments, vectors = make(tmp_path), rows(40)
    segments.append(0, segments.layout.encode(vectors[:4]))
    segments.append(4, segments.layout.encode(vectors[20:40]))  # never committed
    segments.append(4, segments.layout.encode(vectors[4:7]))
    fresh = make(tmp_path)
    np.testing.assert_array_equal(fresh.view(7).read(0, 7), vectors[:7].astype("<f2").astype(np.float32))
    assert (tmp_path / "segments" / "000001.seg").stat().st_size == 64 + 7 * DIMS * 2
    segments.append(7, segments.layout.encode(vectors[7:15]))
    np.testing.assert_array_equal(make(tmp_path).view(15).read(0, 15), vectors[:15].astype("<f2").astype(np.float32))


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
    segments.append(0, segments.layout.encode(rows(15)))
    DAMAGE[damage](tmp_path / "segments" / "000002.seg")
    with pytest.raises(CorruptionError, match=r"000002\.seg.*(expected|cannot be read).*backup"):
        make(tmp_path).view(15)
    make(tmp_path).view(10)


@pytest.mark.parametrize(
    ("other", "said"),
    [({"dtype": "float32"}, "dtype"), ({"rows": 11}, "rows per segment"), ({"collection": "d"}, "collection")],
)
def test_a_segment_of_another_collection(tmp_path, other, said):
    segments = make(tmp_path)
    segments.append(0, segments.layout.encode(rows(5)))
    with pytest.raises(CorruptionError, match=said):
        make(tmp_path, **other).view(1)


def test_a_newer_segment(tmp_path):
    segments = make(tmp_path)
    segments.append(0, segments.layout.encode(rows(5)))
    path = tmp_path / "segments" / "000001.seg"
    raw = bytearray(path.read_bytes())
    raw[8] = 9
    raw[60:64] = zlib.crc32(raw[:60]).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(NewerFormatError, match="version 9"):
        make(tmp_path).view(1)


def test_equal_vectors_have_equal_scores_wherever_they_stand():
    vectors = np.repeat(rows(1), 37, axis=0)
    assert len(set(cosines(rows(1, 1)[0], vectors, DIMS).tolist())) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("k", [1, 5, 200, 30_000])
def test_exact_scan_is_the_exact_answer(tmp_path, dtype, k):
    n = 20_000  # more than two blocks
    segments, vectors = make(tmp_path, dtype, rows=7001), rows(n)
    vectors[100:200] = vectors[50]
    vectors[300:310] = 0
    segments.append(0, segments.layout.encode(vectors))
    view, queries = segments.view(n), np.concatenate([rows(2, 5), vectors[50:51], np.zeros((1, DIMS), np.float32)])
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
