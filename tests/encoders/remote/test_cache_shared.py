"""The embedding cache's file: its size, what goes first, and several threads and processes at once."""

import os
import signal
import threading

import numpy as np
import pytest

from mrl_retrieval.encoders.embedding_cache import CachedEncoder
from mrl_retrieval.encoders.embedding_store import EmbeddingStore
from mrl_retrieval.encoders.hashing import HashingEncoder

from .conftest import python, wait_until
from .test_cache import TEXTS, Counting


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cache" / "c.sqlite"


# -- size ----------------------------------------------------------------------------------------------------------


def key(i):
    return i.to_bytes(32, "big")


def vector(i, dim=256):
    return np.full(dim, i, dtype=np.float32)


def there(store, numbers, dim=256):
    """Which are there, looked at one by one by a store that is thrown away, so that looking does not count."""
    other = EmbeddingStore(store.path, 2**40)
    found = {i for i in numbers if other.get([key(i)], dim)}
    other._state.touched.clear()
    other.close()
    return found


def test_the_least_recently_used_go_first(file):
    most = 400_000
    store = EmbeddingStore(file, most)
    for i in range(0, 200, 10):
        store.put(b"e", {key(j): vector(j) for j in range(i, i + 10)})
    assert there(store, range(200)) == set(range(200))
    used = {0, 3, 50, 111}
    assert len(store.get([key(i) for i in used], 256)) == 4
    for i in range(200, 400, 10):
        store.put(b"e", {key(j): vector(j) for j in range(i, i + 10)})
        assert file.stat().st_size <= most
    left = there(store, range(400))
    assert used <= left and set(range(390, 400)) <= left
    others = sorted(left - used)
    gone = set(range(400)) - left
    assert len(others) > 50 and gone and max(gone) < min(others)  # in the order in which they were last used


@pytest.mark.parametrize("dim", [8, 256, 1536, 4096])
def test_the_file_stays_within_its_limit(file, dim):
    store = EmbeddingStore(file, 2_000_000)
    random = np.random.default_rng(0)
    for start in range(0, 4_000_000 // (4 * dim), 256):
        store.put(b"e", {key(i): vector(i, dim) for i in range(start, start + 256)})
        store.get([key(int(i)) for i in random.integers(0, start + 256, 20)], dim)
        assert file.stat().st_size <= 2_000_000
    assert there(store, range(start, start + 256), dim)
    store.close()
    assert file.stat().st_size <= 2_000_000


def test_a_limit_below_one_batch(file):
    encoder = CachedEncoder(Counting(), file, max_bytes=1000)
    assert encoder.encode_document(TEXTS).shape == (100, 64)


def test_a_later_use_by_another_counts(file):
    """Uses are written down late: one that was noted first and is written last does not make an entry older."""
    early, late = EmbeddingStore(file, 2**30), EmbeddingStore(file, 2**30)
    early.put(b"e", {key(1): vector(1)})
    early.get([key(1)], 256)
    late.get([key(1)], 256)
    late.put(b"e", {key(2): vector(2)})
    read = "SELECT used FROM vectors WHERE key = ?"
    used = late._state.db.execute(read, (key(1),)).fetchone()
    early.put(b"e", {key(3): vector(3)})
    assert late._state.db.execute(read, (key(1),)).fetchone() == used


# -- several at once -----------------------------------------------------------------------------------------------

WRITER = """
import sys, time
import numpy as np
from pathlib import Path
from mrl_retrieval.encoders.embedding_store import EmbeddingStore
store = EmbeddingStore(Path(sys.argv[1]), 2**30)
first, last = int(sys.argv[2]), int(sys.argv[3])
for i in range(first, last, 10):
    store.put(b"e", {j.to_bytes(32, "big"): np.full(256, j, dtype=np.float32) for j in range(i, i + 10)})
    print(i + 10, flush=True)
assert not store._state.off and not store._state.read_only
"""


def right(store, numbers):
    found = store.get([key(i) for i in numbers], 256)
    assert all((found[key(i)] == i).all() for i in numbers if key(i) in found)
    return {i for i in numbers if key(i) in found}


def test_two_processes_at_once(file):
    first = python(WRITER, file, 0, 2000)
    second = python(WRITER, file, 1000, 3000)
    assert first.wait(120) == 0 and second.wait(120) == 0
    assert right(EmbeddingStore(file, 2**30), range(3000)) == set(range(3000))


def test_threads_at_once(file):
    inner = Counting()
    encoder = CachedEncoder(inner, file)
    expected = HashingEncoder(64).encode_document(TEXTS)
    wrong = []

    def work(seed):
        random = np.random.default_rng(seed)
        for _ in range(30):
            rows = random.integers(0, 100, 9)
            if not (encoder.encode_document([TEXTS[i] for i in rows]) == expected[rows]).all():
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("after", [20, 200, 700])
def test_killed_in_the_midst(file, after, tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = python(WRITER, file, 0, 1_000_000, stdout=output)
        wait_until(lambda: log.read_text().count("\n") * 10 >= after)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    told = int(log.read_text().rpartition("\n")[0].split()[-1])
    store = EmbeddingStore(file, 2**30)
    assert right(store, range(told)) == set(range(told))  # what was said to be kept is kept
    store.put(b"e", {key(10**6): vector(10**6)})
    assert right(store, [10**6]) == {10**6}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_uses_a_connection_of_its_own(file):
    store = EmbeddingStore(file, 2**30)
    store.put(b"e", {key(1): vector(1)})
    child = os.fork()
    if not child:
        store.put(b"e", {key(2): vector(2)})
        os._exit(0 if right(store, [1, 2]) == {1, 2} else 1)
    assert os.waitpid(child, 0)[1] == 0
    store.put(b"e", {key(3): vector(3)})
    assert right(store, [1, 2, 3]) == {1, 2, 3}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_forked_amid_a_call_does_not_wait_for_it(file):
    """The thread that holds a lock, ours or one of SQLite's, is not there in the child to release it."""
    store = EmbeddingStore(file, 2**30)
    store.put(b"e", {key(1): vector(1)})
    done = threading.Event()

    def write():
        while not done.is_set():
            store.put(b"e", {key(i): vector(i) for i in range(10, 60)})

    thread = threading.Thread(target=write)
    thread.start()
    statuses = []
    for i in range(12):
        child = os.fork()
        if not child:
            signal.alarm(20)  # ends a child that waits for ever
            store.put(b"e", {key(100 + i): vector(100 + i)})
            os._exit(0 if right(store, [1, 100 + i]) == {1, 100 + i} else 1)
        statuses.append(os.waitpid(child, 0)[1])
        if statuses[-1]:
            break
    done.set()
    thread.join()
    assert statuses == [0] * 12
    assert right(store, [1, *range(100, 112)]) == {1, *range(100, 112)}
