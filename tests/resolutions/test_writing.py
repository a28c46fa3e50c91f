"""Batches, kills and damage: what was acknowledged is there, and nothing that is damaged is given out."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval import EncoderCard, prefix
from mrl_retrieval.errors import (
    CollectionMismatchError,
    CollectionNotFound,
    CorruptionError,
    DimensionError,
    InvalidInput,
    ManifestError,
    ModelMismatchError,
    MRLError,
    NewerFormatError,
    NonFiniteError,
)
from mrl_retrieval.resolutions import (
    ResolutionWriter,
    load_resolution,
    load_rows,
    save_multi_resolution,
    verify_resolutions,
)

DIMS = (4, 12)


def vectors_of(numbers):
    rows = [np.random.default_rng(n).normal(size=12) for n in numbers]
    return np.array(rows, dtype=np.float32).reshape(-1, 12)


def put(writer, *numbers, version=0):
    writer.append(
        vectors_of([n + 1000 * version for n in numbers]), [f"id{n}" for n in numbers],
        [f"text {n} v{version}" for n in numbers], [{"n": n} for n in numbers],
    )  # fmt: skip


def check(folder, expected):
    """The folder holds exactly these ``(number, version)``, in this order, at every length."""
    assert [(row.id, row.document, row.metadata) for row in load_rows(folder)] == [
        (f"id{n}", f"text {n} v{v}", {"n": n}) for n, v in expected
    ]
    for dim in DIMS:
        right = prefix(vectors_of([n + 1000 * v for n, v in expected]), dim).astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(load_resolution(folder, dim).array(), right)
    verify_resolutions(folder)


def test_growing_overwriting_and_deleting(tmp_path):
    with ResolutionWriter(tmp_path, DIMS) as writer:
        put(writer, 0, 1, 2)
        put(writer, 3)
        assert (writer.rows, writer.delete(["id1", "unknown"]), writer.rows) == (4, 1, 3)
        put(writer, 0, version=1)
        assert [id for batch in writer.scan() for id in batch.ids] == ["id2", "id3", "id0"]
        writer.finish()
    check(tmp_path, [(2, 0), (3, 0), (0, 1)])
    with ResolutionWriter(tmp_path, DIMS) as writer:  # later
        put(writer, 1, version=2)
        check(tmp_path, [(2, 0), (3, 0), (0, 1)])  # readers see the old until the end
        writer.delete(["id3"])
        writer.finish()
        with pytest.raises(InvalidInput, match="closed"):
            put(writer, 9)
    check(tmp_path, [(2, 0), (0, 1), (1, 2)])


def test_nothing_written_nothing_changed(tmp_path):
    with ResolutionWriter(tmp_path, DIMS) as writer:
        put(writer, 0, 1)
        writer.finish()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "write.lock"}
    with ResolutionWriter(tmp_path, DIMS) as writer:
        assert writer.delete(["unknown"]) == 0
        writer.append(np.empty((0, 12)), [])
        writer.finish()
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "write.lock"}


def test_an_unfinished_run_goes_on(tmp_path):
    with ResolutionWriter(tmp_path, DIMS) as writer:
        put(writer, 0, 1)
    with pytest.raises(CollectionNotFound, match=r"not finished \(2 rows are in\)"):
        load_resolution(tmp_path)
    with ResolutionWriter(tmp_path, DIMS) as writer:
        assert writer.rows == 2
        put(writer, 2)
        writer.delete(["id0"])
    # What a killed process wrote of its last batch, and did not say in the journal.
    data = next(path for path in tmp_path.iterdir() if path.name.startswith("data-"))
    for file in data.iterdir():
        with file.open("ab") as end:
            end.write(b"half a batch")
    (tmp_path / ".tmp-unfinished.json-1-2").write_text("{")
    (tmp_path / "data-00000000").mkdir()  # a data folder that no journal knew yet
    with ResolutionWriter(tmp_path, DIMS) as writer:
        assert writer.rows == 2
        put(writer, 3)
        writer.finish()
    check(tmp_path, [(1, 0), (2, 0), (3, 0)])
    assert len(list(tmp_path.iterdir())) == 3
    with ResolutionWriter(tmp_path, DIMS, restart=True) as writer:
        assert writer.rows == 0
        put(writer, 7)
    check(tmp_path, [(1, 0), (2, 0), (3, 0)])
    with ResolutionWriter(tmp_path, DIMS) as writer:
        assert writer.rows == 1
        writer.discard()
    check(tmp_path, [(1, 0), (2, 0), (3, 0)])


WRITER = """
import sys
sys.path.insert(0, {root!r})
from tests.resolutions.test_writing import DIMS, ResolutionWriter, put
with ResolutionWriter({folder!r}, DIMS) as writer:
    print("rows", writer.rows, flush=True)
    for n in range(writer.rows, 10_000_000, 3):
        put(writer, n, n + 1, n + 2)
        print("in", n + 3, flush=True)
        if n and n % 60 == 0 and {finish}:
            writer.finish()
            print("finished", flush=True)
            break
"""


@pytest.mark.parametrize("finish", [False, True])
def test_killed_at_any_moment(tmp_path, finish):
    generator = random.Random(finish)
    acknowledged = 0
    for _ in range(6):
        code = WRITER.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path), finish=finish)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        word, number = process.stdout.readline().split()
        assert word == "rows"
        assert acknowledged <= int(number) <= acknowledged + 3  # all that was said, and at most the batch after it
        assert int(number) % 3 == 0
        time.sleep(generator.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        acknowledged = max([int(number), *(int(line.split()[1]) for line in said if line.startswith("in "))])
    with ResolutionWriter(tmp_path, DIMS) as writer:
        assert acknowledged <= writer.rows <= acknowledged + 3
        put(writer, 10_000_001)
        rows = writer.rows
        writer.finish()
    assert acknowledged > 60
    check(tmp_path, [*((n, 0) for n in range(rows - 1)), (10_000_001, 0)])


def test_killed_while_publishing(tmp_path, monkeypatch):
    """Before every step of ``finish`` that is durable: the old, or the new, and the next run finishes it."""

    class Killed(BaseException):
        pass

    fsync = os.fsync
    killed, steps = True, 0
    while killed:
        folder = tmp_path / str(steps)
        with ResolutionWriter(folder, DIMS) as writer:
            put(writer, 0, 1)
            writer.finish()
        with ResolutionWriter(folder, DIMS) as writer:
            put(writer, 2)
            put(writer, 0, version=1)
            left = itertools.count(steps, -1)

            def sync(descriptor, left=left):
                if next(left) <= 0:
                    raise Killed
                fsync(descriptor)

            with monkeypatch.context() as patched:
                patched.setattr(os, "fsync", sync)
                try:
                    writer.finish()
                    killed = False
                except Killed:
                    steps += 1
        assert [row.id for row in load_rows(folder)] in (["id0", "id1"], ["id1", "id2", "id0"])
        verify_resolutions(folder)
        with ResolutionWriter(folder, DIMS) as writer:
            writer.finish()
        check(folder, [(1, 0), (2, 0), (0, 1)])
    assert steps >= 8


# -- another encoder, other dims ---------------------------------------------------------------------------------------


def test_what_does_not_fit(tmp_path):
    card = EncoderCard(dim=12, model="mine", revision="1")
    with ResolutionWriter(tmp_path, DIMS, identity=card) as writer:
        put(writer, 0)
        writer.finish()
    with (
        pytest.raises(CollectionMismatchError, match="made with the dims 4, 12, given were 6, 12"),
        ResolutionWriter(tmp_path, (6, 12), identity=card),
    ):
        pass
    other = EncoderCard(dim=12, model="mine", revision="2")
    with (
        pytest.raises(ModelMismatchError, match="revision is '2', the folder's is '1'"),
        ResolutionWriter(tmp_path, DIMS, identity=other),
    ):
        pass
    with pytest.raises(ModelMismatchError, match="made with the encoder 'mine'"), ResolutionWriter(tmp_path, DIMS):
        pass
    with ResolutionWriter(tmp_path, DIMS, identity=card) as writer:
        for arguments, error in (
            ((np.ones((2, 12)), ["a"]), InvalidInput),
            ((np.ones((2, 12)), ["a", "a"]), InvalidInput),
            ((np.ones((1, 12)), ["a"], []), InvalidInput),
            ((np.ones((1, 11)), ["a"]), DimensionError),
            ((np.full((1, 12), np.inf), ["a"]), NonFiniteError),
        ):
            with pytest.raises(error):
                writer.append(*arguments)
        assert writer.rows == 1
    check(tmp_path, [(0, 0)])


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """40,000 rows: 960 KB and 320 KB of vectors; 2,1 MB of texts."""
    folder = tmp_path_factory.mktemp("sound") / "v"
    rows = np.random.default_rng(0).normal(size=(60_000, 12)).astype(np.float32)
    save_multi_resolution(rows, [4], folder, texts=["a text of some words"] * 60_000)
    return folder


@pytest.fixture
def copy(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


def data_of(folder):
    return folder / json.loads((folder / "resolutions.json").read_text())["data"]


def flip(path, at):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def test_damaged_vectors_are_not_given_out(copy):
    flip(data_of(copy) / "dim-12.npy", 128 + 2**20 + 999)
    rows = load_resolution(copy)
    first = 2**20 // 24
    assert rows[0].shape == (12,)
    assert rows[: first - 1].shape == (first - 1, 12)  # the block before is sound
    for index in (first, slice(first - 5, first + 5), [0, 59_999], slice(None)):
        with pytest.raises(CorruptionError, match=r"dim-12.npy is damaged: the block .* row 43,690 fails"):
            rows[index]
    with pytest.raises(CorruptionError):
        rows.verify()
    load_resolution(copy, 4).verify()
    with pytest.raises(CorruptionError, match="dim-12"):
        verify_resolutions(copy)


def test_a_damaged_row_is_not_carried_over(copy):
    flip(data_of(copy) / "dim-4.npy", 128 + 5)
    with ResolutionWriter(copy, DIMS) as writer:
        writer.append(np.ones((1, 12)), ["new"])
        writer.finish()
    with pytest.raises(CorruptionError):
        load_resolution(copy, 4)[0]
    with ResolutionWriter(copy, DIMS) as writer:
        writer.delete(["3"])
        with pytest.raises(CorruptionError, match="dim-4"):
            writer.finish()


def test_damaged_texts(copy):
    flip(data_of(copy) / "rows.jsonl", 2**20 + 77)
    with pytest.raises(CorruptionError, match=r"rows\.jsonl is damaged at byte 1,048,576 or after"):
        list(load_rows(copy))
    with pytest.raises(CorruptionError):
        verify_resolutions(copy)


@pytest.mark.parametrize("file", ["dim-4.npy", "dim-12.npy", "rows.jsonl"])
@pytest.mark.parametrize("how", ["missing", "short", "empty"])
def test_files_that_are_not_whole(copy, file, how):
    path = data_of(copy) / file
    if how == "missing":
        path.unlink()
    else:
        os.truncate(path, 0 if how == "empty" else path.stat().st_size - 1)
    with pytest.raises(CorruptionError, match=file):
        verify_resolutions(copy)
    if file != "rows.jsonl":
        with pytest.raises(CorruptionError, match=file):
            load_resolution(copy, int(file[4:-4]))


def test_a_damaged_header(copy):
    flip(data_of(copy) / "dim-4.npy", 70)
    with pytest.raises(CorruptionError, match=r"header does not say \(60000, 4\)"):
        load_resolution(copy, 4)


def test_no_such_dim(sound):
    for dim in (5, 0, 24, True, "4", 4.5):
        with pytest.raises(DimensionError, match="those that it holds: 4, 12"):
            load_resolution(sound, dim)


def test_the_manifest(copy):
    manifest = copy / "resolutions.json"
    sound = manifest.read_text()
    for text, error in (
        ("", ManifestError),
        ("[]", ManifestError),
        ("{}", ManifestError),
        (sound[:-20], ManifestError),
        (sound.replace('"rows":60000', '"rows":59999'), ManifestError),
        (sound.replace('"version":1', '"version":2'), NewerFormatError),
        (sound.replace("mrl-resolutions", "something-else"), ManifestError),
        ("[" * 100_000, ManifestError),
        ("\x00\xff", ManifestError),
    ):
        manifest.write_bytes(text.encode("latin-1"))
        for read in (load_resolution, load_rows, verify_resolutions):
            with pytest.raises(error, match="resolutions.json"):
                read(copy)
    manifest.write_text(sound)
    verify_resolutions(copy)


def test_any_damaged_byte_is_found(copy):
    """A bit flipped anywhere: a typed error, or what was written."""
    generator = random.Random(0)
    files = [path for path in copy.rglob("*") if path.is_file() and path.name != "write.lock"]
    for path in files:
        for at in sorted({0, path.stat().st_size - 1, *(generator.randrange(path.stat().st_size) for _ in range(10))}):
            flip(path, at)
            with pytest.raises(MRLError):
                verify_resolutions(copy)
            flip(path, at)
    verify_resolutions(copy)


# -- a full disk -------------------------------------------------------------------------------------------------------

FULL = """
import hashlib, resource, signal, sys
import numpy as np
from mrl_retrieval.errors import BackendError
from mrl_retrieval.resolutions import ResolutionWriter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
ids = [hashlib.sha512(str(i).encode()).hexdigest()[:100] for i in range(60_000)]
try:
    with ResolutionWriter(sys.argv[1], (1,)) as writer:
        for start in range(0, len(ids), 4096):
            part = ids[start : start + 4096]
            writer.append(np.ones((len(part), 1)), part)
except BackendError as error:
    sys.exit(f"full: {error}")
"""


@pytest.mark.parametrize(("limit", "what"), [(1_000_000, "writing "), (8_410_000, "keeping the ids of ")])
def test_a_full_disk(tmp_path, limit, what):
    """That of the folder, or that of the temporary table of ids; what was acknowledged is there to go on from."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "v"), str(limit)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"full: {what}"), done.stderr
    with ResolutionWriter(tmp_path / "v", (1,)) as writer:
        kept = writer.rows
        writer.append(np.ones((1, 1)), ["one more"])
        writer.finish()
    assert kept % 4096 == 0 or kept == 60_000
    assert len(load_resolution(tmp_path / "v")) == kept + 1 > 1
    verify_resolutions(tmp_path / "v")
