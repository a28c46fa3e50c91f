"""``mrl`` as a process of its own: pipes, signals, encodings, exit statuses."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MRL = [sys.executable, "-m", "mrl_retrieval.cli"]


@pytest.fixture
def address(tmp_path: Path) -> str:
    pytest.importorskip("faiss", reason="faiss is not installed")
    return f"faiss:{tmp_path / 'kb'}"


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", **options.pop("env", {})}  # type: ignore[dict-item]
    return subprocess.run(
        [*MRL, *map(str, arguments)], capture_output=True, text=True, encoding="utf-8", timeout=60, env=environment,
        **options,  # type: ignore[call-overload]
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    root.mkdir()
    for i in range(300):
        (root / f"{i:03}.md").write_text(f"# Note {i}\n\nÜber {i} Dinge — 日本語 🚀.", encoding="utf-8")
    return root


def test_a_collection_lives_from_process_to_process(address, folder):
    done = run("index", folder, "--to", address, "--encoder", "hashing")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "300 new" in done.stdout
    assert "300 unchanged" in run("index", folder, "--to", address).stdout
    (folder / "000.md").unlink()
    (folder / "001.md").write_text("changed")
    assert "0 new, 1 changed, 298 unchanged, 1 dropped" in run("index", folder, "--to", address).stdout
    value = json.loads(run("search", address, "Dinge 日本語", "--json", "--top-k", 5).stdout)
    assert len(value["hits"]) == 5
    assert json.loads(run("info", address, "--json").stdout)["rows"] == 299
    assert "default" in run("list", address).stdout
    assert run("drop", address, stdin=subprocess.DEVNULL).returncode == 1
    assert run("drop", address, "--yes").returncode == 0
    assert run("info", address).returncode == 1


def test_standard_output_that_is_no_unicode(address, folder):
    assert run("index", folder, "--to", address, "--encoder", "hashing").returncode == 0
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = run("search", address, "日本語", env=ascii_only)
    assert done.returncode == 0, done.stderr
    assert "?" in done.stdout
    value = json.loads(run("search", address, "日本語", "--json", env=ascii_only).stdout)
    assert "日本語" in value["hits"][0]["document"]


def test_a_reader_that_goes_away(address, folder):
    assert run("index", folder, "--to", address, "--encoder", "hashing").returncode == 0
    command = " ".join([*MRL, "search", address, "Dinge", "--top-k", "200", "--json"])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "{"


def test_standard_output_that_is_closed(address):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as broken:
        done = subprocess.run([*MRL, "list", address], stdout=broken, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_standard_output_that_is_full_or_missing(address):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*MRL, "list", address], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"mrl: No space left on device\n")
    command = " ".join([*MRL, "list", address])
    done = subprocess.run(["bash", "-c", f"{command} >&-"], stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    done = subprocess.run(["bash", "-c", f"{command}x:y 2>&-"], stdout=subprocess.PIPE, timeout=60)
    assert done.returncode in (0, 1)


def test_control_c(tmp_path):
    fifo = tmp_path / "a.jsonl"
    fifo.write_text('{"text": "x"}\n')
    # Asked for a confirmation that never comes, the process waits until it is interrupted.
    leader, follower = pty.openpty()
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a suite in the background has it ignored
        "from mrl_retrieval.cli import main\n"
        f"main(['index', {str(fifo)!r}, '--to', 'memory:x', '--encoder', 'hashing'])\n"
        "sys.exit(main(['drop', 'memory:x']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        asked = b""
        while b"[y/N]" not in asked:
            asked += os.read(process.stderr.fileno(), 100)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
        os.close(leader)
        os.close(follower)
    assert process.returncode == 130
    assert rest.strip() == b"mrl: interrupted"


def test_progress_and_colour_on_a_terminal(address, folder):
    leader, follower = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"}
    process = subprocess.Popen(
        [*MRL, "index", str(folder), "--to", address, "--encoder", "hashing"],
        stdout=subprocess.PIPE, stderr=follower, env=environment,
    )  # fmt: skip
    os.close(follower)
    shown = _read_all(leader)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"indexing [" in shown
    assert b"300 new" in out
    leader, follower = pty.openpty()
    process = subprocess.Popen([*MRL, "search", address, "Dinge"], stdout=follower, env=environment)
    os.close(follower)
    shown = _read_all(leader)
    assert process.wait(timeout=60) == 0
    assert b"\x1b[1m" in shown


def _read_all(descriptor: int) -> bytes:
    data = b""
    while True:
        try:
            block = os.read(descriptor, 4096)
        except OSError:  # how Linux says that the other side has closed
            block = b""
        if not block:
            os.close(descriptor)
            return data
        data += block


def test_errors_have_a_status_and_one_line(tmp_path):
    for arguments, status in (
        (("info", "mongo:x"), 1),
        (("search",), 2),
        (("index", "/nowhere", "--to", "memory:"), 1),
    ):
        done = run(*arguments)
        assert done.returncode == status
        assert done.stderr.startswith("mrl: ")
        assert done.stderr.count("\n") == 1
    done = run("info", "mongo:x", env={"MRL_DEBUG": "1"})
    assert "Traceback" in done.stderr


def test_arguments_that_are_not_unicode(address, folder):
    assert run("index", folder, "--to", address, "--encoder", "hashing").returncode == 0
    done = subprocess.run([*MRL, "search", address, b"caf\xe9"], capture_output=True, timeout=60)
    assert b"Traceback" not in done.stderr
    assert done.returncode in (0, 1)
