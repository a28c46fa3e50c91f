"""What is sealed comes back exactly, and any damage is noticed."""

import numpy as np
import pytest

from mrl_retrieval.attachments import seal, seal_text, unseal, unseal_text
from mrl_retrieval.errors import CorruptionError


@pytest.mark.parametrize(
    "content", [b"", b"1", np.random.default_rng(0).integers(256, size=5000, dtype=np.uint8).tobytes()]
)
def test_there_and_back(content):
    assert unseal("rotation", seal("rotation", content), "here") == content
    assert unseal_text("rotation", seal_text("rotation", content), "here") == content


@pytest.mark.parametrize("at", [0, 31, 32, 40, -1])
def test_a_changed_byte(at):
    sealed = bytearray(seal("rotation", b"0123456789"))
    sealed[at] ^= 1
    with pytest.raises(CorruptionError, match=r"'rotation' of memory:kb has SHA-256 .* expected"):
        unseal("rotation", bytes(sealed), "memory:kb")


@pytest.mark.parametrize("length", [0, 10, 32, 41])
def test_what_was_cut_off(length):
    with pytest.raises(CorruptionError):
        unseal("rotation", seal("rotation", b"0123456789")[:length], "here")


def test_anothers_content():
    with pytest.raises(CorruptionError):
        unseal("rotation", seal("other", b"1"), "here")


@pytest.mark.parametrize("damage", ["!", "é", "=", "AAAA"])
def test_damaged_text(damage):
    text = seal_text("rotation", b"0123456789")
    with pytest.raises(CorruptionError, match="'rotation' of here"):
        unseal_text("rotation", text[:8] + damage + text[8 + len(damage) :], "here")
    with pytest.raises(CorruptionError):
        unseal_text("rotation", text[:-1], "here")
