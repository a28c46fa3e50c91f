"""Addresses, options, and what must be installed."""

import subprocess
import sys

import pytest

from mrl_retrieval.errors import AddressError, InvalidInput, NotACollection
from mrl_retrieval.registry import open_backend


@pytest.mark.parametrize("text", ["faiss:", "faiss::memory:", "faiss+http://localhost:1"])
def test_an_address_without_a_folder(text):
    with pytest.raises(AddressError, match="memory:"):
        open_backend(text)


def test_options(address, opened):
    with pytest.raises(InvalidInput, match=r"fine_dtype.*lock_timeout.*got \['colour'\]"):
        open_backend(address, colour=1)
    with pytest.raises(InvalidInput, match="fine_dtype='int4'"):
        open_backend(address, fine_dtype="int4")
    with pytest.raises(InvalidInput, match="compact_at=2"):
        open_backend(address, compact_at=2)
    assert opened(address, fine_dtype="int8").capabilities.vector_dtype == "int8"
    assert opened(address).capabilities.vector_dtype == "float16"
    assert opened(address, fine_dtype="float32").capabilities.vector_dtype == "float32"


@pytest.mark.parametrize("name", ["fine_dtype", "lock_timeout", "compact_at"])
@pytest.mark.parametrize("value", [["float16"], {"a": 1}, b"float16", (), object, float("nan"), -3, True])
def test_options_of_a_wrong_kind(address, name, value):
    with pytest.raises(InvalidInput, match=f"^{name}="):
        open_backend(address, **{name: value})


def test_an_option_of_other_backends(address):
    with pytest.raises(InvalidInput, match=r"got \['coarse_quantization'\]"):
        open_backend(address, coarse_quantization="int8")


def test_a_place_that_is_not_ours(tmp_path):
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb" / "index.faiss").write_bytes(b"")
    with pytest.raises(NotACollection, match=r"index\.faiss"):
        open_backend(f"faiss:{tmp_path}/kb")


def test_a_missing_package_names_the_extra():
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "from mrl_retrieval.errors import MissingExtra\n"
        "from mrl_retrieval.registry import open_backend\n"
        "try: open_backend('faiss:/nowhere')\n"
        "except MissingExtra as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'mrl-retrieval[faiss]'" in said


def test_the_store_does_not_need_faiss():
    code = "import sys; sys.modules['faiss'] = None; import mrl_retrieval.storage"
    subprocess.run([sys.executable, "-c", code], check=True)
