"""The list of skips is held to the run, in both directions."""

import pytest

from tests.skips import Line, differences, read

LINES = read(
    "# a comment\n\nalways | tests/a.py::* | not persistent*\nno MRL_NOWHERE_URL | tests/b.py::T::* | no server\n"
)


def test_a_run_as_listed() -> None:
    assert differences(LINES, [("tests/a.py::t", "not persistent: x"), ("tests/b.py::T::u", "no server")], True) == []


def test_a_skip_that_is_not_listed() -> None:
    (found,) = differences(LINES, [("tests/a.py::t", "broken")], False)
    assert "tests/a.py::t" in found and "broken" in found


def test_a_line_that_nothing_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = [("tests/a.py::t", "not persistent")]
    (found,) = differences(LINES, skipped, True)
    assert "tests/b.py::T::*" in found
    assert differences(LINES, skipped, False) == []
    monkeypatch.setenv("MRL_NOWHERE_URL", "http://127.0.0.1:1")
    assert differences(LINES, skipped, True) == []


@pytest.mark.parametrize("text", ["always | tests/a.py", "sometimes | tests/a.py | x"])
def test_a_line_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"skips\.txt"):
        differences(read(text), [], True)


def test_lines_are_compared_whole() -> None:
    assert Line("always", "tests/a.py::t", "x").covers("tests/a.py::t", "x")
    assert not Line("always", "tests/a.py::t", "x").covers("tests/a.py::tt", "x")


def test_a_program_that_is_not_here() -> None:
    lines = read("no program mrl-nonsense | tests/a.py::* | no nonsense\nno program git | tests/b.py::* | no git\n")
    assert differences(lines, [("tests/a.py::t", "no nonsense")], True) == []
    assert len(differences(lines, [("tests/b.py::t", "no git")], False)) == 1


def test_slow_tests_that_were_not_to_be_run() -> None:
    lines = read("slow no MRL_NOWHERE_URL | tests/a.py::* | no server\n")
    assert differences(lines, [], True, slow=False) == []
    assert len(differences(lines, [], True)) == 1
    assert differences(lines, [("tests/a.py::t", "no server")], True) == []
