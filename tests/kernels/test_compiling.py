"""Compiled code is kept, never stale, and never what a search fails for."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from mrl_retrieval.kernels import compiling
from mrl_retrieval.kernels.compiling import compiled

HELPER = "from mrl_retrieval.kernels.compiling import compiled\n\n@compiled\ndef add(x):\n    return x + {}\n"
USER = """
from mrl_retrieval._numbers import FACTOR
from mrl_retrieval._helper import add
from mrl_retrieval.kernels.compiling import compiled

@compiled
def run(x):
    return FACTOR * add(x)
"""
SCRIPT = """
import importlib.util, sys
from pathlib import Path
for name in ("_numbers", "_helper", "_user"):
    full = f"mrl_retrieval.{name}"
    spec = importlib.util.spec_from_file_location(full, Path(sys.argv[1]) / f"{name}.py")
    sys.modules[full] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[full])
run = sys.modules["mrl_retrieval._user"].run
value = run(1) if sys.argv[2] == "int" else run(1.5)
print(value, sum(run.stats.cache_hits.values()))
"""


def started(folder, kind="int"):
    command = [sys.executable, "-c", SCRIPT, str(folder), kind]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.split()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "_numbers.py").write_text("FACTOR = 10\n")
    (tmp_path / "_helper.py").write_text(HELPER.format(1))
    (tmp_path / "_user.py").write_text(USER)
    return tmp_path


def test_it_is_kept_until_something_that_it_is_made_of_changes(folder):
    assert finished(started(folder)) == ["20", "0"]
    assert finished(started(folder)) == ["20", "1"]
    (folder / "_helper.py").write_text(HELPER.format(2))
    assert finished(started(folder)) == ["30", "0"]
    (folder / "_numbers.py").write_text("FACTOR = 11\n")
    assert finished(started(folder)) == ["33", "0"]


def test_several_processes_compile_at_once(folder):
    kinds = ["int", "float", "int", "float"]
    processes = [started(folder, kind) for kind in kinds]
    expected = {"int": "20", "float": "25.0"}
    assert [finished(process)[0] for process in processes] == [expected[kind] for kind in kinds]
    for kind in kinds[:2]:
        assert finished(started(folder, kind))[0] == expected[kind]


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_damaged_files_are_written_anew(folder, ending):
    finished(started(folder))
    kept = list(Path(folder).rglob(f"*.{ending}"))
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:20])
    assert finished(started(folder)) == ["20", "0"]
    assert finished(started(folder)) == ["20", "1"]


def double(x):
    return 2 * x


def test_it_works_where_nothing_can_be_kept(monkeypatch, caplog):
    def nowhere(function):
        raise RuntimeError("no locator available")

    monkeypatch.setattr(compiling, "_Cache", nowhere)
    with caplog.at_level(logging.INFO):
        assert compiled(double)(4) == 8
    assert "no folder" in caplog.text


def test_it_works_on_a_full_disk(monkeypatch, caplog):
    def full(self, signature, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiling._caching.FunctionCache, "save_overload", full)
    assert compiled(double)(5) == 10
    assert "No space left" in caplog.text
