"""What the tests of repairing damage by hand and look at afterwards."""

import json
import sqlite3
from contextlib import closing

import numpy as np

from mrl_retrieval.filters import parse_filter

ROWS = 30


IDS = [f"n{i}" for i in range(ROWS)]


def hand(files, statement, *values):
    """Change the database behind the library's back."""
    with closing(sqlite3.connect(files.database, isolation_level=None)) as connection:
        connection.execute(statement, values)


def flip(path, at, bit=0):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1 << bit
    path.write_bytes(raw)


def check(store, vector, without_vector=(), gone=()):
    report = store.verify()
    assert report.ok, report.problems
    with store.snapshot() as snapshot:
        rows = {r.id: r for r in (row for row in snapshot.get(IDS, vectors=True) if row is not None)}
        assert sorted(rows) == sorted(set(IDS) - set(gone))
        for id, row in rows.items():
            assert (row.document, row.metadata) == (f"text of {id}", {"name": id, "n": int(id[1:])})
            if id in ("n4", *without_vector):
                assert row.vector is None
            else:
                np.testing.assert_array_equal(row.vector, vector(id).astype("<f2").astype(np.float32))
        mask = snapshot.mask(parse_filter({"n": {"$gte": 10}}))
        assert np.count_nonzero(mask) == len([id for id in rows if int(id[1:]) >= 10])


def quarantined(report):
    lines = (report.quarantine / "rows.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]
