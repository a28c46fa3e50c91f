"""What databases hold becomes JSON that every backend can hold, and whatever was JSON stays as it was."""

import datetime as dt
import json
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_retrieval.documents import check_metadata
from mrl_retrieval.moving.importing import plain_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(JSON)
def test_json_stays(value: Any) -> None:
    assert repr(plain_json(value)) == repr(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2024-01-02T03:04:05+00:00"), (dt.date(2024, 1, 2), "2024-01-02"),
        (Decimal("12"), 12), (Decimal("12.5"), 12.5), (Decimal("0.1"), 0.1), (Decimal("NaN"), "NaN"),
        (Decimal("0.12345678901234567890123"), "0.12345678901234567890123"), (float("nan"), None), (float("-inf"), None),
        (2**70, str(2**70)), (b"\x00\xff", "AP8="), (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ((1, 2), [1, 2]), (np.int64(3), 3), (np.float32(0.5), 0.5), (np.array([[1, 2]]), [[1, 2]]), (np.bool_(True), True),
        ({1: {2: "x"}}, {"1": {"2": "x"}}), ("a\ud800", "a?"), (1j, "1j"),
    ],
)  # fmt: skip
def test_other_values(value: Any, expected: Any) -> None:
    found = plain_json({"v": value})
    assert repr(found["v"]) == repr(expected)
    assert check_metadata(found, 0) == json.loads(json.dumps(found))
