"""Checksums of rows, one by one and many at once."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mrl_retrieval.documents import canonical_json
from mrl_retrieval.storage.checks import are_sound, as_int64, row_crc, text_crc
from mrl_retrieval.storage.snapshot import all_decoded, decoded
from tests.test_documents import json_values

SUMS = np.array([0, 5, 2**63, 2**64 - 1], dtype=np.uint64)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FIRST = 10


@st.composite
def rows(draw, documents=True):
    """A row as it is read, with the checksums it should have."""
    number = draw(st.sampled_from([-3, -1, *range(FIRST, FIRST + len(SUMS))]))
    vector_sum = as_int64(SUMS)[number - FIRST] if number >= 0 else None
    id, metadata, document = draw(TEXTS), draw(TEXTS), draw(st.none() | TEXTS)
    crc = row_crc(number, id, metadata, vector_sum, text_crc(document))
    return number, id, document if documents else None, metadata, vector_sum, text_crc(document), crc


@given(st.lists(rows(), max_size=5))
def test_rows_as_they_were_written_are_sound(found):
    assert are_sound(found, SUMS, FIRST, documents=True)
    assert are_sound(found, None, 0, documents=True)
    assert are_sound([(*row[:2], None, *row[3:]) for row in found], SUMS, FIRST, documents=False)


WRONG = st.none() | st.binary(max_size=3) | st.integers(-9, 9) | st.floats() | TEXTS


@given(st.lists(rows(), min_size=1, max_size=5), st.data())
def test_one_changed_value_among_all_rows_is_seen(found, data):
    which, column = data.draw(st.integers(0, len(found) - 1)), data.draw(st.integers(0, 6))
    row = list(found[which])
    row[column] = data.draw(WRONG.filter(lambda value: str(value) != str(row[column])))
    assert not are_sound([*found[:which], tuple(row), *found[which + 1 :]], SUMS, FIRST, documents=True)


def test_a_row_whose_vector_has_another_checksum_or_is_not_there_is_not_sound():
    for number, vector_sum in ((FIRST, 5), (FIRST - 1, 0), (FIRST + len(SUMS), 0)):
        row = (number, "a", "text", "{}", vector_sum, text_crc("text"))
        whole = (*row, row_crc(number, "a", "{}", vector_sum, text_crc("text")))
        assert not are_sound([whole], SUMS, FIRST, documents=True)
        assert are_sound([whole], None, 0, documents=True)


@given(st.lists(st.dictionaries(TEXTS, json_values, max_size=3), max_size=6))
def test_metadata_decoded_together_is_what_it_is_alone(metadatas):
    texts = [json.dumps(metadata, ensure_ascii=False, separators=(",", ":")) for metadata in metadatas]
    together = all_decoded(texts)
    assert [canonical_json(value) for value in together] == [canonical_json(decoded(text)) for text in texts]
    assert len({id(value) for value in together}) == len(texts)
