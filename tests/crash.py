"""A writer is killed with ``kill -9`` at random moments; what it was told is in must be in.

::

    python -m tests.crash --rounds 200                          the embedded store, in a temporary folder
    python -m tests.crash --backend lancedb --rounds 20         another backend that takes a folder
    python -m tests.crash --backend pgvector --rounds 20        one that is a server; chroma-server is another
    python -m tests.crash --address 'qdrant+http://localhost:6333?collection=crash' --rounds 20

The writer is a process of its own that upserts, overwrites and deletes through :class:`MatryoshkaRetriever`, replaces
an attachment where the backend keeps any, and compacts where it can. It says what it is about to do, and what was done. After each kill everything is read back
through the public API: every acknowledged row is there in its last version, with the text, metadata and vector of that
version, is found by that vector, and is there once; what was under way when the writer died is there whole or not at
all, and all of a batch or none of it where the backend declares transactions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.backend import Backend
from mrl_retrieval.registry import open_backend
from tests.postgres_server import PASSWORD, USER, run_postgres
from tests.servers import run_chroma

ROOT = Path(__file__).parents[1]
DIM, COARSE = 24, 8
UNIVERSE = 160
BATCH = 7
# Written too seldom to be overwritten: there must be rows that only compaction touches.
GROUPS = 12
ATTACHMENT = "rotation"

Version = int | None
"""None: not there."""


def vector_of(number: int, version: int) -> np.ndarray | None:
    """The vector of a version of a row; every eleventh has none."""
    if (number + version) % 11 == 10:
        return None
    vector = np.random.default_rng([number, version]).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def text_of(number: int, version: int) -> str:
    return f"row {number} version {version} " * (1 + (number + version) % 40)


def attachment_of(version: int) -> bytes:
    """Of up to 300 kB: in some databases one piece, in others several."""
    return np.random.default_rng(version).integers(256, size=version * 7919 % 300_000, dtype=np.uint8).tobytes()


def metadata_of(number: int, version: int) -> dict[str, Any]:
    return {"number": number, "version": version, "tags": [f"t{version % 3}", "all"], "even": version % 2 == 0}


# -- the writer ----------------------------------------------------------------------------------------------


def write(address: str, options: dict[str, Any], seed: int, version: int) -> None:
    """Write for ever. Each line on stdout is one JSON value: ``[what, rows, version, "begin" or "done"]``."""
    generator = random.Random(seed)
    retriever = MatryoshkaRetriever(None, address, coarse_dims=COARSE, dim=DIM, backend_options=options)
    backend: Any = retriever.backend
    if hasattr(backend, "_store"):  # so that the automatic compaction has something to do in a small collection
        backend._store._compact_bytes, backend._store._compact_at = 0, 0.3
    say(["ready"])
    while True:
        version += 1
        what = generator.choices(["put", "gone", "compact", "flush", "attach"], [12, 4, 1, 1, 3])[0]
        if what == "compact" and not hasattr(backend, "compact"):
            continue
        if what == "attach" and (not backend.capabilities.attachments or backend.read_manifest() is None):
            continue
        low = generator.randrange(GROUPS) * UNIVERSE // GROUPS
        rows = sorted(generator.sample(range(low, low + UNIVERSE // GROUPS), generator.randint(1, BATCH)))
        rows = rows if what in ("put", "gone") else []
        say([what, rows, version, "begin"])
        if what == "put":
            retriever.index(
                [text_of(n, version) for n in rows],
                rows,
                [metadata_of(n, version) for n in rows],
                [vector_of(n, version) for n in rows],
            )
        elif what == "gone":
            retriever.delete(rows)
        elif what == "compact":
            backend.compact()
        elif what == "attach":
            backend.write_attachment(ATTACHMENT, attachment_of(version))
        else:
            retriever.flush()
        say([what, rows, version, "done"])


def say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


# -- the one who kills it --------------------------------------------------------------------------------------


@dataclass
class Log:
    """What the writers said: for each row its acknowledged version, and what may have happened since."""

    acknowledged: dict[int, Version] = field(default_factory=dict)
    under_way: tuple[list[int], Version] | None = None
    attached: Version = None
    """Version of the attachment that was acknowledged."""
    attaching: Version = None
    """And the one that was under way when the writer died."""
    version: int = 0
    done: int = 0
    cut_short: bool = False
    """Whether the last kill came between the beginning and the end of an operation."""

    def take(self, lines: list[str]) -> None:
        for line in lines:
            value = json.loads(line)
            if value == ["ready"]:
                continue
            what, rows, version, phase = value
            self.version = version
            state = (rows, version if what == "put" else None)
            self.under_way = state if phase == "begin" else None
            self.attaching = version if what == "attach" and phase == "begin" else None
            if phase == "done":
                self.done += 1
                if what in ("put", "gone"):
                    self.acknowledged.update(dict.fromkeys(rows, state[1]))
                elif what == "attach":
                    self.attached = version

    def settle(self, found: dict[int, int]) -> None:
        """What was under way is over: what is there now is the state from here on."""
        self.cut_short = self.under_way is not None
        if self.under_way is not None:
            self.acknowledged.update({row: found.get(row) for row in self.under_way[0]})
        self.under_way = None


def kill_one(address: str, options: dict[str, Any], log: Log, generator: random.Random) -> None:
    """Start a writer, kill it some time later, and take down what it said."""
    command = [sys.executable, "-m", "tests.crash", "--write", address, "--options", json.dumps(options)]
    command += ["--seed", str(generator.randrange(2**31)), "--version", str(log.version)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        if lines != ['["ready"]\n']:
            raise RuntimeError(f"the writer did not start: {lines[0]}")
        started = time.monotonic()
        for _ in range(generator.randrange(30)):
            lines.append(process.stdout.readline())
        # Anywhere in the next operation or two, as long as these take here.
        time.sleep(generator.random() * 3 * (time.monotonic() - started) / max(1, len(lines)))
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"the writer ended by itself with {process.returncode}: {lines[-1]}")
    log.take([line for line in lines if line.endswith("\n")])


def check(address: str, options: dict[str, Any], log: Log) -> None:
    """Read everything back and compare it with the log. Raises AssertionError."""
    with contextlib.closing(open_backend(address, **options)) as backend:
        if backend.read_manifest() is None:
            assert not any(version is not None for version in log.acknowledged.values()), "the collection is gone"
            log.settle({})
            return
        verify = getattr(backend, "verify", None)
        if verify is not None:
            report = verify()
            assert report.ok, report.problems
        transactions = backend.capabilities.transactions
        if backend.capabilities.attachments:
            check_attachment(backend, log)
        if not transactions:
            backend.repair()
        if backend.capabilities.attachments:
            check_attachment(backend, log)
        with MatryoshkaRetriever(None, backend) as retriever:
            found = read_back(retriever)
            check_versions(found, log, transactions)
            check_search(retriever, found)
    log.settle(found)


def read_back(retriever: MatryoshkaRetriever) -> dict[int, int]:
    """The version of every row, none half written, none twice."""
    found: dict[int, int] = {}
    for part in retriever.backend.scan(vectors=True, batch_size=50):
        for row in part.rows():
            number, version = int(row.id), row.metadata["version"]
            assert number not in found, f"row {number} is there twice"
            found[number] = version
            assert row.metadata == metadata_of(number, version), f"row {number}: {row.metadata}"
            assert row.document == text_of(number, version), f"row {number} has the text {row.document!r:.80}"
            vector = vector_of(number, version)
            assert (row.vector is None) == (vector is None), (
                f"row {number} {'has no' if row.vector is None else 'has a'} vector"
            )
            if vector is not None:
                assert row.vector is not None and float(row.vector @ vector) > 0.999 * float(
                    np.linalg.norm(row.vector)
                ), number
    numbers = list(range(UNIVERSE))
    got = {int(row.id): row.metadata["version"] for row in retriever.get(numbers) if row is not None}
    assert got == found, "get and scan differ"
    assert retriever.count() == len(found)
    assert retriever.count({"even": True}) == sum(version % 2 == 0 for version in found.values())
    return found


def check_versions(found: dict[int, int], log: Log, transactions: bool) -> None:
    rows, new = log.under_way or ([], None)
    changed = set()
    for number in {*found, *log.acknowledged, *rows}:
        version, old = found.get(number), log.acknowledged.get(number)
        if version == old:
            continue
        assert number in rows and version == new, f"row {number} has version {version}, acknowledged was {old}"
        changed.add(number)
    kept = [number for number in rows if number not in changed and log.acknowledged.get(number) != new]
    assert not transactions or not changed or not kept, (
        f"half a batch is in: {sorted(changed)}, without {kept} ({log.under_way})"
    )


def check_attachment(backend: Backend, log: Log) -> None:
    """It is the acknowledged version, or the one that was under way, whole; what it is now is acknowledged."""
    found = backend.read_attachment(ATTACHMENT)
    for version in (log.attached, log.attaching):
        if found == (None if version is None else attachment_of(version)):
            log.attached, log.attaching = version, None
            return
    raise AssertionError(
        f"the attachment has {'no' if found is None else len(found)} bytes, expected those of version {log.attached} "
        f"or {log.attaching}"
    )


def check_search(retriever: MatryoshkaRetriever, found: dict[int, int]) -> None:
    there = [(number, version) for number, version in found.items() if vector_of(number, version) is not None]
    if not there:
        return
    queries = np.stack([vector_of(*one) for one in there])  # type: ignore[arg-type]
    for exact in (False, True):
        results = retriever.search_batch_by_vector(queries, 5, coarse_top_k=4 * UNIVERSE, exact=exact)
        for (number, version), result in zip(there, results, strict=True):
            best = result[0]
            assert int(best.id) == number and best.score > 0.999, (
                f"row {number} is not found by its vector: {result.ids}"
            )
            assert best.document == text_of(number, version)
            assert len(set(result.ids)) == len(result.ids) and {int(id) for id in result.ids} <= found.keys()


def run(address: str, rounds: int, seed: int = 0, options: dict[str, Any] | None = None) -> Iterator[Log]:
    """Kill and check ``rounds`` times; yields the log after each."""
    generator, log = random.Random(seed), Log()
    for _ in range(rounds):
        kill_one(address, options or {}, log, generator)
        check(address, options or {}, log)
        yield log


@contextlib.contextmanager
def place(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """The address to write to, and the backend's options; a server is started where the backend is one."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if arguments.address:
            yield arguments.address, arguments.options
        elif arguments.backend == "pgvector":
            server = stack.enter_context(run_postgres())
            yield f"pgvector+{server.url}", {"user": USER, "password": PASSWORD, **arguments.options}
        elif arguments.backend == "chroma-server":
            yield f"chroma+{stack.enter_context(run_chroma(Path(folder)))}", arguments.options
        else:
            yield f"{arguments.backend}:{folder}/crash", arguments.options


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="faiss", help="pgvector, chroma-server, or a scheme that takes a folder")
    parser.add_argument("--address", help="instead of --backend: an empty place, such as a server's")
    parser.add_argument("--options", type=json.loads, default={}, help="of the backend, as JSON")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--version", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.write, arguments.options, arguments.seed, arguments.version)
    with place(arguments) as (address, options):
        cut_short = 0
        for number, log in enumerate(run(address, arguments.rounds, arguments.seed, options), 1):
            cut_short += log.cut_short
            if number % 20 == 0 or number == arguments.rounds:
                there = sum(version is not None for version in log.acknowledged.values())
                sys.stdout.write(
                    f"{number} kills, {cut_short} of them within an operation; {log.done} operations acknowledged, "
                    f"{there} rows there: nothing lost, nothing half written, nothing twice\n"
                )
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
