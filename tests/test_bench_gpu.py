"""The benchmark of the GPU runs where there is none: not at all, or in PyTorch's CPU."""

import argparse

import pytest

from benchmarks import gpu
from mrl_adapters._faiss import devices
from mrl_adapters._faiss.devices import Device


def test_it_says_that_there_is_no_gpu(monkeypatch, capsys):
    monkeypatch.setattr(devices, "find", lambda: None)
    monkeypatch.setattr("sys.argv", ["gpu"])
    gpu.main()
    assert capsys.readouterr().out.startswith("no GPU")


def test_a_small_run(tmp_path):
    options = argparse.Namespace(rows=400, dims=32, coarse=16, candidates=100, batch=20, singles=3)
    out = gpu.run(options, Device("cpu", "PyTorch's CPU"), tmp_path)
    rows = [line.split("|") for line in out.splitlines() if line.startswith("| ")][1:]
    recalls = {row[1].strip(): float(row[2]) for row in rows}
    assert recalls["torch, all dims, float16"] > 0.98
    assert recalls["torch, two stages"] == pytest.approx(recalls["CPU, two stages"], abs=0.02)
