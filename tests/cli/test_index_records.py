"""``mrl index`` on jsonl, csv and tsv: fields, ids, and errors that name file and line."""

from __future__ import annotations

import gzip
import json
import uuid

import pytest

from mrl_retrieval.documents import MOST_LEVELS
from mrl_retrieval.registry import open_backend
from mrl_retrieval.retriever import MatryoshkaRetriever

LONG = " ".join(f"Sentence number {i} is here." for i in range(60))


def test_beir_form_is_recognised(index, rows, jsonl):
    index(jsonl("corpus.jsonl", {"_id": "4983", "title": "A title", "text": "The text.", "url": "x"}))
    row = rows()["4983"]
    assert row.document == "A title\n\nThe text."
    assert row.metadata["title"] == "A title"
    assert "url" not in row.metadata


def test_chosen_fields(index, rows, jsonl):
    path = jsonl(
        "a.jsonl",
        {"key": 7, "q": "Question?", "a": "Answer ✓", "tags": ["x", "y"], "source": "wiki", "n": {"deep": 1.5}},
        {"key": 8, "q": None, "a": "Only this"},
    )
    index(path, "--id", "key", "--text", "q,a", "--metadata-fields", "tags,n,origin=source")
    found = rows()
    assert found["7"].document == "Question?\n\nAnswer ✓"
    assert found["8"].document == "Only this"
    kept = {k: v for k, v in found["7"].metadata.items() if k in ("tags", "n", "origin", "source")}
    assert kept == {"tags": ["x", "y"], "n": {"deep": 1.5}, "origin": "wiki", "source": str(path)}


def test_without_ids_the_content_makes_them(index, rows, jsonl):
    path = jsonl("a.jsonl", {"text": "one"}, {"text": "two"}, {"text": "one"})
    assert "1 repeated" in index(path).out
    first = set(rows())
    assert len(first) == 2
    assert all(uuid.UUID(id).version == 5 for id in first)
    jsonl("a.jsonl", {"text": "zero"}, {"text": "one"}, {"text": "two"})
    done = index(path)
    assert "1 new, 0 changed, 2 unchanged, 0 dropped" in done.out, "moved lines are not changed ones"
    assert first < set(rows())


def test_no_id_ignores_the_field(index, rows, jsonl):
    index(jsonl("a.jsonl", {"id": "same", "text": "one"}, {"id": "same", "text": "two"}), "--no-id")
    assert len(rows()) == 2
    assert "same" not in rows()


def test_only_changed_records_are_written(index, rows, jsonl):
    records = [{"_id": str(i), "text": f"text {i}"} for i in range(50)]
    path = jsonl("a.jsonl", *records)
    index(path)
    records[7]["text"] = "another"
    del records[20]
    records.append({"_id": "new", "text": "new"})
    jsonl("a.jsonl", *records)
    done = index(path)
    assert "1 new, 1 changed, 48 unchanged, 1 dropped" in done.out
    assert "2 rows written, 1 dropped" in done.out
    found = rows()
    assert found["7"].document == "another"
    assert "20" not in found
    assert len(found) == 50


def test_other_text_field_or_metadata_indexes_again(index, rows, jsonl):
    path = jsonl("a.jsonl", {"id": "1", "text": "x", "body": "y", "year": 2020})
    index(path)
    assert "1 changed" in index(path, "--text", "body").out
    assert rows()["1"].document == "y"
    assert "1 changed" in index(path, "--text", "body", "--metadata-fields", "year").out
    assert rows()["1"].metadata["year"] == 2020


def test_records_longer_than_a_chunk(index, rows, jsonl):
    text = " ".join(f"Sentence number {i} is here." for i in range(40))
    index(jsonl("a.jsonl", {"id": "long", "text": text}, {"id": "short", "text": "brief"}), "--chunk-tokens", 30)
    found = rows()
    assert "short" in found
    pieces = [row for id, row in found.items() if id.startswith("long#")]
    assert len(pieces) > 3
    assert all(text[p.metadata["start"] : p.metadata["end"]] == p.document for p in pieces)


def test_renamed_file_keeps_its_ids(index, rows, jsonl, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    jsonl("data/a.jsonl", {"id": "1", "text": "x"}, {"id": "2", "text": "y"})
    index(folder, "--glob", "*.jsonl")
    (folder / "a.jsonl").rename(folder / "b.jsonl")
    index(folder, "--glob", "*.jsonl")
    found = rows()
    assert sorted(found) == ["1", "2"]
    assert {row.metadata["source"] for row in found.values()} == {str(folder / "b.jsonl")}


@pytest.mark.parametrize(("old", "new"), [("a.jsonl", "b.jsonl"), ("b.jsonl", "a.jsonl")])
def test_a_record_may_move_between_files(index, rows, jsonl, old, new, tmp_path):
    jsonl(old, {"id": "1", "text": "x"}, {"id": "stays", "text": "z"})
    jsonl(new, {"id": "2", "text": "y"})
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    index(*paths)
    jsonl(old, {"id": "stays", "text": "z"})
    jsonl(new, {"id": "2", "text": "y"}, {"id": "1", "text": "x"})
    index(*paths)
    assert sorted(rows()) == ["1", "2", "stays"]
    assert rows()["1"].metadata["source"] == str(tmp_path / new)
    assert "3 unchanged" in index(*paths).out


def test_gzip_csv_and_tsv(index, rows, tmp_path):
    zipped = tmp_path / "z.jsonl.gz"
    zipped.write_bytes(gzip.compress(b'{"id": "z", "text": "from gzip"}\n'))
    comma = tmp_path / "c.csv"
    comma.write_bytes('\ufeffid,text,year\r\nc1,"two\nlines, and a ""quote""",2020\r\n\r\nc2,ünï,2021\r\n'.encode())
    tab = tmp_path / "t.tsv"
    tab.write_text("id\ttext\nt1\ta\tb\n".replace("a\tb", "one, two"), encoding="utf-8")
    index(zipped)
    index(comma, "--metadata-fields", "year")
    index(tab)
    found = rows()
    assert {id: row.document for id, row in found.items()} == {
        "z": "from gzip", "c1": 'two\nlines, and a "quote"', "c2": "ünï", "t1": "one, two"}  # fmt: skip
    assert found["c1"].metadata["year"] == "2020"


def test_a_field_of_a_megabyte(index, rows, tmp_path):
    path = tmp_path / "big.csv"
    path.write_text("id,text\n1," + "word " * 200_000 + "\n")
    index(path, "--no-chunk")
    assert len(rows()["1"].document) > 900_000


BAD_LINES = {
    "not JSON": ("{oops", "not JSON"),
    "not an object": ('["a"]', "expected an object"),
    "no text": ('{"id": "x", "body": "b"}', "no field 'text' (fields: 'id', 'body'); choose the fields with --text"),
    "text is no string": ('{"id": "x", "text": 5}', "the field 'text' is 5, expected a string"),
    "id is a list": ('{"id": [1], "text": "b"}', "the field 'id' is [1]"),
    "id is empty": ('{"id": "", "text": "b"}', "the field 'id' is \"\""),
    "same id": ('{"id": "good", "text": "b"}', "the id 'good' is also on line 1"),
    "lone surrogate": ('{"id": "x", "text": "\\ud800"}', "lone surrogate"),
    "lone surrogate in an id": ('{"id": "\\udc00", "text": "x"}', "the field 'id' has a lone surrogate"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "deep text": ('{"id": "x", "text": ' + "[" * 900 + "]" * 900 + "}", "expected a string"),
    "deep id": ('{"text": "x", "id": ' + "[" * 900 + "]" * 900 + "}", "the field 'id' is"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_record_changes_nothing_of_its_file(index, mrl, rows, uri, tmp_path, name):
    line, message = BAD_LINES[name]
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "good", "text": "old"}\n')
    index(path)
    path.write_text('{"id": "good", "text": "new"}\n' + "\n" + line + "\n")
    done = mrl("index", path, "--to", uri)
    assert done.status == 1
    assert done.err.startswith(f"mrl: {path}:3: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert rows()["good"].document == "old"


@pytest.mark.parametrize(
    ("name", "text", "line", "message"),
    [
        ("a.csv", "id,text\n1,x\n2,y,z\n", 3, "3 fields, the header has 2"),
        ("a.csv", 'id,text\n1,"x\ny"\n2\n', 4, "1 fields, the header has 2"),
        ("a.csv", 'id,text\n1,"x\n', 2, "not valid csv"),
        ("a.csv", "id,text,text\n", 1, "the header names 'text' twice"),
        ("a.tsv", "id\tbody\n1\tx\n", 2, "no field 'text'"),
    ],
)
def test_bad_tables(mrl, uri, tmp_path, name, text, line, message):
    path = tmp_path / name
    path.write_text(text)
    done = mrl("index", path, "--to", uri, "--encoder", "hashing")
    assert done.status == 1
    assert done.err.startswith(f"mrl: {path}:{line}: ")
    assert message in done.err


def test_unknown_metadata_column_of_a_table(mrl, uri, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text\n1,x\n")
    done = mrl("index", path, "--to", uri, "--encoder", "hashing", "--metadata-fields", "yaer")
    assert "no column 'yaer' (columns: 'id', 'text')" in done.err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("NaN", "the field 'n' holds NaN, which is no number of JSON; write null"),
        ('{"a": [1e999]}', "the field 'n' holds Infinity"),
        (
            "[9223372036854775808]",
            "the field 'n' holds 9223372036854775808, a number beyond 64 bits; write it as a string",
        ),
        ('["\\ud800"]', "the field 'n' has a lone surrogate, '\\ud800', at character 0"),
        ('{"a\\ud800": 1}', "the field 'n' has a lone surrogate, '\\ud800', at character 1"),
        ("[" * 600 + "]" * 600, "the field 'n' is nested more than"),
        ("[" * MOST_LEVELS + "]" * MOST_LEVELS, "the field 'n' is nested more than"),
        ('{"a":' * 900 + "1" + "}" * 900, "the field 'n' is nested more than"),
    ],
)
def test_metadata_that_no_database_can_hold(mrl, uri, tmp_path, value, message):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"text": "x", "n": ' + value + "}\n")
    done = mrl("index", path, "--to", uri, "--encoder", "hashing", "--metadata-fields", "kept=n")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert done.err.startswith(f"mrl: {path}:2: {message}")


def test_metadata_as_deep_as_it_may_be(index, rows, tmp_path):
    deepest = "[" * (MOST_LEVELS - 1) + "]" * (MOST_LEVELS - 1)
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "x", "text": "x", "n": ' + deepest + ', "unused": ' + "[" * 500 + "]" * 500 + "}\n")
    index(path, "--metadata-fields", "n")
    assert json.dumps(rows()["x"].metadata["n"]) == deepest


def test_a_table_says_the_row_of_a_taken_id(mrl, uri, tmp_path):
    """A row that the API made stays, whichever way its id is met."""
    with MatryoshkaRetriever("hashing", uri) as retriever:
        retriever.index(["by hand", "and more"], ids=["1", "long#2"])
    path = tmp_path / "f.csv"
    before = {"1": "by hand", "long#2": "and more"}
    for name, text, line, message in [
        ("f.csv", 'id,text\n0,"two\nlines"\n1,new\n', 4, "the id '1' is that of a row that mrl index did not make"),
        ("f.jsonl", json.dumps({"id": "long", "text": LONG}), 1, "the id 'long#2', the name of a chunk of 'long'"),
    ]:
        path = tmp_path / name
        path.write_text(text)
        done = mrl("index", path, "--to", uri, "--chunk-tokens", 30)
        assert (done.status, done.err.count("\n")) == (1, 1)
        assert done.err.startswith(f"mrl: {path}:{line}: {message}")
        assert "use another collection, another field with --id, or --no-id" in done.err
        with open_backend(uri) as backend:
            assert {row.id: row.document for batch in backend.scan() for row in batch.rows()} == before


def test_the_same_id_in_two_files(index, mrl, rows, uri, jsonl, tmp_path):
    index(jsonl("a.jsonl", {"id": "1", "text": "from a"}))
    path = jsonl("b.jsonl", {"id": "0", "text": "fine"}, {"id": "1", "text": "from b"})
    for arguments in ([path], [tmp_path / "a.jsonl", path]):
        done = mrl("index", *arguments, "--to", uri)
        assert done.status == 1
        assert f"{path}:2: the id '1' is already there from {tmp_path / 'a.jsonl'}" in done.err
        assert {id: row.document for id, row in rows().items()} == {"1": "from a"}


def test_ids_that_look_like_chunks(index, mrl, uri, jsonl):
    path = jsonl("a.jsonl", {"id": "a", "text": "x"}, {"id": "a#1", "text": "y"}, {"id": "issue#7", "text": "z"})
    done = mrl("index", path, "--to", uri, "--encoder", "hashing")
    assert f"{path}:2: the id 'a#1' is the name that a chunk of another record gets" in done.err
    index(path, "--no-chunk")


@pytest.mark.parametrize("first", ["before", "together", "after", "in the wrong order"])
def test_chunks_never_overwrite_another_files_record(index, mrl, rows, uri, jsonl, first):
    mine = jsonl("q.jsonl", {"id": "z", "text": "fine"}, {"id": "a#2", "text": "mine"})
    long = jsonl("p.jsonl", {"id": "0", "text": "fine too"}, {"id": "a", "text": LONG})
    split = ("--chunk-tokens", 30, "--batch-size", 1)
    chunk = f"{long}:2: the id 'a#2', the name of a chunk of 'a' (it has"
    if first == "after":
        index(long, *split)
        before = rows()
        done = mrl("index", mine, "--to", uri, *split)
        assert f"{mine}:2: the id 'a#2' is already there from {long}, as the name of a chunk of 'a'; use" in done.err
    else:
        if first != "together":
            index(mine)
        files = {"before": [long], "together": [mine, long], "in the wrong order": [long, mine]}[first]
        before = {"z": "fine", "a#2": "mine"}
        done = mrl("index", *files, "--to", uri, "--encoder", "hashing", *split)
        assert chunk in done.err and f"is already there from {mine}; use another collection" in done.err
    assert (done.status, done.err.count("\n")) == (1, 1)
    if first != "together":  # q.jsonl is without fault, and may be in or not
        assert {id: row.document for id, row in rows().items()} == {
            id: getattr(row, "document", row) for id, row in before.items()
        }
    index(mine, long, "--no-chunk") if first != "after" else None


def test_a_chunk_may_have_the_name_of_a_record_that_moved_away_or_a_row_of_its_own_file(index, rows, jsonl):
    """What is taken is what will be there, not what was."""
    one = jsonl("a.jsonl", {"id": "a", "text": LONG})
    index(one, "--chunk-tokens", 30)
    next_one = f"a#{len(rows()) + 1}"
    two = jsonl("b.jsonl", {"id": next_one, "text": "x"})
    index(one, two, "--chunk-tokens", 30)
    jsonl("b.jsonl", {"id": "b", "text": "x"})
    jsonl("a.jsonl", {"id": "a", "text": LONG + " " + LONG})
    index(one, two, "--chunk-tokens", 30)
    assert rows()[next_one].metadata["source"] == str(one)
    jsonl("a.jsonl", {"id": next_one, "text": "its own now"})
    index(one, two, "--chunk-tokens", 30)
    assert {id: row.document for id, row in rows().items()} == {next_one: "its own now", "b": "x"}


def test_a_row_in_nobodys_way_stays_and_hinders_nothing(index, mrl, rows, uri, jsonl):
    path = jsonl("a.jsonl", {"id": "a", "text": LONG}, {"id": "b", "text": "brief"})
    with MatryoshkaRetriever("hashing", uri) as retriever:
        retriever.index(["by hand"] * 3, ids=["a", "b#1", "a#1000"])
    index(path, "--chunk-tokens", 30)
    assert "2 unchanged" in index(path, "--chunk-tokens", 30).out
    assert [rows()[id].document for id in ("a", "b#1", "a#1000")] == ["by hand"] * 3
    jsonl("a.jsonl", {"id": "a", "text": "short now"})
    assert f"{path}:1: the id 'a' is that of a row" in mrl("index", path, "--to", uri, "--chunk-tokens", 30).err


def test_one_id_in_two_files_though_no_row_has_it(index, mrl, rows, uri, jsonl):
    long, short = jsonl("p.jsonl", {"id": "a", "text": LONG}), jsonl("q.jsonl", {"id": "a", "text": "short"})
    index(long, "--chunk-tokens", 30)
    before = rows().keys()
    done = mrl("index", short, "--to", uri)
    assert f"{short}:1: the id 'a' is already there from {long}; use" in done.err
    assert rows().keys() == before


def test_damaged_gzip_and_wrong_encodings(mrl, uri, tmp_path):
    broken = tmp_path / "x.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"text": "x"}\n' * 1000)[:-20])
    done = mrl("index", broken, "--to", uri, "--encoder", "hashing")
    assert f"{broken} is no gzip file, or a damaged one" in done.err
    broken.write_bytes(b'{"text": "x"}\n')
    assert "is no gzip file" in mrl("index", broken, "--to", uri, "--encoder", "hashing").err


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"x" * (2**20 - 1), b"x" * (3 * 2**20 + 5)])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_the_offset_of_a_bad_byte(mrl, uri, tmp_path, before, name):
    path = tmp_path / name
    path.write_bytes(before + "é".encode() + b"\xe9\n")
    done = mrl("index", path, "--to", uri, "--encoder", "hashing")
    assert done.status == 1
    assert f"{path}: byte 0xe9 at offset {len(before) + 2} is not valid utf-8" in done.err
    assert "--encoding latin-1" in done.err


def test_a_character_cut_by_the_end_of_the_file_and_utf16_without_saying_so(mrl, uri, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("日本".encode()[:-1])
    assert "byte 0xe6 at offset 3 is not valid utf-8" in mrl("index", path, "--to", uri, "--encoder", "hashing").err
    path.write_text("hello", encoding="utf-16")
    assert "--encoding utf-16" in mrl("index", path, "--to", uri, "--encoder", "hashing").err


def test_a_large_file_is_not_read_into_memory(index, uri, tmp_path):
    import tracemalloc

    path = tmp_path / "large.jsonl"
    line = json.dumps({"text": "x " * 5000, "_id": ""})
    with path.open("w") as file:
        for i in range(3000):
            file.write(line.replace('"_id": ""', f'"_id": "{i}"') + "\n")
    index(path, "--no-chunk", "--text", "_id")  # the long texts are read, but not kept
    tracemalloc.start()
    index(path, "--no-chunk", "--text", "_id")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2
