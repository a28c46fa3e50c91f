"""``mrl rotate``."""

import json

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, Rotation, fit_rotation
from tests.moving.test_rotating import made, vectors


@pytest.fixture
def address(uri):
    return made(uri)


def test_it_measures_rotates_and_goes_back(mrl, address):
    done = mrl("rotate", address)
    assert done.status == 0, done.err
    measured, said = done.out.splitlines()
    assert "as it is" in measured and "rotated" in measured
    assert "401 rows rotated" in said and "'default.g1'" in said
    assert json.loads(mrl("info", address, "--json").out)["rotation"]["fitted_on"] == 400
    assert "fitted on 400 vectors" in (said := mrl("info", address).out) and " at 400 vectors)" in said
    again = mrl("rotate", address, "--json")
    assert json.loads(again.out)["coverage"] > 0.9
    assert mrl("reindex", address, "--rollback").status == 0


def test_left_as_it_is(mrl, uri):
    made(uri, turned=False, coarse=15)
    done = mrl("rotate", uri)
    assert done.status == 0 and "is left as it is" in done.out
    with MatryoshkaRetriever.open(uri) as retriever:
        assert retriever.manifest.rotation is None
        when = retriever.manifest.rotation_measured["at"]
    assert json.loads(mrl("info", uri, "--json").out)["rotation_measured"]["vectors"] == 400
    said = " ".join(mrl("info", uri).out.split())
    assert "rotation none: top 10 in 100 candidates" in said and f"(measured on {when[:10]} at 400 vectors)" in said
    with MatryoshkaRetriever.open(uri) as retriever:
        assert retriever.search_by_vector(vectors(1, turned=False)[0], 1).ids == ["0"]


def test_errors_are_one_line(mrl, uri):
    done = mrl("rotate", uri)
    assert done.status == 1 and len(done.err.splitlines()) == 1


def test_a_rotation_in_a_file(mrl, address, uri, tmp_path):
    nothing = mrl("rotate", address, "--save", tmp_path / "r")
    assert nothing.status == 1 and "has no rotation to save" in nothing.err and not (tmp_path / "r").exists()
    assert mrl("rotate", address).status == 0
    saved = mrl("rotate", address, "--save", tmp_path / "r")
    told = json.loads(mrl("rotate", address, "--save", tmp_path / "r", "--json").out)
    rotation = Rotation.load(tmp_path / "r")
    assert (told["fingerprint"], told["dim"]) == (rotation.fingerprint, 16) and rotation.fingerprint in saved.out
    assert json.loads(mrl("info", address, "--json").out)["rotation"]["fingerprint"] == rotation.fingerprint
    other = made(f"{uri}-other")
    done = mrl("rotate", other, "--rotation", tmp_path / "r", "--json")
    assert json.loads(done.out)["fingerprint"] == rotation.fingerprint and json.loads(done.out)["coverage"] is None


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["--rotation", "{}/nothing"], 1, "there is no file"),
        (["--rotation", "{}"], 1, "there is no file"),
        (["--rotation", "{}/text"], 1, "text cannot be used: these 5 bytes are no rotation"),
        (["--rotation", "{}/text", "--save", "x"], 2, "not allowed with"),
        (["--rotation", "{}/small"], 1, "the rotation is for vectors of 3 components, these have 16"),
    ],
)
def test_files_that_cannot_be_used(mrl, address, tmp_path, arguments, status, part):
    (tmp_path / "text").write_text("hello")
    fit_rotation(None, np.eye(3)).save(tmp_path / "small")
    done = mrl("rotate", address, *(argument.format(tmp_path) for argument in arguments))
    assert done.status == status and part in done.err.splitlines()[-1]
    assert mrl("info", address).out.count("rotation") == 0
