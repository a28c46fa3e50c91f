"""Any dense model of sentence-transformers: an object, a name on the Hugging Face hub, or a local folder."""

from __future__ import annotations

import importlib
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mrl_retrieval.encoder import Encoder, EncoderCard, Span
from mrl_retrieval.errors import EncoderError, InvalidInput, MRLError
from mrl_retrieval.matryoshka import FloatArray, as_vectors, normalize

from .process_pool import ProcessPool
from .prompts import TASKS, checked_prompts
from .sentence_transformers_loading import TRUNCATED, checked_object, hub_id, import_package, loaded, pooling_of
from .specs import model_or_folder
from .token_counts import uncut

logger = logging.getLogger(__name__)

__all__ = ["SentenceTransformerEncoder", "from_spec"]

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # the names encode_document looks for, in its order
_RESERVED = frozenset({"convert_to_numpy", "convert_to_tensor", "output_value", "precision", "truncate_dim"})
_HARMLESS = frozenset({"cache_folder", "local_files_only", "token"})  # options that do not change the vectors
_NO_LIMIT = 10**9  # some tokenizers say "unlimited" as 1e30


class SentenceTransformerEncoder(Encoder):
    """A sentence-transformers model behind the contract.

    Documents go through the model's ``encode_document`` and queries through its ``encode_query``, so that its prompts
    and its routes apply. Embeddings are taken at full length: what the collection stores is cut by the collection.

    ``max_tokens`` is what the model's ``max_seq_length`` leaves to a text, after the tokenizer's special tokens and
    the longer of the two prompts; ``count_tokens`` counts the text alone. A collection can be opened by its address
    alone if the model was given as a hub name or a folder, without prompts, revision or other options that change its
    vectors (``identity.name`` is None otherwise).

    Calls are serialised: a model's tokenizer holds the settings of the call it is in, and PyTorch uses all cores for
    one call anyway.

    Args:
        model: a ``SentenceTransformer``, a hub name such as ``"all-MiniLM-L6-v2"``, or a folder. A model that is in
            the hub's local cache is taken from there, without asking the network for a newer one.
        device: as PyTorch names it; None: the best there is. For names and folders only.
        batch_size: texts in one forward pass.
        prompts: ``{"query": …, "document": …}``, instead of the model's own; ``""`` for none.
        pool: devices, such as ``["cuda:0", "cuda:1"]`` or ``["cpu"] * 4``, for one process each, among which calls with
            more than ``batch_size`` texts are shared out. The first such call starts them, :meth:`close` stops them.
        trust_remote_code: let the model's repository run its own Python code on this machine.
        load_options: passed on to ``SentenceTransformer(…)``, such as ``revision``, ``cache_folder``, ``token``,
            ``local_files_only``, ``model_kwargs``, ``backend``. For names and folders only.

    Raises:
        MissingExtra: sentence-transformers 5 or later is not installed.
        InvalidInput: an argument cannot be used, or the object cuts its embeddings (``truncate_dim``).
        EncoderError: the model cannot be loaded, be it that there is no network.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: str | None = None,
        batch_size: int = 32,
        prompts: Mapping[str, str] | None = None,
        pool: Sequence[str] | None = None,
        trust_remote_code: bool = False,
        **load_options: Any,
    ) -> None:
        package = import_package()
        self._own_prompts = checked_prompts(prompts)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InvalidInput(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        self._batch_size = batch_size
        self._lock = threading.Lock()
        self._pool = None if pool is None else ProcessPool(pool)
        name = revision = None
        if isinstance(model, (str, Path)):
            if "truncate_dim" in load_options:
                raise InvalidInput(TRUNCATED.format(load_options["truncate_dim"], "all"))
            options = dict(load_options, device=device, trust_remote_code=trust_remote_code)
            self._model, reference, revision = loaded(package, str(model), options)
            if not (self._own_prompts or trust_remote_code or load_options.keys() - _HARMLESS):
                name = f"sentence-transformers:{reference}"
        else:
            self._model = checked_object(package, model, device, trust_remote_code, load_options)
        self.dim = self._full_dim()
        self.identity = EncoderCard(
            dim=self.dim,
            name=name,
            model=hub_id(self._model),
            revision=revision,
            prompts={task: text for task in TASKS if (text := self._prompt(task))},
            pooling=pooling_of(self._model),
            normalization="l2",
        )
        self.max_tokens = self._context()
        made = {key: value for key, value in load_options.items() if key not in _HARMLESS}
        # For a cache: the card does not say how the model was loaded, nor where it cuts a text.
        self.cache_scope = repr((sorted(made.items()), trust_remote_code, self._model.max_seq_length))

    def encode_document(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """``(N, D)`` float32 of unit length; ``kwargs`` go to the model's ``encode_document``.

        Raises:
            EncoderError: the model refuses one of ``kwargs``, or it would change the form of the embeddings.
        """
        return self._encode("document", texts, kwargs)

    def encode_query(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """``(Q, D)`` float32 of unit length; ``kwargs`` go to the model's ``encode_query``.

        Raises:
            EncoderError: the model refuses one of ``kwargs``, or it would change the form of the embeddings.
        """
        return self._encode("query", texts, kwargs)

    def close(self) -> None:
        """Stop the processes of ``pool``; the next call with many texts starts them again. Also done when the encoder
        is no longer used, and at the end of Python."""
        if self._pool is not None:
            with self._lock:
                self._pool.close()

    def __enter__(self) -> SentenceTransformerEncoder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by the model's tokenizer, without prompts and special tokens."""
        if self._fast_tokenizer is not None:
            return [len(e) for e in self._fast_tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        tokenize = getattr(getattr(self._model, "tokenizer", None), "tokenize", None)
        if not callable(tokenize):
            return super().count_tokens(texts)
        with self._lock:
            return [len(tokenize(text)) for text in texts]

    def token_spans(self, text: str) -> list[Span] | None:
        """Where each token lies, in characters; None where the model has no fast tokenizer."""
        if self._fast_tokenizer is None:
            return None
        spans: list[Span] = self._fast_tokenizer.encode(text, add_special_tokens=False).offsets
        return spans

    @cached_property
    def _fast_tokenizer(self) -> Any:
        """A copy of the model's tokenizer that cuts and pads nothing, or None; the model's own changes per call."""
        tokenizers = importlib.import_module("tokenizers")
        own = getattr(self._model, "tokenizer", None)
        backend = getattr(own, "backend_tokenizer", own)
        if not isinstance(backend, tokenizers.Tokenizer):
            return None
        try:
            with self._lock:
                return uncut(backend)
        except Exception as error:  # noqa: BLE001 - it raises nothing narrower where a part is written in Python
            logger.debug("the tokenizer cannot be copied, so it cannot say where tokens lie: %s", error)
            return None

    def _encode(self, task: str, texts: Sequence[str], kwargs: Mapping[str, Any]) -> FloatArray:
        if reserved := sorted(_RESERVED & kwargs.keys()):
            raise EncoderError(
                f"encode_kwargs must not have {', '.join(reserved)}: a collection needs full float32 embeddings; leave "
                "it out (coarse_dims and fine_dims say what is cut)"
            )
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        options: dict[str, Any] = {"batch_size": self._batch_size, "show_progress_bar": False, **kwargs}
        if task in self._own_prompts and not {"prompt", "prompt_name"} & kwargs.keys():
            options["prompt"] = self._own_prompts[task]
        encode = self._model.encode_query if task == "query" else self._model.encode_document
        try:
            with self._lock:
                if self._pool is not None and len(texts) > options["batch_size"]:
                    raw = self._pool.encode(self._model, encode, list(texts), options)
                else:
                    raw = encode(list(texts), convert_to_numpy=True, **options)
        except MRLError:
            raise
        except Exception as error:  # PyTorch, ONNX Runtime, OpenVINO and a model's own code raise any kind
            given = f" with {', '.join(sorted(kwargs))}" if kwargs else ""
            raise EncoderError(f"the sentence-transformers model refused {len(texts)} texts{given}: {error}") from error
        return normalize(as_vectors(raw, what="the model's embeddings"))

    def _prompt(self, task: str) -> str:
        if task in self._own_prompts:
            return self._own_prompts[task]
        prompts: Mapping[str, str] = self._model.prompts
        names = (*(("query",) if task == "query" else _DOCUMENT_PROMPTS), self._model.default_prompt_name)
        return next((prompts[name] for name in names if name in prompts), "")

    def _full_dim(self) -> int:
        for attribute in ("get_embedding_dimension", "get_sentence_embedding_dimension"):  # before and since 5.2
            method = getattr(self._model, attribute, None)
            if callable(method) and (dim := method()):
                return int(dim)
        return int(self._model.encode_document(["probe"], show_progress_bar=False).shape[1])

    def _context(self) -> int | None:
        limit = self._model.max_seq_length
        if limit is None or not math.isfinite(limit) or limit >= _NO_LIMIT:
            return None
        special = getattr(getattr(self._model, "tokenizer", None), "num_special_tokens_to_add", None)
        taken = int(special(False)) if callable(special) else 0
        if self.identity.prompts:
            taken += max(self.count_tokens(list(self.identity.prompts.values())))
        return max(1, int(limit) - taken)


def from_spec(argument: str = "", **options: Any) -> SentenceTransformerEncoder:
    """``"sentence-transformers:NAME_OR_FOLDER"``; options are those of :class:`SentenceTransformerEncoder`.

    Raises:
        InvalidInput: no name.
        MissingExtra: sentence-transformers is not installed.
        EncoderError: the model cannot be loaded.
    """
    return SentenceTransformerEncoder(model_or_folder("sentence-transformers", argument, "all-MiniLM-L6-v2"), **options)
