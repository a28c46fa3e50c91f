"""``mrl index --vectors`` beside a ``mrl embed`` that publishes something else."""

from mrl_retrieval.cli import vectors as vectors_command
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.registry import open_backend
from mrl_retrieval.resolutions import save_multi_resolution


def test_vectors_that_are_replaced_while_they_are_indexed(mrl, uri, tmp_path, monkeypatch):
    """What was checked is what is written."""
    texts = [f"old text {i}" for i in range(50)]
    save_multi_resolution(HashingEncoder(32).encode_document(texts), [8], tmp_path / "v", texts=texts)
    check = vectors_command._encoder

    def meanwhile(*arguments):
        new = [f"new text {i}" for i in range(20)]
        save_multi_resolution(HashingEncoder(32).encode_document(new), [8], tmp_path / "v", texts=new)
        return check(*arguments)

    monkeypatch.setattr(vectors_command, "_encoder", meanwhile)
    done = mrl("index", "--vectors", tmp_path / "v", "--to", uri)
    assert done.status == 0 and "holds 50 rows" in done.out, done.err
    with open_backend(uri) as backend:
        for row in backend.get([str(i) for i in range(50)], vectors=True):
            right = HashingEncoder(32).encode_document([row.document])[0]
            assert row.document.startswith("old") and float(right @ row.vector) > 0.999
