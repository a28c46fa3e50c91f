"""Damages copies of a store and looks what comes of it; run in a process of its own, which must live to the end.

``python damage.py PRISTINE WORK SEED ROUNDS`` writes one JSON line a case: what was done to which file, and how it went.
PRISTINE holds a store ``kb``, and ``truth.json`` with the answers it gave when it was whole.
"""

import json
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np

from mrl_retrieval.documents import RowBatch
from mrl_retrieval.errors import MRLError
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.registry import open_backend
from mrl_retrieval.two_stage import SearchRequest, Stage

DIM, COARSE, K = 16, 8, 6
FILTERS = ({"lang": "en"}, {"n": {"$gte": 40, "$lt": 90}}, {"tags": {"$contains": "x"}}, {"lang": {"$ne": "de"}})


def vectors_of(n, seed=0):
    return normalize(np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32))


def make(place, dtype="float16"):
    """A store with everything in it: several segments, deleted, overwritten and compacted rows, rows without a vector,
    an index file that lags behind, and commits that are still in SQLite's log."""
    with open_backend(f"faiss:{place}/kb", fine_dtype=dtype) as backend:
        backend._store._segment_bytes = 40 * DIM * 2
        backend.write_manifest(Manifest(dim=DIM, coarse_dims=COARSE, fine_dims=DIM, collection_id="damaged"), None)
        vectors = vectors_of(130)
        for start in range(0, 120, 20):
            backend.upsert(batch(range(start, start + 20), vectors))
        backend.delete([f"d{i}" for i in range(0, 60, 3)])
        backend.compact()
        backend.flush()
        backend.upsert(batch(range(5, 25), vectors, bare=(7, 8)))
        backend.delete(["d100"])
        backend.upsert(batch(range(120, 130), vectors))
        shutil.copytree(f"{place}/kb", f"{place}/open")  # as a killed process leaves it: with a log
    (place / "truth.json").write_text(json.dumps(answers(f"faiss:{place}/kb")))


def batch(numbers, vectors, bare=()):
    numbers = list(numbers)
    has_vector = np.array([n not in bare for n in numbers])
    return RowBatch(
        [f"d{n}" for n in numbers],
        [f"the text of number {n}, " * (1 + n % 60) for n in numbers],
        [{"lang": ("en", "de")[n % 2], "n": n, "tags": ["x", "y"][: n % 3], "id": f"d{n}"} for n in numbers],
        np.where(has_vector[:, None], vectors[numbers], 0).astype(np.float32),
        has_vector,
    )


def answers(address, keep=None):
    """Everything that can be asked of it, as JSON. ``keep``: of these rows alone, as hits are concerned."""
    with open_backend(address) as backend:
        backend.read_manifest()
        queries = vectors_of(3, 5)
        out = {}
        for condition in (None, *FILTERS):
            for exact in (False, True):
                stages = (Stage(DIM, K),) if exact else (Stage(COARSE, 200), Stage(DIM, K))
                found = backend.search(SearchRequest(queries, stages, parse_filter(condition)))
                out[f"search {condition} {exact}"] = [
                    [
                        [row.id, row.document, row.metadata, round(float(score), 5)]
                        for row, score in zip(r.rows, r.scores, strict=True)
                    ]
                    for r in found
                ]
            out[f"count {condition}"] = backend.count(parse_filter(condition))
        out["get"] = [
            row and [row.id, row.document, row.metadata] for row in backend.get([f"d{i}" for i in range(135)])
        ]
        out["scan"] = {
            row.id: [row.document, row.metadata, None if row.vector is None else row.vector.tolist()]
            for part in backend.scan(vectors=True, batch_size=50)
            for row in part.rows()
        }
    return out


def targets(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


def damage(place, other, name, kind, generator):
    path = place / name
    size = path.stat().st_size
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        os.truncate(path, generator.randrange(size) if size else 0)
    elif kind == "empty":
        os.truncate(path, 0)
    elif kind == "longer":
        with path.open("ab") as file:
            file.write(generator.randbytes(generator.randrange(1, 5000)))
    elif kind == "swapped":
        shutil.copy(other / generator.choice(targets(other)), path)
    elif kind == "older":
        if (other / name).exists():
            shutil.copy(other / name, path)
    else:
        raw = bytearray(path.read_bytes())
        if not raw:
            return
        at = generator.randrange(len(raw))
        if kind == "flipped":
            raw[at] ^= 1 << generator.randrange(8)
        elif kind == "zeroed":
            raw[at : at + 512] = bytes(len(raw[at : at + 512]))
        else:
            raw[at : at + 64] = generator.randbytes(len(raw[at : at + 64]))
        path.write_bytes(raw)


KINDS = (
    "flipped",
    "flipped",
    "flipped",
    "noise",
    "zeroed",
    "truncated",
    "missing",
    "empty",
    "longer",
    "swapped",
    "older",
)


def outcome_of(place, truth):
    """How a damaged store behaves: "right", or the name of the error. Anything else is an exception."""
    try:
        found = json.loads(json.dumps(answers(f"faiss:{place}")))
    except MRLError as error:
        return type(error).__name__
    # What docs/faiss.md says of SQLite's index of ids: verify() tells of it.
    missing = [i for i, row in enumerate(truth["get"]) if found["get"][i] is None and row is not None]
    if missing:
        with open_backend(f"faiss:{place}") as backend:
            assert not backend.verify().ok
        for i in missing:
            found["get"][i] = truth["get"][i]
    for name, value in truth.items():
        assert found[name] == value, f"wrong answer: {name}: {str(found[name])[:300]}, truly {str(value)[:300]}"
    return "right"


def repaired(place, truth):
    """Repair it; what is there afterwards must be true, and what is not must be in the report."""
    try:
        with open_backend(f"faiss:{place}") as backend:
            report = backend.repair()
    except MRLError as error:
        return type(error).__name__
    with open_backend(f"faiss:{place}") as backend:
        after = backend.verify()
        assert after.ok, after.problems
    found = json.loads(json.dumps(answers(f"faiss:{place}")))
    if not report.lost_commits:
        for id, (document, metadata, vector) in found["scan"].items():
            assert id in truth["scan"], f"{id} came back"
            expected = truth["scan"][id]
            assert [document, metadata] == expected[:2], f"{id} is another"
            assert vector == expected[2] or (vector is None and id in report.without_vector), f"{id}: other vector"
        gone = truth["scan"].keys() - found["scan"].keys()
        unknown = gone - set(report.lost) - set(report.quarantined)
        assert len(unknown) <= report.unaccounted + len(report.quarantined), (gone, report)
    assert set(report.without_vector) <= found["scan"].keys()
    assert all(found["scan"][id][2] is None for id in report.without_vector)
    if not report.problems:
        assert found == truth
    lost = len(truth["scan"]) - len(found["scan"])
    return f"repaired, {lost} rows and {len(report.without_vector)} vectors lost" if report.problems else "sound"


def say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main(pristine, work, seed, rounds):
    truth = json.loads((pristine / "truth.json").read_text())
    older = pristine / "older"
    for number in range(rounds):
        for state in ("kb", "open"):
            source = pristine / state
            for name in targets(source):
                generator = random.Random(f"{seed} {number} {state} {name}")
                kind = KINDS[number] if number < len(KINDS) else generator.choice(KINDS)
                case = {"case": f"{state}/{name} {kind}", "seed": seed, "round": number}
                place = work / "case"
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(source, place)
                damage(place, older, name, kind, generator)
                say(case | {"begun": True})
                for step in (outcome_of, repaired):
                    try:
                        case[step.__name__] = step(place, truth)
                    except Exception as error:
                        case["failed"] = f"{step.__name__}: {type(error).__name__}: {error}"
                        break
                say(case)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
