"""``mrl import``."""

from __future__ import annotations

from mrl_retrieval.encoders.hashing import HashingEncoder


def test_import(mrl, tmp_path):
    import chromadb
    from chromadb.config import Settings

    client = chromadb.PersistentClient(str(tmp_path / "theirs"), settings=Settings(anonymized_telemetry=False))
    texts = [f"text number {i}" for i in range(20)]
    client.create_collection("docs", embedding_function=None).add(
        ids=[str(i) for i in range(20)],
        embeddings=HashingEncoder(256).encode_document(texts) * 2,
        documents=texts,
        metadatas=[{"i": i, "j": -i} for i in range(20)],
    )
    client.close()
    source, target = f"chroma:{tmp_path}/theirs?collection=docs", f"faiss:{tmp_path}/kb"
    done = mrl(
        "import", source, "--to", target, "--encoder", "hashing:256", "--metadata-fields", "i", "--coarse-dims", "32"
    )
    assert (done.status, done.err) == (0, "")
    assert f"{target} holds 20 rows of {source}, 20 with a vector" in done.out and "lengths go from 2 to 2" in done.out
    found = mrl("search", target, "text number 7", "--top-k", "1")
    assert "text number 7" in found.out
    for arguments, words in (
        ([f"chroma:{tmp_path}/theirs?collection=no"], "no collection 'no'"),
        ([f"memory:{tmp_path}"], "unknown importer 'memory'"),
        ([source, "--to", f"faiss:{tmp_path}/x", "--encoder", "hashing:32"], "256 components"),
    ):
        refused = mrl("import", *arguments)
        assert refused.status == 1 and words in refused.err and refused.err.count("\n") == 1, refused.err
    assert not (tmp_path / "x").exists()
