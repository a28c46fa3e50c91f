import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrl_retrieval.errors import DimensionError, InvalidInput, NonFiniteError
from mrl_retrieval.matryoshka import as_vectors, check_dim, ladder, normalize, prefix

matrices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


@given(matrices)
def test_rows_have_unit_length_or_are_zero(x: np.ndarray) -> None:
    unit = normalize(x)
    lengths = np.linalg.norm(unit.astype(np.float64), axis=1)
    zero = ~x.any(axis=1)
    assert np.allclose(lengths[~zero], 1.0, atol=1e-6)
    assert not unit[zero].any() and np.isfinite(unit).all() and unit.dtype == np.float32


@given(matrices, st.data())
def test_prefixes_are_the_renormalised_first_components(x: np.ndarray, data: st.DataObject) -> None:
    d = data.draw(st.integers(1, x.shape[1]))
    before = x.copy()
    cut = prefix(x, d)
    wide = x[:, :d].astype(np.float64)
    scale = np.abs(wide).max(axis=1, keepdims=True)
    wide = wide / np.where(scale > 0, scale, 1)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    assert np.allclose(cut, wide / np.where(length > 0, length, 1), atol=1e-6)
    assert np.array_equal(x, before), "the input was changed"
    assert np.allclose(prefix(cut, d), cut, atol=1e-6), "cutting twice is cutting once"


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 1e30, 3e38])
def test_neither_overflow_nor_underflow(scale: float) -> None:
    row = np.array([[1.0, 0.5]], np.float32) * np.float32(scale)
    assert np.allclose(normalize(row), normalize(row / row.max()), atol=1e-6)


@pytest.mark.parametrize("value", [np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal, 1e-38, 1.0])
@pytest.mark.parametrize("dim", [1, 7, 64, 4096])
def test_the_longest_and_the_shortest_rows(value: float, dim: int) -> None:
    rows = np.full((2, dim), value, np.float32)
    rows[1, ::2] *= -1
    unit = normalize(rows)
    assert np.allclose(np.abs(unit), dim**-0.5, rtol=1e-6) and (np.sign(unit) == np.sign(rows)).all()


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 5), st.integers(1, 70)), elements=st.floats(width=32, allow_nan=False)
    ).filter(lambda x: bool(np.isfinite(x).all()))
)
def test_components_are_rounded_once(x: np.ndarray) -> None:
    """Against more precision than float64 has: within one step of float32."""
    wide = x.astype(np.longdouble)
    length = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    expected = (wide / np.where(length > 0, length, 1)).astype(np.float32)
    assert (np.abs(normalize(x) - expected) <= np.spacing(np.abs(expected))).all()


@given(matrices, st.data())
def test_a_row_comes_out_the_same_whatever_is_beside_it(x: np.ndarray, data: st.DataObject) -> None:
    dim = data.draw(st.integers(1, x.shape[1]))
    together = prefix(x, dim)
    for i in range(len(x)):
        for alone in (x[i : i + 1], np.asfortranarray(x[i:]), np.repeat(x[i : i + 1], 2, axis=0)[:, ::1]):
            assert np.array_equal(prefix(alone, dim)[0], together[i])


def test_a_matrix_in_any_layout_has_the_same_prefixes() -> None:
    x = np.random.default_rng(0).standard_normal((50, 300)).astype(np.float32)
    for same in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[::-1].copy()[::-1], x.astype(">f4")):
        for dim in (1, 64, 299, 300):
            assert np.array_equal(prefix(same, dim), prefix(x, dim))


def test_finite_values_of_every_size_are_taken_without_a_warning() -> None:
    for value in (np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal, -0.0):
        given = np.full((3, 5), value, np.float32)
        assert as_vectors(given) is given and np.array_equal(as_vectors(given[0]), given[:1])
        assert np.array_equal(as_vectors(given.astype(">f4")), given)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, "signalling"])
def test_the_first_value_that_is_not_finite_is_named(bad: float | str) -> None:
    rows = np.ones((4, 6), np.float32)
    value = np.frombuffer(b"\x01\x00\xa0\x7f", "<f4")[0] if isinstance(bad, str) else np.float32(bad)
    rows[1, 4:], rows[2, 0] = value, value
    with pytest.raises(NonFiniteError, match=r"rows\[101\] has .* at component 4;"):
        as_vectors(rows, what="rows", first_row=100)


def test_empty_matrices() -> None:
    assert normalize(np.empty((0, 4), np.float32)).shape == (0, 4)
    assert prefix(np.empty((0, 4), np.float32), 2).shape == (0, 2)


def test_as_vectors_takes_what_is_a_matrix() -> None:
    given = np.ones((2, 3), np.float32)
    assert as_vectors(given) is given
    for same in ([[1, 1, 1], [1, 1, 1]], given.astype(np.float16), given.astype(int), given.astype(bool), given[::-1]):
        assert np.array_equal(as_vectors(same), given) and as_vectors(same).dtype == np.float32
    assert as_vectors([1.0, 2.0]).shape == (1, 2)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ([[1.0, np.nan]], NonFiniteError, r"vectors\[0\] has nan at component 1"),
        ([[1.0, 2.0], [np.inf, 0]], NonFiniteError, r"vectors\[1\] has inf"),
        (np.array([[1e300]]), NonFiniteError, "float32"),
        ([[1.0], [1.0, 2.0]], InvalidInput, "rectangle"),
        ([["a"]], InvalidInput, "rectangle"),
        (np.array([[1j]]), InvalidInput, "rectangle"),
        (None, InvalidInput, "shape"),
        ([["1.5"]], InvalidInput, "rectangle"),
        (np.ones((2, 2, 2)), DimensionError, r"\(2, 2, 2\)"),
        (np.ones((2, 0)), DimensionError, "at least 1"),
        (5.0, DimensionError, "shape"),
    ],
)
def test_as_vectors_refuses_the_rest(value: object, error: type[Exception], words: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(error, match=words):
        as_vectors(value)


def test_as_vectors_names_both_dims() -> None:
    with pytest.raises(DimensionError, match="3 components, expected 4"):
        as_vectors(np.ones((1, 3)), dim=4)


@pytest.mark.parametrize("dim", [0, -1, 5, True, 2.0, "2", None])
def test_dims_are_whole_numbers_within_the_vector(dim: object) -> None:
    with pytest.raises(DimensionError):
        check_dim(dim, 4)  # type: ignore[arg-type]


def test_ladder() -> None:
    assert ladder(6) == (6,)
    assert ladder(768) == (32, 64, 128, 256, 512, 768)
    assert ladder(100, [200, 10, 10]) == (10, 100)
