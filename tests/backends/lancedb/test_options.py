"""Options: which are taken, which are fixed with a collection, and what is said of wrong ones."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="lancedb is not installed: pip install 'mrl-retrieval[lancedb]'")


from mrl_adapters.lancedb import LanceDBBackend
from mrl_retrieval.errors import (
    CollectionMismatchError,
    InvalidInput,
)
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.registry import open_backend
from tests.backends.lancedb.helpers import COARSE, batch, made, rows, vectors


class TestOptions:
    def test_settings_are_kept_and_held_to(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}", fine_dtype="float16", index="flat") as backend:
            backend.upsert(batch(rows(20)))
        with open_backend(f"lancedb:{tmp_path}", index="flat") as backend:
            assert backend.read_manifest() is not None
            assert backend.capabilities.vector_dtype == "float16" and not backend.capabilities.approximate_coarse
            (row,) = backend.get(["id3"], vectors=True)
            assert row is not None and row.vector is not None
            assert (row.vector == vectors(20)[3].astype(np.float16).astype(np.float32)).all()
        with (
            open_backend(f"lancedb:{tmp_path}", fine_dtype="float32") as backend,
            pytest.raises(CollectionMismatchError, match="float16"),
        ):
            backend.read_manifest()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"index": "best"}, {"coarse_quantization": "int3"}, {"fine_dtype": "int8"}, {"nprobes": 0}, {"nprobes": 2.5},
            {"index_threshold": 3}, {"num_partitions": True}, {"refine_factor": "2"}, {"lock_timeout": -1},
            {"keep_versions": 0}, {"index": "flat", "coarse_quantization": "scalar"},
            {"index": "hnsw", "coarse_quantization": "binary"}, {"keep_versions": math.inf}, {"keep_versions": 10**30},
            {"nprobes": 2**31}, {"refine_factor": 2**31}, {"num_partitions": 2**31}, {"index_threshold": 2**31},
        ],
    )  # fmt: skip
    def test_wrong_options(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            open_backend("lancedb:", **wrong)
        with pytest.raises(InvalidInput, match="colour"):
            open_backend("lancedb:", colour="red")

    @pytest.mark.parametrize("value", [[], {}, ("flat",), b"flat", "a string", True, math.nan, int, -1], ids=repr)
    @pytest.mark.parametrize("name", sorted(LanceDBBackend.options))
    def test_values_of_a_wrong_type(self, name: str, value: Any) -> None:
        with pytest.raises(InvalidInput, match=name):
            open_backend("lancedb:", **{name: value})

    @pytest.mark.parametrize("place", ["lancedb:", "lancedb:{}"])
    def test_extreme_values_that_are_right(self, tmp_path: Path, place: str) -> None:
        most = {"nprobes": 2**31 - 1, "refine_factor": 10_000, "index_threshold": 256, "num_partitions": 1}
        times = {"lock_timeout": math.inf, "keep_versions": 1e9}
        with made(place.format(tmp_path), index="ivf", **most, **times) as backend:
            backend.upsert(batch(rows(300)))
            backend.flush()
            found = backend.coarse_search(prefix(vectors(1), COARSE), 5, None)
            assert found[0].ids[0] == "id0" and len(found[0].ids) == 5


@pytest.mark.parametrize("package", ["lancedb", "pyarrow"])
def test_a_missing_package_names_the_extra(package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from mrl_retrieval import open_backend\n"
        "try:\n    open_backend('lancedb:')\nexcept ImportError as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("MissingExtra") and "mrl-retrieval[lancedb]" in done.stdout
