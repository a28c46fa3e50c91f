"""``mrl index`` on folders of text: what becomes a row, and what a second run does."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

LONG = "\n\n".join(f"# Part {i}\n\nParagraph {i} speaks of {word} at some length, again and again: {word} {word}."
                   for i, word in enumerate(["apples", "boats", "clouds", "dragons"]))  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    (root / "sub").mkdir(parents=True)
    (root / "a.md").write_text("# Apples\n\nApples are red.", encoding="utf-8")
    (root / "sub" / "b.txt").write_text("Boote fahren übers Meer — 船 🚢", encoding="utf-8")
    return root


def summary(done: object) -> str:
    return str(done.out).splitlines()[0]  # type: ignore[attr-defined]


def test_a_folder_becomes_rows_with_source_and_span(index, rows, folder):
    index(folder)
    found = rows()
    assert sorted(found) == [str(folder / "a.md"), str(folder / "sub" / "b.txt")]
    row = found[str(folder / "sub" / "b.txt")]
    assert row.document == "Boote fahren übers Meer — 船 🚢"
    assert {k: row.metadata[k] for k in ("source", "start", "end")} == {
        "source": str(folder / "sub" / "b.txt"), "start": 0, "end": len(row.document)}  # fmt: skip


def test_hidden_files_other_files_and_links_to_folders_are_left_out(index, rows, folder):
    (folder / ".hidden.md").write_text("no")
    (folder / ".git").mkdir()
    (folder / ".git" / "x.txt").write_text("no")
    (folder / "picture.png").write_bytes(b"\x89PNG\xff")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.md").symlink_to(folder / "nowhere")
    index(folder)
    assert len(rows()) == 2


def test_long_texts_are_split_and_spans_point_into_the_file(index, rows, folder):
    (folder / "long.md").write_text(LONG, encoding="utf-8")
    index(folder, "--chunk-tokens", 25)
    pieces = {id: row for id, row in rows().items() if "long.md" in id}
    assert set(pieces) == {f"{folder / 'long.md'}#{n}" for n in range(1, len(pieces) + 1)}
    assert len(pieces) >= 4
    for row in pieces.values():
        assert LONG[row.metadata["start"] : row.metadata["end"]] == row.document


def test_no_chunk_makes_one_row_a_document(index, rows, folder):
    (folder / "long.md").write_text(LONG * 20, encoding="utf-8")
    index(folder, "--no-chunk")
    assert rows()[str(folder / "long.md")].document == LONG * 20


def test_second_run_does_nothing(index, rows, folder):
    assert "2 new, 0 changed, 0 unchanged, 0 dropped" in summary(index(folder))
    before = rows()
    done = index(folder)
    assert "0 new, 0 changed, 2 unchanged, 0 dropped" in summary(done)
    assert "0 rows written, 0 dropped" in summary(done)
    assert rows().keys() == before.keys()


def test_an_unchanged_run_does_not_load_the_encoder(index, mrl, uri, folder, monkeypatch):
    index(folder)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("encoder was loaded")

    monkeypatch.setattr("mrl_retrieval.encoders.hashing.from_spec", refuse)
    done = mrl("index", folder, "--to", uri)
    assert (done.status, "2 unchanged" in done.out) == (0, True), done.err


def test_changed_file_replaces_its_rows(index, rows, folder):
    path = folder / "a.md"
    path.write_text(LONG)
    index(folder, "--chunk-tokens", 25)
    many = len([id for id in rows() if "a.md" in id])
    path.write_text("Now short.")
    done = index(folder, "--chunk-tokens", 25)
    assert "0 new, 1 changed, 1 unchanged, 0 dropped" in summary(done)
    assert f"1 row written, {many} dropped" in summary(done)
    assert [row.document for id, row in rows().items() if "a.md" in id] == ["Now short."]


def test_vanished_and_renamed_files(index, rows, folder):
    index(folder)
    (folder / "a.md").rename(folder / "z.md")
    (folder / "sub" / "b.txt").unlink()
    done = index(folder)
    assert "1 new, 0 changed, 0 unchanged, 2 dropped" in summary(done)
    assert list(rows()) == [str(folder / "z.md")]


def test_an_emptied_folder_drops_everything_of_it(index, rows, folder):
    index(folder)
    (folder / "a.md").unlink()
    (folder / "sub" / "b.txt").unlink()
    assert "2 dropped" in summary(index(folder))
    assert rows() == {}


def test_another_folder_leaves_the_first_alone(index, rows, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.md").write_text("Also called a.md.")
    index(folder)
    index(other)
    assert len(rows()) == 3
    (folder / "a.md").unlink()
    index(other)
    assert len(rows()) == 3, "the first folder was not in scope"
    index(folder)
    assert len(rows()) == 2


def test_folders_with_a_common_beginning_are_two(index, rows, folder, tmp_path):
    sibling = tmp_path / "docs-old"
    sibling.mkdir()
    (sibling / "c.md").write_text("Old.")
    index(sibling)
    index(folder)
    assert len(rows()) == 3


def test_one_file_of_an_indexed_folder(index, rows, folder):
    index(folder)
    (folder / "a.md").write_text("Pears.")
    done = index(folder / "a.md")
    assert "0 new, 1 changed, 0 unchanged, 0 dropped" in summary(done)
    assert len(rows()) == 2


def test_the_same_file_named_twice_is_read_once(index, rows, folder):
    done = index(folder, folder / "a.md", folder / "sub")
    assert "2 documents in 2 files" in summary(done)


def test_rows_written_by_the_api_stay(index, rows, folder, uri):
    from mrl_retrieval.retriever import MatryoshkaRetriever

    with MatryoshkaRetriever(encoder="hashing", backend=uri) as retriever:
        retriever.index(["by hand"], ids=["mine"], metadatas=[{"source": str(folder / "gone.md")}])
    index(folder)
    assert "mine" in rows()


@pytest.mark.parametrize("id", ["n.md", "n.md#2"])
def test_a_text_file_overwrites_no_other_row(index, mrl, rows, uri, tmp_path, id):
    from mrl_retrieval.retriever import MatryoshkaRetriever

    folder = tmp_path / "tf"
    folder.mkdir()
    (folder / "n.md").write_text(LONG if "#" in id else "short")
    record = tmp_path / "q.jsonl"
    record.write_text(f'{{"id": "tf/{id}", "text": "mine"}}')
    split = ("--relative-to", tmp_path, "--chunk-tokens", 25)
    name = "the id 'tf/n.md#2', the name of a chunk of 'tf/n.md' (it has" if "#" in id else "the id 'tf/n.md' is"
    index(record, *split)
    done = mrl("index", folder, "--to", uri, *split)
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert f"{folder / 'n.md'}:1: {name}" in done.err
    assert "already there from q.jsonl; use another collection, or name the files differently" in done.err
    assert [row.document for row in rows().values()] == ["mine"]
    record.write_text("")
    index(record, folder, *split)
    assert {row.metadata["source"] for row in rows().values()} == {"tf/n.md"}
    with MatryoshkaRetriever("hashing", uri) as retriever:
        retriever.delete(list(rows()))
        retriever.index(["by hand"], ids=[f"tf/{id}"])
    done = mrl("index", folder, "--to", uri, *split)
    assert "a row that mrl index did not make" in done.err
    assert [row.document for row in rows().values()] == ["by hand"]


def test_half_a_character_from_an_odd_encoding(mrl, uri, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(r"x \ud800")
    done = mrl("index", path, "--to", uri, "--encoder", "hashing", "--encoding", "unicode_escape")
    assert f"mrl: {path} is not text in unicode_escape" in done.err


def test_other_chunk_size_indexes_again(index, rows, folder):
    index(folder)
    assert "2 changed" in summary(index(folder, "--chunk-tokens", 50))
    assert "2 unchanged" in summary(index(folder, "--chunk-tokens", 50))
    assert "2 changed" in summary(index(folder, "--no-chunk"))
    assert "2 changed" in summary(index(folder, "--no-chunk", "--on-long", "chunk"))
    assert len(rows()) == 2


def test_relative_names_do_not_depend_on_where_the_folder_is(index, rows, folder, tmp_path):
    index(folder, "--relative-to", folder)
    assert sorted(rows()) == ["a.md", "sub/b.txt"]
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    (moved / "a.md").unlink()
    done = index(moved, "--relative-to", moved)
    assert "0 new, 0 changed, 1 unchanged, 1 dropped" in summary(done)


def test_globs_choose_and_do_not_drop_what_they_do_not_match(index, rows, folder):
    (folder / "code.py").write_text("print('hello')")
    index(folder)
    index(folder, "--glob", "*.py")
    assert len(rows()) == 3
    (folder / "a.md").unlink()
    assert "0 dropped" in summary(index(folder, "--glob", "*.py"))
    assert "1 dropped" in summary(index(folder))


def test_empty_texts_have_no_row(index, rows, folder):
    (folder / "empty.md").write_text(" \n\n")
    assert "1 without text" in summary(index(folder))
    (folder / "a.md").write_text("")
    done = index(folder)
    assert "1 dropped; 2 without text" in summary(done)
    assert list(rows()) == [str(folder / "sub" / "b.txt")]


def test_byte_order_mark_gzip_and_other_encodings(index, rows, folder):
    (folder / "bom.txt").write_bytes(b"\xef\xbb\xbfWith a mark")
    (folder / "zipped.md.gz").write_bytes(gzip.compress("Gepäck".encode()))
    index(folder)
    assert rows()[str(folder / "bom.txt")].document == "With a mark"
    assert rows()[str(folder / "zipped.md.gz")].document == "Gepäck"
    old = folder / "sub" / "b.txt"
    old.write_bytes("naïve café".encode("cp1252"))
    index(old, "--encoding", "cp1252")
    assert rows()[str(old)].document == "naïve café"
    old.write_text("UTF-16 läuft", encoding="utf-16")
    index(old, "--encoding", "utf-16")
    assert rows()[str(old)].document == "UTF-16 läuft"


def test_an_interrupted_run_heals(index, rows, folder, mrl, uri, monkeypatch):
    (folder / "a.md").write_text(LONG)
    from mrl_retrieval.memory import MemoryBackend

    written = MemoryBackend.upsert
    calls = []

    def stop_at_third(self, batch):
        calls.append(len(batch))
        if len(calls) == 3:
            raise KeyboardInterrupt
        written(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(MemoryBackend, "upsert", stop_at_third)
        done = mrl("index", folder, "--to", uri, "--encoder", "hashing", "--chunk-tokens", 25, "--batch-size", 1)
    assert (done.status, done.err) == (130, "mrl: interrupted\n")
    assert len(rows()) == 2
    done = index(folder, "--chunk-tokens", 25)
    assert "1 new, 1 changed, 0 unchanged" in summary(done)
    whole = {id: row.document for id, row in rows().items()}
    assert "".join(whole[id] for id in sorted(whole) if "a.md" in id).replace("\n", "") == LONG.replace("\n", "")
    assert "2 unchanged" in summary(index(folder, "--chunk-tokens", 25))


def test_interrupted_replacement_keeps_old_rows_until_the_new_are_in(index, rows, folder, mrl, uri, monkeypatch):
    (folder / "a.md").write_text("Short and old.")
    index(folder, "--chunk-tokens", 25)
    (folder / "a.md").write_text(LONG)
    from mrl_retrieval.memory import MemoryBackend

    def stop(self, batch):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MemoryBackend, "upsert", stop)
        assert mrl("index", folder, "--to", uri, "--chunk-tokens", 25).status == 130
    assert rows()[str(folder / "a.md")].document == "Short and old."
    index(folder, "--chunk-tokens", 25)
    assert str(folder / "a.md") not in rows()


def test_progress_only_where_it_is_wanted(index, folder, mrl, uri):
    assert index(folder).err == ""
    done = mrl("index", folder, "--to", uri, "--progress")
    assert "indexing [" in done.err
    assert "documents" in done.err
    assert done.err.endswith("\r\x1b[K"), "the line is removed at the end"
