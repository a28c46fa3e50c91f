"""The two stages as a search of MTEB 2 (its ``SearchProtocol``), so that its retrieval tasks run on any backend.

Needs mteb (the extra ``mteb``). MTEB gives the tasks and computes the scores; encoding, indexing, coarse stage and
rerank are what :class:`~mrl_retrieval.MatryoshkaRetriever` does for everybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..address import Address
from ..encoder import Encoder, as_encoder, encode_checked
from ..errors import InvalidInput, MissingExtra
from ..retriever import MatryoshkaRetriever
from ..scoring import cosine_scores
from ..settings import check_positive

try:
    from mteb.models import ModelMeta
    from mteb.models.model_meta import ScoringFunction
except ImportError as error:
    raise MissingExtra("the search for MTEB", "mteb") from error

__all__ = ["TwoStageSearch"]

_LONGEST_NAME = 63


class TwoStageSearch:
    """Give it to ``mteb.evaluate`` in place of a model.

    Every corpus goes into a collection of its own beside the address, such as ``mteb-SciFact-default-test``; it is
    dropped when the next one comes, and by :meth:`close`. A collection of that name that is there already is not
    touched, but an error.

    Args:
        encoder: as :class:`~mrl_retrieval.MatryoshkaRetriever` takes it.
        backend: an address without a collection, such as ``"memory:"`` or ``"faiss:./mteb"``.
        coarse_dims: of the coarse stage; clamped to the encoder's dim, where the coarse stage is the whole search.
        candidates: of the coarse stage. MTEB asks for 1,000 hits, and gets so many: its recall@1000 is that of the
            candidates.
        batch_size: texts encoded at a time, unless MTEB's ``encode_kwargs`` say so.
        settings: other arguments of the retriever, such as ``backend_options``.

    Raises:
        InvalidInput: the address cannot be used, or a number.

    Reranking tasks name the documents to rank: these are scored by full vectors, all of them.
    """

    def __init__(
        self,
        encoder: Any,
        backend: str = "memory:",
        *,
        coarse_dims: int = 64,
        candidates: int = 200,
        batch_size: int = 256,
        **settings: Any,
    ) -> None:
        self._address = Address.parse(backend)
        if "?collection=" in backend:
            raise InvalidInput(f"{backend} names a collection; every task gets one of its own, so leave it out")
        self._coarse_dims = check_positive(coarse_dims, "coarse_dims")
        self._candidates = check_positive(candidates, "candidates")
        self._batch_size = check_positive(batch_size, "batch_size")
        self._encoder: Encoder = as_encoder(encoder)
        self._settings = settings
        self._retriever: MatryoshkaRetriever | None = None

    def index(
        self, corpus: Iterable[Mapping[str, Any]], *, task_metadata: Any, hf_split: str, hf_subset: str, **more: Any
    ) -> None:
        """Index rows with ``id``, ``text`` and perhaps ``title``; those without text cannot be found.

        Raises:
            InvalidInput: a collection of this task's name is there already, or a row cannot be used.
            BackendError: the database failed.
        """
        self.close()
        name = _collection_name(task_metadata.name, hf_subset, hf_split)
        retriever = MatryoshkaRetriever(
            self._encoder,
            str(self._address.with_collection(name)),
            coarse_dims=self._coarse_dims,
            coarse_top_k=self._candidates,
            **{"final_top_k": min(10, self._candidates), **self._settings},
        )
        if retriever.manifest is not None:
            where = retriever.backend.address
            retriever.close()
            raise InvalidInput(f"{where} is there already: drop it (mrl drop), or give another backend address")
        self._retriever = retriever
        texts = ((str(row["id"]), _document(row)) for row in corpus)
        kept = [(id, text) for id, text in texts if text]
        retriever.index([text for _, text in kept], ids=[id for id, _ in kept], batch_size=self._batch(more))

    def search(
        self,
        queries: Sequence[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **more: Any,
    ) -> dict[str, dict[str, float]]:
        """By query id the scores of its hits, at most ``top_k`` and at most as many as there are candidates.

        Raises:
            InvalidInput: nothing was indexed, or a query has no text.
            BackendError: the database failed.
        """
        if self._retriever is None:
            raise InvalidInput("nothing is indexed; call index first, as mteb.evaluate does")
        asked = [(str(row["id"]), _query(row)) for row in queries]
        found: dict[str, dict[str, float]] = {}
        size = self._batch(more)
        for start in range(0, len(asked), size):
            ids, texts = zip(*asked[start : start + size], strict=True)
            if top_ranked is not None:
                found.update(self._ranked(ids, texts, top_ranked, top_k))
                continue
            results = self._retriever.search_batch(texts, min(top_k, self._candidates))
            found.update((id, {hit.id: hit.score for hit in result}) for id, result in zip(ids, results, strict=True))
        return found

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What MTEB files the results under: the encoder's name and the dims, with the settings beside it."""
        card = self._encoder.identity
        dims = min(self._coarse_dims, card.dim)
        model = re.sub(r"[^A-Za-z0-9._-]+", "-", card.model or card.name or "encoder").strip("-")
        return ModelMeta(
            loader=None,
            name=f"mrl-retrieval/{model}-{dims}-of-{card.dim}",
            revision=card.revision or "unknown",
            release_date=None,
            languages=None,
            n_parameters=None,
            memory_usage_mb=None,
            max_tokens=self._encoder.max_tokens,
            embed_dim=card.dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["NumPy"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=bool(card.prompts),
            training_datasets=None,
            experiment_kwargs={
                "backend": self._address.scheme,
                "coarse_dims": dims,
                "candidates": self._candidates,
            },
        )

    def close(self) -> None:
        """Drop the collection that was made last, and let go of the database."""
        if self._retriever is not None:
            retriever, self._retriever = self._retriever, None
            try:
                if retriever.manifest is not None:
                    retriever.backend.drop()
            finally:
                retriever.close()

    def __enter__(self) -> TwoStageSearch:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _batch(self, more: Mapping[str, Any]) -> int:
        return int((more.get("encode_kwargs") or {}).get("batch_size") or self._batch_size)

    def _ranked(
        self, ids: Sequence[str], texts: Sequence[str], top_ranked: Mapping[str, Sequence[str]], top_k: int
    ) -> dict[str, dict[str, float]]:
        """Only the documents that are named for each query, all scored by full vectors."""
        assert self._retriever is not None
        vectors = encode_checked(self._encoder, list(texts), queries=True)
        found: dict[str, dict[str, float]] = {}
        for id, query in zip(ids, vectors, strict=True):
            rows = self._retriever.get([str(named) for named in dict.fromkeys(top_ranked.get(id, ()))], vectors=True)
            there = [(row.id, row.vector) for row in rows if row is not None and row.vector is not None]
            scores = cosine_scores(query, np.stack([vector for _, vector in there])).tolist() if there else []
            pairs = zip((name for name, _ in there), scores, strict=True)
            found[id] = dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:top_k])
        return found


def _collection_name(*parts: str) -> str:
    cleaned = "-".join(re.sub(r"[^A-Za-z0-9_-]+", "_", part) for part in ("mteb", *parts))
    return cleaned[:_LONGEST_NAME].rstrip("-_")


def _document(row: Mapping[str, Any]) -> str:
    """Title and text with a space between them, as MTEB's own models read them."""
    return f"{row.get('title') or ''} {row.get('text') or ''}".strip()


def _query(row: Mapping[str, Any]) -> str:
    """The text, its instruction behind it; of a conversation the turns, the instruction before them."""
    text, instruction = row["text"], row.get("instruction")
    if isinstance(text, str):
        return f"{text} {instruction}" if instruction else text
    turns = "; ".join(turn if isinstance(turn, str) else f"{turn['role']}: {turn['content']}" for turn in text)
    return f"{instruction} {turns}" if instruction else turns
