"""LanceDB tables as users make them become two-stage collections, and stay as they were."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="lancedb is not installed: pip install 'mrl-retrieval[lancedb]'")

import lancedb
import pyarrow as pa  # type: ignore[import-untyped]

from mrl_retrieval import MatryoshkaRetriever, errors
from mrl_retrieval.documents import content_id
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.moving.importing import Fields, import_collection

DIM = 32
TEXTS = [f"document number {i} about topic {i % 7}" for i in range(250)]
ENCODER = HashingEncoder(DIM)
VECTORS = ENCODER.encode_document(TEXTS)


def address(tmp_path: Path, name: str = "docs") -> str:
    return f"lancedb:{tmp_path}/theirs?collection={name}"


def vector_column(vectors: Any, dtype: str = "float32", missing: Any = None) -> Any:
    flat = pa.array(np.ascontiguousarray(vectors, dtype=dtype).reshape(-1))
    mask = None if missing is None else pa.array(np.asarray(missing))
    return pa.FixedSizeListArray.from_arrays(flat, np.shape(vectors)[1], mask=mask)


def make(tmp_path: Path, columns: Any, name: str = "docs") -> Any:
    return lancedb.connect(str(tmp_path / "theirs")).create_table(name, columns, on_bad_vectors="null")


def snapshot(table: Any) -> Any:
    table.checkout_latest()
    return table.version, [version["version"] for version in table.list_versions()], table.to_arrow()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_beside_the_original(tmp_path: Path, dtype: str) -> None:
    berlin = pa.timestamp("us", "Europe/Berlin")
    times = [dt.datetime(2024, 7, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))] * 250
    columns = {
        "id": [f"id-{i}" for i in range(250)],
        "vector": vector_column(VECTORS * 3, dtype, [i % 50 == 49 for i in range(250)]),
        "text": [None if i == 7 else text for i, text in enumerate(TEXTS)],
        "i": list(range(250)),
        "deep": [{"x": i / 2, "y": {"names": ["a", None]}} for i in range(250)],
        "made": pa.array(times, type=berlin),
        "day": [dt.date(2024, 1, 2)] * 250,
        "price": [Decimal("12.50")] * 250,
        "raw": [b"\0\xff"] * 250,
        "kind": pa.array(["a"] * 250).dictionary_encode(),
        "second vector": vector_column(VECTORS[:, :2]),
    }
    table = make(tmp_path, pa.table(columns))
    table.add(pa.table({"id": ["last"], "vector": vector_column([[1.0] * DIM], dtype)}))
    before = snapshot(table)
    fields = Fields(vector="vector", text="text")
    report = import_collection(address(tmp_path), fields=fields, encoder=ENCODER, coarse_dims=16, batch_size=60)
    assert report.target == f"{address(tmp_path)}-mrl" and (report.rows, report.vectors) == (251, 246)
    assert report.shortest == pytest.approx(3, abs=2e-3)
    with MatryoshkaRetriever.open(report.target) as retriever:
        assert retriever.count() == 251 and retriever.count({"deep.x": {"$lt": 2}, "i": {"$gt": 1}}) == 2
        (hit,) = retriever.search(TEXTS[33], 1)
        assert (hit.id, hit.document) == ("id-33", TEXTS[33]) and hit.score == pytest.approx(1, abs=1e-3)
        assert hit.metadata == {
            "i": 33, "deep": {"x": 16.5, "y": {"names": ["a", None]}}, "made": "2024-07-01T10:00:00+00:00",
            "day": "2024-01-02", "price": 12.5, "raw": "AP8=", "kind": "a",
        }  # fmt: skip
        row, bare, last = retriever.get(["id-7", "id-49", "last"], vectors=True)
        assert row is not None and row.vector is not None and row.document is None
        np.testing.assert_allclose(row.vector, VECTORS[7], atol=1e-3 if dtype == "float16" else 1e-6)
        assert bare is not None and bare.vector is None and last is not None and last.metadata["deep"] is None
    assert snapshot(table) == before


def test_another_database_and_again(tmp_path: Path) -> None:
    columns = {"key": list(range(250)), "v": vector_column(VECTORS), "a": TEXTS, "b": ["b"] * 250}
    table = make(tmp_path, pa.table(columns))
    target, fields = f"faiss:{tmp_path}/kb", Fields(text="a", id="key", metadata=("b",))
    assert import_collection(address(tmp_path), target, fields=fields, encoder=ENCODER).rows == 250
    table.update(where="key = 0", values={"b": "changed", "v": [1.0] * DIM})
    assert import_collection(address(tmp_path), target, fields=fields).rows == 250
    with MatryoshkaRetriever.open(target, encoder=ENCODER) as retriever:
        (row,) = retriever.get(["0"])
        assert row is not None and (row.document, row.metadata) == (TEXTS[0], {"b": "changed"})
        assert retriever.search_by_vector([1.0] * DIM, 1).ids == ["0"]


def test_rows_without_ids_and_a_lifted_struct(tmp_path: Path) -> None:
    """The layout of LangChain, but for its ids: they are made of the content, as when it is indexed here."""
    rows = [
        {"vector": v, "text": t, "metadata": {"page": i}} for i, (t, v) in enumerate(zip(TEXTS, VECTORS, strict=True))
    ]
    table = make(tmp_path, [*rows, *rows[:5]])
    before = snapshot(table)
    report = import_collection(address(tmp_path), f"faiss:{tmp_path}/kb", encoder=ENCODER, batch_size=100)
    assert report.rows == 250
    with MatryoshkaRetriever.open(report.target) as retriever:
        (row,) = retriever.get([content_id(TEXTS[3], {"page": 3})])
        assert row is not None and (row.document, row.metadata) == (TEXTS[3], {"page": 3})
        assert retriever.index(TEXTS[3:4], metadatas=[{"page": 3}]) == [row.id] and retriever.count() == 250
    assert snapshot(table) == before
    table.add([{**rows[0], "vector": VECTORS[1]}])
    with pytest.raises(errors.InvalidInput, match="'document number 0 .* equal but for their vectors"):
        import_collection(address(tmp_path), f"faiss:{tmp_path}/two")
    assert not (tmp_path / "two").exists()


def test_rows_without_a_vector_come_first(tmp_path: Path) -> None:
    missing = [i < 100 for i in range(250)]
    make(tmp_path, pa.table({"id": list(range(250)), "v": vector_column(VECTORS, missing=missing), "document": TEXTS}))
    report = import_collection(address(tmp_path), f"faiss:{tmp_path}/kb", batch_size=30)
    assert (report.rows, report.vectors) == (250, 150)


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_a_table_as_pandas_makes_it(tmp_path: Path, unit: str) -> None:
    """Times without a zone, in whichever unit, and pandas' own words in the schema."""
    when = np.array(["2024-01-02T03:04:05"] * 249 + ["NaT"], dtype=f"datetime64[{unit}]")
    numbers = list(range(250))
    made = pa.table({"id": numbers, "vector": vector_column(VECTORS), "content": TEXTS, "when": pa.array(when)})
    make(tmp_path, made.replace_schema_metadata({"pandas": '{"index_columns": [], "columns": []}'}))
    report = import_collection(address(tmp_path), f"faiss:{tmp_path}/kb", encoder=ENCODER)
    with MatryoshkaRetriever.open(report.target) as retriever:
        first, last = retriever.get(["0", "249"])
        assert first is not None and last is not None and first.document == TEXTS[0]
        assert (first.metadata, last.metadata) == ({"when": "2024-01-02T03:04:05"}, {"when": None})


def test_an_import_reads_the_table_as_it_was_when_it_began(tmp_path: Path) -> None:
    table = make(tmp_path, pa.table({"id": list(range(250)), "v": vector_column(VECTORS), "document": TEXTS}))
    removed = False

    def remove(*_: Any) -> None:
        nonlocal removed
        if not removed:
            table.delete("id >= 5")
            table.optimize()
            removed = True

    assert import_collection(address(tmp_path), f"faiss:{tmp_path}/kb", batch_size=10, progress=remove).rows == 250
    assert removed and table.count_rows() == 5


def test_what_is_refused(tmp_path: Path) -> None:
    columns = {"id": list(range(250)), "v": vector_column(VECTORS), "a": TEXTS, "b": ["b"] * 250}
    table = make(tmp_path, pa.table(columns))
    make(tmp_path, pa.table({**columns, "w": vector_column(VECTORS, "float16")}), "two")
    make(tmp_path, pa.table({"id": [1], "v": [[1.0, 2.0]], "q": vector_column([[1, 2]], "uint8")}), "plain")
    make(tmp_path, pa.table({"v": vector_column(VECTORS)}), "bare")
    make(tmp_path, pa.table({"id": ["x", None], "v": vector_column(VECTORS[:2])}), "null")
    make(tmp_path, pa.table({"id": [1], "v": vector_column(VECTORS[:1])}).slice(0, 0), "empty")
    far = pa.array([2**62], type=pa.timestamp("s"))
    make(tmp_path, pa.table({"id": [1], "v": vector_column(VECTORS[:1]), "far": far}), "far")
    before = snapshot(table)

    def refused(error: type[Exception], words: str, name: str = "docs", **fields: Any) -> None:
        options = {key: fields.pop(key) for key in ("encoder", "source_options") if key in fields}
        with pytest.raises(error, match=words):
            import_collection(address(tmp_path, name), f"faiss:{tmp_path}/kb", fields=Fields(**fields), **options)
        assert not (tmp_path / "kb").exists()

    refused(errors.CollectionNotFound, "no table 'x' .*bare, docs, empty, far, null, plain, two", "x")
    refused(errors.InvalidInput, "no column 'x' for --vector-field .*a string", vector="x")
    refused(errors.InvalidInput, "no column 'x' for --text-field", text="x")
    refused(errors.InvalidInput, "no column 'x' for --id-field", id="x")
    refused(errors.InvalidInput, "no column 'x' for --metadata-fields", metadata=("a", "x"))
    refused(errors.InvalidInput, "'a' does not hold vectors", vector="a")
    refused(errors.InvalidInput, r"several vectors \(v, w\)", "two")
    refused(errors.InvalidInput, "no column of vectors .*uint8", "plain")
    refused(errors.InvalidInput, "no column 'id', nor text or metadata", "bare")
    refused(errors.InvalidInput, "a row has no 'id'", "null")
    refused(errors.InvalidInput, "two rows have 'b' as 'b'", id="b")
    refused(errors.InvalidInput, "no rows", "empty")
    refused(errors.InvalidInput, "column 'far' of timestamp", "far")
    refused(errors.InvalidInput, "takes no option 'index'", source_options={"index": "ivf"})
    refused(errors.ModelMismatchError, "not the encoder's", text="a", encoder=lambda texts: np.ones((len(texts), DIM)))
    assert snapshot(table) == before
    import_collection(address(tmp_path))
    refused(
        errors.CollectionNotFound, "no table 'docs-mrl' .*there: bare, docs, empty, far, null, plain, two", "docs-mrl"
    )
    with pytest.raises(errors.CollectionNotFound, match="there: none"):
        import_collection(f"lancedb:{tmp_path}/nothing?collection=docs", f"faiss:{tmp_path}/kb")
    assert not (tmp_path / "nothing").exists()


def test_hostile_names(tmp_path: Path) -> None:
    names = ['a"b', "a'b; --", "Ü x", "SELECT"]
    columns = dict.fromkeys(names, TEXTS[:3]) | {"V v": vector_column(VECTORS[:3]), "I": [1, 2, 3]}
    make(tmp_path, pa.table(columns))
    import_collection(address(tmp_path), f"faiss:{tmp_path}/kb", fields=Fields(id="I", text="Ü x"))
    with MatryoshkaRetriever.open(f"faiss:{tmp_path}/kb") as retriever:
        (row,) = retriever.get(["1"])
        assert row is not None and row.document == TEXTS[0]
        assert row.metadata == {name: TEXTS[0] for name in names if name != "Ü x"}
