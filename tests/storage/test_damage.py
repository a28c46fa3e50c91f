"""Truncated, flipped, missing and swapped files: a typed error, the right answer, or a right repair; nothing else."""

import collections
import json
import shutil
import subprocess
import sys

import pytest

from . import damage


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    place = tmp_path_factory.mktemp("pristine")
    damage.make(place)
    older = tmp_path_factory.mktemp("older")
    damage.make(older)  # the same collection, written another time; and an earlier state of the first
    shutil.copytree(older / "kb", place / "older")
    return place


def run(pristine, work, seed, rounds):
    process = subprocess.run(
        [sys.executable, damage.__file__, str(pristine), str(work), str(seed), str(rounds)],
        capture_output=True,
        text=True,
    )
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    assert process.returncode == 0, (
        f"the process ended with {process.returncode} at {lines[-1:]}: {process.stderr[-2000:]}"
    )
    cases = [line for line in lines if "begun" not in line]
    assert [case for case in cases if "failed" in case] == []
    return collections.Counter(case["outcome_of"] for case in cases), collections.Counter(
        case["repaired"].split(",")[0] for case in cases
    )


def test_every_file_and_every_kind_of_damage(pristine, tmp_path):
    outcomes, repairs = run(pristine, tmp_path, 1, 3)
    assert outcomes["right"] and outcomes["CorruptionError"] and repairs["repaired"] and repairs["sound"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_many_times(pristine, tmp_path, seed):
    run(pristine, tmp_path, 100 + seed, 40)
