"""FastEmbed: transformers in ONNX, without torch; a model of its list, or a local folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrl_retrieval.encoder import Encoder, EncoderCard, Span
from mrl_retrieval.errors import EncoderError
from mrl_retrieval.matryoshka import FloatArray, as_vectors, normalize
from mrl_retrieval.settings import check_positive

from .fastembed_loading import loaded
from .prompts import TASKS, checked_prompts
from .specs import model_or_folder
from .token_counts import uncut

__all__ = ["FastEmbedEncoder", "from_spec"]

_HARMLESS = frozenset({"cache_dir", "local_files_only", "threads", "providers", "cuda", "device_ids", "lazy_load"})
"""Options that do not change the vectors, but for rounding."""


class FastEmbedEncoder(Encoder):
    """A text model of FastEmbed behind the contract.

    Documents go through its ``passage_embed`` and queries through its ``query_embed``, which tell them apart for few
    models: where a model wants prompts, give them. Thread-safe: one session of ONNX Runtime serves every thread.

    ``max_tokens`` is what the model's tokenizer leaves to a text, after special tokens and the longer prompt; it
    cuts off what is beyond. ``count_tokens`` counts the text alone, to its end.

    Args:
        model: a name of ``TextEmbedding.list_supported_models()``, such as ``"BAAI/bge-small-en-v1.5"``, or one
            registered with ``TextEmbedding.add_custom_model``; or a folder with a model in ONNX, its ``tokenizer.json``
            and ``tokenizer_config.json``. A model in FastEmbed's cache is taken from there, without asking the network.
        batch_size: texts in one run of the model; they are padded to the longest of them.
        parallel: processes to share out a call with at least ``batch_size`` texts to (0: one a core). They are started
            by every such call, which pays for thousands of texts. None: this process alone.
        threads: of ONNX Runtime, in this process; None: one a core.
        providers: of ONNX Runtime, such as ``["CUDAExecutionProvider"]``.
        prompts: ``{"query": …, "document": …}``, put in front of the texts.
        pooling: of a folder's model: ``"mean"``, ``"cls"``, ``"last_token"``, or ``"disabled"`` where its output is one
            vector a text. None: what the folder's ``1_Pooling/config.json`` says.
        model_file: of a folder: which ONNX file, where there are several.
        load_options: passed on to ``TextEmbedding(…)``: ``cache_dir``, ``local_files_only``, ``specific_model_path``
            (a folder with the files of a listed model), ``cuda``, ``device_ids``, …

    Raises:
        MissingExtra: the package ``fastembed`` is not installed.
        InvalidInput: an argument cannot be used.
        EncoderError: the model cannot be loaded, be it that there is no network.
    """

    def __init__(
        self,
        model: str,
        *,
        batch_size: int = 64,
        parallel: int | None = None,
        threads: int | None = None,
        providers: Sequence[Any] | None = None,
        prompts: Mapping[str, str] | None = None,
        pooling: str | None = None,
        model_file: str | None = None,
        **load_options: Any,
    ) -> None:
        self._prompts = checked_prompts(prompts)
        self._batch_size = check_positive(batch_size, "batch_size")
        self._parallel = parallel if parallel in (None, 0) else check_positive(parallel, "parallel")
        options = dict(load_options, threads=threads, providers=providers)
        found = loaded(str(model), options, pooling, model_file)
        self._model = found.model
        self.dim = int(self._embed("document", [""], {}).shape[1])
        self._tokenizer = uncut(self._model.model.tokenizer)
        ours = self._prompts or pooling or model_file or load_options.keys() - _HARMLESS
        self.identity = EncoderCard(
            dim=self.dim,
            name=None if ours else f"fastembed:{found.reference}",
            model=found.name,
            revision=found.revision,
            prompts={task: text for task in TASKS if (text := self._prompts.get(task))},
            pooling=found.pooling,
            normalization="l2",
        )
        self.max_tokens = self._context()

    def encode_document(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """``(N, D)`` float32 of unit length; ``kwargs`` go to ``passage_embed``.

        Raises:
            EncoderError: the model failed, or refuses one of ``kwargs``.
        """
        return self._encode("document", texts, kwargs)

    def encode_query(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """``(Q, D)`` float32 of unit length; ``kwargs`` go to ``query_embed``.

        Raises:
            EncoderError: the model failed, or refuses one of ``kwargs``.
        """
        return self._encode("query", texts, kwargs)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by the model's tokenizer, without prompts and special tokens."""
        return [len(tokens) for tokens in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def token_spans(self, text: str) -> list[Span]:
        """Where each token lies, in characters."""
        spans: list[Span] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return spans

    def _encode(self, task: str, texts: Sequence[str], kwargs: Mapping[str, Any]) -> FloatArray:
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        # Every batch is padded to its longest text: texts of like length go together.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = self._embed(task, [texts[i] for i in order], kwargs)
        if len(vectors) != len(texts):
            raise EncoderError(f"the fastembed model gave {len(vectors)} vectors for {len(texts)} texts")
        sorted_back = np.empty_like(vectors)
        sorted_back[order] = vectors
        return normalize(sorted_back)

    def _embed(self, task: str, texts: list[str], kwargs: Mapping[str, Any]) -> FloatArray:
        prompt = self._prompts.get(task, "")
        embed = self._model.query_embed if task == "query" else self._model.passage_embed
        options = {"batch_size": self._batch_size, "parallel": self._parallel, **kwargs}
        try:
            return as_vectors(np.stack(list(embed([prompt + text for text in texts], **options))), what="embeddings")
        except Exception as error:  # ONNX Runtime, the tokenizer and processes have no kind in common
            given = f" with {', '.join(sorted(kwargs))}" if kwargs else ""
            raise EncoderError(f"the fastembed model failed on {len(texts)} texts{given}: {error}") from error

    def _context(self) -> int | None:
        model = self._model.model
        limit = (model.tokenizer.truncation or {}).get("max_length")
        if limit is None:
            return None
        static = type(model).__name__ == "StaticTextEmbedding"  # adds no special tokens
        taken = 0 if static else int(self._tokenizer.num_special_tokens_to_add(False))
        taken += max(self.count_tokens(list(self._prompts.values())), default=0)
        return max(1, int(limit) - taken)


def from_spec(argument: str = "", **options: Any) -> FastEmbedEncoder:
    """``"fastembed:NAME_OR_FOLDER"``; options are those of :class:`FastEmbedEncoder`.

    Raises:
        InvalidInput: no name.
        MissingExtra: fastembed is not installed.
        EncoderError: the model cannot be loaded.
    """
    model = model_or_folder("fastembed", argument, "BAAI/bge-small-en-v1.5", where="its list")
    return FastEmbedEncoder(model, **options)
