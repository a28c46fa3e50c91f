"""One writer among processes and threads; readers against one writer within a process."""

import multiprocessing
import os
import subprocess
import sys
import threading

import pytest

from mrl_retrieval.errors import InvalidInput, LockTimeout
from mrl_retrieval.storage import ReadWriteLock, WriterLock

HOLD = """
import sys
from pathlib import Path
from mrl_retrieval.storage import WriterLock
with WriterLock(Path(sys.argv[1]), 5).held():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until its stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_waited_for_and_named(holder, tmp_path):
    with (
        pytest.raises(LockTimeout, match=rf"process {holder.pid} .*lock_timeout=0\.05"),
        WriterLock(tmp_path / "lock", 0.05).held(),
    ):
        pass
    threading.Timer(0.1, holder.stdin.close).start()
    with WriterLock(tmp_path / "lock", 20).held():
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_a_killed_holder_leaves_no_lock(holder, tmp_path):
    holder.kill()
    holder.wait()
    with WriterLock(tmp_path / "lock", 5).held():
        pass


def test_two_locks_and_two_threads_in_one_process(tmp_path):
    mine, other = WriterLock(tmp_path / "lock", 0.05), WriterLock(tmp_path / "lock", 0.05)
    with mine.held():
        for lock in (mine, other):
            with pytest.raises(LockTimeout, match=str(os.getpid())), lock.held():
                pass
    with other.held():
        pass


def test_a_lock_file_that_was_replaced_while_waiting(tmp_path):
    folder = tmp_path / "collection"
    folder.mkdir()
    opened, inside = threading.Event(), threading.Event()

    class Watched(WriterLock):
        def _open(self):
            fd = super()._open()
            opened.set()
            return fd

    def wait_for_it():
        with Watched(folder / "lock", 20).held():
            inside.set()

    with WriterLock(folder / "lock", 5).held():
        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        assert opened.wait(20)  # it waits for this file, and not for the one that takes its place
        folder.rename(tmp_path / "old")
        folder.mkdir()
    assert inside.wait(20)
    waiting.join()
    assert (folder / "lock").exists()


def test_a_folder_that_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError), WriterLock(tmp_path / "none" / "lock", 1).held():
        pass


@pytest.mark.parametrize("timeout", [-1, "1", True, float("nan"), None])
def test_lock_timeout_is_seconds(open_store, timeout):
    with pytest.raises(InvalidInput, match="lock_timeout"):
        open_store(lock_timeout=timeout)


@pytest.mark.parametrize("timeout", [float("inf"), 1e10, 10**30, 0])
def test_any_number_of_seconds_will_do(open_store, manifest, batch, timeout):
    store = open_store(lock_timeout=timeout)
    store.write_manifest(manifest, None)
    store.upsert(batch("a"))


def test_readers_share_and_a_writer_is_alone():
    lock, log, readers_in = ReadWriteLock(), [], threading.Barrier(3)

    def read():
        with lock.read():
            readers_in.wait(10)  # broken unless both are in at once
            log.append("read")

    def write():
        with lock.write():
            log.append("write")

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    with lock.read():
        writer = threading.Thread(target=write)
        readers_in.wait(10)
        writer.start()
        assert "write" not in log
    for thread in (*threads, writer):
        thread.join(10)
    assert sorted(log) == ["read", "read", "write"]


def test_a_reader_may_let_go_early_and_only_once():
    lock, written = ReadWriteLock(), threading.Event()

    def write():
        with lock.write():
            written.set()

    with lock.read() as mine, lock.read() as others:
        writer = threading.Thread(target=write)
        writer.start()
        mine.release()
        mine.release()  # the other reader's part is not let go
        assert not written.wait(0.1)
        others.release()
        assert written.wait(10)
    writer.join(10)
    with pytest.raises(ZeroDivisionError), lock.read():
        raise ZeroDivisionError
    with lock.write():
        pass


def _in_child(store, batch, queue):
    store.upsert(batch)
    with store.snapshot() as snapshot:
        queue.put(snapshot.state.rows)


def test_a_forked_child_uses_connections_of_its_own(store, batch):
    store.upsert(batch("a"))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with store.snapshot() as before:
        child = context.Process(target=_in_child, args=(store, batch("b"), queue), daemon=True)
        child.start()
        assert queue.get(timeout=30) == 2
        child.join(30)
        assert before.state.rows == 1
    with store.snapshot() as after:
        assert after.state.rows == 2
    store.upsert(batch("c"))
    store.verify()
    queue.close()
