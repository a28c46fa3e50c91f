"""Attachments in pieces: killed at any step, a write leaves the old content or the new one, and leftovers go."""

import itertools
import json

import pytest

from mrl_adapters import _pieces
from mrl_retrieval.attachments import seal_text
from mrl_retrieval.errors import CorruptionError

OLD, NEW = b"old" * 400, b"new!" * 300


class Killed(Exception):
    pass


class Records:
    """Texts in a dict, which can fail after some calls that write."""

    longest = 100

    def __init__(self):
        self.texts = {}
        self.left = None

    def _write(self):
        if self.left is not None:
            if not self.left:
                raise Killed
            self.left -= 1

    def put(self, texts):
        self._write()
        assert all(0 < len(text) <= self.longest for text in texts.values())
        self.texts.update(texts)

    def get(self, keys):
        return {key: self.texts[key] for key in keys if key in self.texts}

    def keys(self):
        return list(self.texts)

    def remove(self, keys):
        self._write()
        for key in keys:
            self.texts.pop(key, None)


@pytest.fixture(autouse=True)
def small_calls(monkeypatch):
    monkeypatch.setattr(_pieces, "_AT_ONCE", 300)


def put(records, content, name="rotation"):
    _pieces.write(records, name, seal_text(name, content))


def test_killed_at_each_step():
    seen = []
    for steps in itertools.count():
        records = Records()
        put(records, OLD)
        put(records, b"2", "other")
        whole = len(records.texts)
        records.left = steps
        try:
            put(records, NEW)
        except Killed:
            records.left = None
            seen.append(_pieces.read(records, "rotation", "here"))
            left = _pieces.clear(records)
            assert _pieces.read(records, "rotation", "here") == seen[-1]
            assert _pieces.read(records, "other", "here") == b"2"
            assert _pieces.clear(records) == 0
            if seen[-1] == OLD:
                assert len(records.texts) == whole
            assert left or not steps
            continue
        assert _pieces.read(records, "rotation", "here") == NEW and _pieces.clear(records) == 0
        break
    assert seen == sorted(seen, reverse=True) and {*seen} == {OLD, NEW}


def test_a_reader_that_a_writer_overtakes():
    records = Records()
    put(records, OLD)
    reads = []
    get = records.get

    def overtaken(keys):
        found = get(keys)
        reads.append(keys)
        if len(reads) == 2:
            records.get = get
            put(records, NEW)
        return found

    records.get = overtaken
    assert _pieces.read(records, "rotation", "here") == NEW


def test_a_lost_piece():
    records = Records()
    put(records, OLD)
    records.texts.pop(next(key for key in records.texts if key.endswith("000002")))
    with pytest.raises(CorruptionError, match="lost 1 of its pieces"):
        _pieces.read(records, "rotation", "here")
    put(records, NEW)
    assert _pieces.read(records, "rotation", "here") == NEW and _pieces.clear(records) == 0


@pytest.mark.parametrize(
    "head", ["", "{}", "[]", json.dumps({"version": "a", "pieces": 0}), '{"version": 1, "pieces": "x"}']
)
def test_a_damaged_head(head):
    records = Records()
    put(records, OLD)
    records.texts["rotation"] = head
    with pytest.raises(CorruptionError, match="head of attachment 'rotation'"):
        _pieces.read(records, "rotation", "here")
    _pieces.clear(records)
    with pytest.raises(CorruptionError):
        _pieces.read(records, "rotation", "here")
    put(records, NEW)
    assert _pieces.read(records, "rotation", "here") == NEW


def test_a_changed_piece():
    records = Records()
    put(records, OLD)
    key = next(key for key in records.texts if key.endswith("000002"))
    records.texts[key] = records.texts[key][::-1]
    with pytest.raises(CorruptionError, match="SHA-256"):
        _pieces.read(records, "rotation", "here")
