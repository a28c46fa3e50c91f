"""The vector instructions give NumPy's numbers, bit for bit: here, and in code made for other processors."""

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import numba
import numpy as np
import pytest

from mrl_retrieval.kernels.row_simd import float_sums, half_sums, halves, word_sum
from mrl_retrieval.kernels.simd import (
    LANES,
    above,
    append,
    byte_at,
    count_above,
    float_at,
    largest,
    level_sums,
    prefetch,
    scan4,
    short_at,
)
from mrl_retrieval.kernels.simd8 import FOUR, nearest8, scores8, scores8_of_four

ROOT = Path(__file__).parents[2]
TARGETS = {
    "generic": "",
    "nehalem": "+sse4.2",
    "haswell": "+sse4.2,+avx2,+f16c",
    "skylake-avx512": "+sse4.2,+avx2,+f16c,+avx512f,+avx512bw",
}
HOST = llvmlite.binding.get_host_cpu_features()
# A processor can run code that is made for a lesser one of its kind.
HERE = [name for name, features in TARGETS.items() if all(HOST.get(f[1:]) for f in features.split(",") if f)]
SELF = "MRL_RETRIEVAL_TESTED_TARGET"


def address(array):
    assert array.flags.c_contiguous
    return array.ctypes.data


@numba.njit
def decode(source, count, out):
    halves(source, count, out)


@numba.njit
def row(kind, source, count, query, out):
    if kind == 2:
        half_sums(source, count, query, out)
    else:
        float_sums(source, count, query, out)


@numba.njit
def words(source, count, multipliers):
    return word_sum(source, count, multipliers)


@numba.njit
def single(source):
    prefetch(source)
    return byte_at(source), short_at(source), float_at(source)


@numba.njit
def scan(codes, groups, query, scales, factor, shift, base, threshold, out):
    return scan4(codes, groups, query, scales, factor, shift, base, threshold, out)


@numba.njit
def scores(codes, groups, query, offset, unit, scales, out):
    scores8(codes, groups, query, offset, unit, scales, out)


@numba.njit
def scores_of_four(codes, groups, queries, offsets, units, scales, out, stride):
    scores8_of_four(codes, groups, queries, offsets, units, scales, out, stride)


@numba.njit
def appended(lanes, values, places, out, out_places):
    return append(lanes, values, places, out, out_places)


@numba.njit
def higher(values, blocks, threshold):
    return above(values, threshold), count_above(values, blocks, threshold)


@numba.njit
def most(values):
    return largest(values)


@numba.njit
def nearest(codes, groups, queries, offsets, units, scales, penalties, block, best, where):
    nearest8(codes, groups, queries, offsets, units, scales, penalties, block, best, where)


@numba.njit
def levels(source, groups, inverse, out):
    level_sums(source, groups, inverse, out)


def test_halves_are_decoded_exactly():
    bits = np.arange(65536, dtype=np.uint16)
    expected, out = bits.view(np.float16).astype(np.float32), np.empty(65536, np.float32)
    decode(address(bits), 65536, address(out))
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(out[number].view(np.uint32), expected[number].view(np.uint32))
    assert np.isnan(out[~number]).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_row_sums(dtype):
    rng = np.random.default_rng(0)
    stored, query = rng.standard_normal(192).astype(dtype), rng.standard_normal(192).astype(np.float32)
    stored[:6] = [0, -0.0, 6e-8, -6e-8, 65504, 6.1e-5]
    out = np.empty((2, 64), np.float32)
    row(stored.itemsize, address(stored), 192, address(query), address(out))
    x, q = stored.astype(np.float32).reshape(3, 64), query.reshape(3, 64)
    np.testing.assert_array_equal(out, [(x * q)[0] + (x * q)[1] + (x * q)[2], (x * x)[0] + (x * x)[1] + (x * x)[2]])


@pytest.mark.parametrize("n", [0, 1, 15, 16, 37, 384])
def test_word_sum(n):
    rng = np.random.default_rng(n)
    stored = rng.integers(0, 2**32, n, dtype=np.uint32)
    multipliers = rng.integers(0, 2**64, n, dtype=np.uint64)
    expected = int((stored.astype(np.uint64) * multipliers).sum(dtype=np.uint64))
    assert int(words(address(stored), n, address(multipliers))) == expected


def test_single_reads():
    stored = np.array([0x80, 0x3F, 0x40, 0xBF], np.uint8)
    byte, short, whole = single(address(stored))
    assert (byte, short, whole) == (0x80, 1.0, stored.view(np.float32)[0])


@pytest.mark.parametrize("groups", [1, 2, 13, 32])
def test_scan4(groups):
    rng = np.random.default_rng(groups)
    codes = rng.integers(0, 256, (groups, LANES, 4), dtype=np.uint8)
    query = rng.choice(np.array([-128, -127, 127, 0, 5], np.int8), 8 * groups)
    scales = (rng.standard_normal(LANES) * 10.0 ** rng.integers(-7, 4, LANES)).astype(np.float16)
    factor, shift, base = (np.float32(x) for x in (0.013, -7.7, 0.31))
    halves4 = np.stack([codes & 15, codes >> 4], axis=1).astype(np.int64)
    total = np.einsum("ghlk,ghk->l", halves4, query.astype(np.int64).reshape(groups, 2, 4))
    expected = (total.astype(np.float32) * factor + shift) * scales.astype(np.float32) + base
    out, threshold = np.empty(LANES, np.float32), np.sort(expected)[5]
    given = address(codes), groups, address(query), address(scales), factor, shift, base, threshold, address(out)
    above = scan(*given)
    np.testing.assert_array_equal(out.view(np.uint32), expected.view(np.uint32))
    assert above == sum(1 << i for i in range(LANES) if expected[i] > threshold)


def block8(groups, seed):
    rng = np.random.default_rng(seed)
    codes = rng.choice(np.array([0, 1, 128, 254, 255, 77], np.uint8), (groups, LANES, 4))
    queries = rng.choice(np.array([-128, -127, 127, 0, 5], np.int8), (FOUR, 4 * groups))
    totals = np.einsum("glk,qgk->ql", codes.astype(np.int64), queries.astype(np.int64).reshape(FOUR, groups, 4))
    return codes, queries, totals


@pytest.mark.parametrize("groups", [2, 4, 8, 26, 64])
def test_scores8(groups):
    rng = np.random.default_rng(groups)
    codes, queries, totals = block8(groups, groups)
    units, offsets = rng.random(FOUR).astype(np.float32), rng.integers(-999, 999, FOUR).astype(np.int32)
    scales = rng.random(LANES).astype(np.float32)
    expected = (totals - offsets[:, None]).astype(np.float32) * units[:, None] * scales
    for q, query in enumerate(queries):
        out = np.empty(LANES, np.float32)
        scores(address(codes), groups, address(query), offsets[q], units[q], address(scales), address(out))
        np.testing.assert_array_equal(out, expected[q])
    together = np.zeros((FOUR, 3 * LANES), np.float32)
    pointers = (address(a) for a in (queries, offsets, units, scales))
    scores_of_four(address(codes), groups, *pointers, address(together) + 4 * LANES, together.strides[0])
    np.testing.assert_array_equal(together[:, LANES : 2 * LANES], expected)
    assert not together[:, :LANES].any() and not together[:, 2 * LANES :].any()


@pytest.mark.parametrize("seed", range(20))
def test_append(seed):
    rng = np.random.default_rng(seed)
    values, places = rng.standard_normal(LANES).astype(np.float32), rng.integers(-2, 5, LANES, dtype=np.int32)
    lanes = int(rng.choice([0, 0xFFFF, 1, 1 << 15, *rng.integers(0, 1 << 16, 4)]))
    wanted = np.array([bool(lanes >> lane & 1) for lane in range(LANES)]) & (places >= 0)
    out, out_places = np.full(LANES + 3, np.nan, np.float32), np.full(LANES + 3, -9, np.int32)
    n = appended(lanes, address(values), address(places), address(out) + 4, address(out_places) + 4)
    assert n == wanted.sum() and np.isnan(out[0]) and np.isnan(out[LANES + 1 :]).all()
    np.testing.assert_array_equal(out[1 : n + 1], values[wanted])
    np.testing.assert_array_equal(out_places[1 : n + 1], places[wanted])
    assert out_places[0] == -9 and (out_places[LANES + 1 :] == -9).all()


def test_above():
    values = np.random.default_rng(0).standard_normal(5 * LANES).astype(np.float32)
    values[[3, 20]] = -np.inf
    for threshold in (values[7], np.float32(-np.inf), np.float32(9)):
        bits, count = higher(address(values), 5, threshold)
        assert [bits >> lane & 1 for lane in range(LANES)] == (values[:LANES] > threshold).tolist()
        assert count == (values > threshold).sum()
    assert higher(address(values), 0, np.float32(0))[1] == 0


@pytest.mark.parametrize("place", range(LANES))
def test_largest(place):
    values = -np.random.default_rng(place).random(LANES).astype(np.float32) - 1
    assert most(address(values)) == values.max()
    values[place] = np.float32(-0.5)
    assert most(address(values)) == np.float32(-0.5)
    assert most(address(np.full(LANES, -np.inf, np.float32))) == -np.inf


def test_nearest8():
    groups, rng = 6, np.random.default_rng(1)
    units, offsets = rng.random(FOUR).astype(np.float32), rng.integers(-999, 999, FOUR).astype(np.int32)
    best, where = np.full((FOUR, LANES), -np.inf, np.float32), np.zeros((FOUR, LANES), np.int32)
    seen, shown = [], [block8(groups, seed) for seed in (0, 1, 2, 1)]
    scales, penalties = rng.random(LANES).astype(np.float32), rng.random(LANES).astype(np.float32)
    penalties[3] = np.inf
    queries = shown[0][1]
    for number, (codes, _, _) in enumerate(shown):
        totals = np.einsum("glk,qgk->ql", codes.astype(np.int64), queries.astype(np.int64).reshape(FOUR, groups, 4))
        seen.append((totals - offsets[:, None]).astype(np.float32) * units[:, None] * scales - penalties)
        pointers = (address(a) for a in (queries, offsets, units, scales, penalties))
        nearest(address(codes), groups, *pointers, number, address(best), address(where))
    np.testing.assert_array_equal(best, np.max(seen, axis=0))
    np.testing.assert_array_equal(where, np.argmax(seen, axis=0))


def test_level_sums():
    rng = np.random.default_rng(2)
    source, inverse = rng.standard_normal(40).astype(np.float32), np.float32(3.7)
    x = source.reshape(5, 8)
    level = np.floor(x * inverse + np.float32(8)).clip(0, 15) - np.float32(7.5)
    expected = np.zeros((3, 8), np.float32)
    for a, b in zip(level, x, strict=True):
        expected += [a * b, a * a, b * b]
    out = np.empty((3, 8), np.float32)
    levels(address(source), 5, inverse, address(out))
    np.testing.assert_array_equal(out.view(np.uint32), expected.view(np.uint32))


def run_as(target, *paths):
    environment = {**os.environ, "NUMBA_CPU_NAME": target, "NUMBA_CPU_FEATURES": TARGETS[target], SELF: target}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *paths]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{target}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"


if SELF not in os.environ:

    @pytest.mark.slow
    @pytest.mark.parametrize("target", HERE)
    def test_kernels_give_the_same_on_other_processors(target):
        here = ("tests/kernels/test_instructions.py", "tests/kernels/test_stored_cosines.py")
        run_as(target, *here, "tests/coarse/test_code_lists.py", "tests/exact/test_search.py")

    def test_instructions_give_the_same_on_the_least_processor():
        run_as("generic", "tests/kernels/test_instructions.py")
