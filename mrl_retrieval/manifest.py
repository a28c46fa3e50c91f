"""The manifest: what a collection must remember of how it was made.

It is one JSON object with a checksum over its canonical form, kept by the backend next to the data. It names the
encoder, the dims, and the vectors of a few canary texts, so that a collection refuses an encoder that is not its
own, even one with the right dimension.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .documents import canonical_json
from .encoder import EncoderCard
from .errors import ManifestError, NewerFormatError
from .matryoshka import FloatArray, as_vectors, normalize

__all__ = ["SCHEMA_VERSION", "Canaries", "Manifest"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Canaries:
    """Unit vectors of the canary texts, as documents and as queries: ``(C, D)`` each, kept as float16.

    Source of the idea that a few fixed texts identify a model: their vectors differ with the revision, the
    prompts, the pooling and the quantisation, none of which a dimension check sees.
    """

    documents: FloatArray
    queries: FloatArray

    def to_json(self) -> dict[str, str]:
        """float16, little-endian, base64."""
        return {"documents": _pack(self.documents), "queries": _pack(self.queries)}

    @classmethod
    def from_json(cls, value: Any, dim: int) -> Canaries:
        """Read :meth:`to_json`'s form. Raises :class:`ManifestError` where it is damaged."""
        try:
            return cls(_unpack(value["documents"], dim), _unpack(value["queries"], dim))
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"the manifest's canary vectors cannot be read: {error!r}") from error

    def similarity(self, other: Canaries) -> tuple[float, float]:
        """The smallest cosine between the same text's vectors: ``(documents, queries)``, each in -1..1."""
        return (
            _smallest_cosine(self.documents, other.documents),
            _smallest_cosine(self.queries, other.queries),
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a collection is. Immutable; backends replace it as a whole, by compare-and-set on :attr:`checksum`."""

    dim: int
    """Full length of the encoder's embeddings."""
    coarse_dims: int
    """Length of the prefixes that the coarse stage searches."""
    fine_dims: int
    """Length of the stored vectors; recall and scores are stated at this length."""
    funnel_dims: tuple[int, ...] = ()
    """Further prefix lengths that a backend may store as vectors of their own, for funnels in one call."""
    encoder: EncoderCard | None = None
    """None where vectors were given by the caller."""
    canaries: Canaries | None = None
    metric: str = "cosine"
    rotation: dict[str, Any] | None = None
    """Fingerprint of the rotation applied before truncation; None: none."""
    rotation_measured: dict[str, Any] | None = None
    """What prefixes found without and with a rotation when that was last measured: ``coverage``, ``rotated_coverage``,
    ``vectors`` (that there were) and ``at`` (ISO 8601, UTC); None: it was not."""
    plan: dict[str, Any] | None = None
    """A stored search plan: defaults for arguments that are not given."""
    origin: dict[str, Any] | None = None
    """Where the rows of a copy came from: ``source``, ``source_id`` (its collection id) and ``complete``."""
    moved_to: str | None = None
    """Name of the collection, at the same place, that holds the rows now: another generation of this one."""
    previous: str | None = None
    """The generation that a rollback goes back to, where there is one."""
    frozen: str | None = None
    """Name of the generation that is being finished from this one; writers are refused until then."""
    reindexing: str | None = None
    """Token of the reindexing that is under way, or was interrupted; in the manifest of the collection's own name."""
    collection_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    """Made once with the collection; tells one collection from a later one of the same name."""
    created_with: str = ""
    """Version of this library that made the collection."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the schema version, without the checksum."""
        # A manifest without it is the same, to the letter, as one of versions that did not know it.
        measured = {} if self.rotation_measured is None else {"rotation_measured": self.rotation_measured}
        return {
            "schema_version": SCHEMA_VERSION,
            "dim": self.dim,
            "coarse_dims": self.coarse_dims,
            "fine_dims": self.fine_dims,
            "funnel_dims": list(self.funnel_dims),
            "encoder": None if self.encoder is None else self.encoder.to_json(),
            "canaries": None if self.canaries is None else self.canaries.to_json(),
            "metric": self.metric,
            "rotation": self.rotation,
            **measured,
            "plan": self.plan,
            "origin": self.origin,
            "moved_to": self.moved_to,
            "previous": self.previous,
            "frozen": self.frozen,
            "reindexing": self.reindexing,
            "collection_id": self.collection_id,
            "created_with": self.created_with,
        }

    @property
    def checksum(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return _checksum(self.to_json())

    def dumps(self) -> str:
        """The text a backend stores."""
        return canonical_json(self.to_json() | {"checksum": self.checksum})

    @classmethod
    def loads(cls, text: str | bytes) -> Manifest:
        """Read :meth:`dumps`'s form.

        Raises:
            NewerFormatError: a newer version of this library wrote it.
            ManifestError: it is no JSON, incomplete, inconsistent, or fails its checksum.
        """
        try:
            value = json.loads(text)
        except (ValueError, UnicodeDecodeError) as error:
            raise ManifestError(f"the manifest is no JSON ({error}); restore it from a backup") from error
        if not isinstance(value, dict) or not isinstance(value.get("schema_version"), int):
            raise ManifestError("the manifest has no 'schema_version'; it was not written by this library")
        version = value["schema_version"]
        if version > SCHEMA_VERSION:
            raise NewerFormatError(
                f"the manifest has schema version {version}, this library reads up to {SCHEMA_VERSION}: upgrade "
                f"mrl-retrieval (the collection was made with {value.get('created_with') or 'a newer one'})"
            )
        stored = value.pop("checksum", None)
        if stored != (actual := _checksum(value)):
            raise ManifestError(
                f"the manifest's checksum is {actual[:12]}…, it should be {str(stored)[:12]}…: it was damaged or "
                "edited by hand; restore it from a backup"
            )
        try:
            manifest = cls(
                dim=int(value["dim"]),
                coarse_dims=int(value["coarse_dims"]),
                fine_dims=int(value["fine_dims"]),
                funnel_dims=tuple(int(d) for d in value["funnel_dims"]),
                encoder=None if value["encoder"] is None else EncoderCard.from_json(value["encoder"]),
                canaries=None
                if value["canaries"] is None
                else Canaries.from_json(value["canaries"], int(value["dim"])),
                metric=value["metric"],
                rotation=value["rotation"],
                rotation_measured=value.get("rotation_measured"),
                plan=value["plan"],
                origin=value.get("origin"),
                moved_to=value.get("moved_to"),
                previous=value.get("previous"),
                frozen=value.get("frozen"),
                reindexing=value.get("reindexing"),
                collection_id=value["collection_id"],
                created_with=value["created_with"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"the manifest is incomplete: {error!r}; restore it from a backup") from error
        if not 1 <= manifest.coarse_dims <= manifest.fine_dims <= manifest.dim:
            raise ManifestError(
                f"the manifest's dims make no sense: coarse {manifest.coarse_dims}, fine {manifest.fine_dims}, "
                f"full {manifest.dim}"
            )
        return manifest

    def with_plan(self, plan: dict[str, Any] | None) -> Manifest:
        """The same with another plan."""
        return replace(self, plan=plan)


def _checksum(value: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _pack(vectors: FloatArray) -> str:
    return base64.b64encode(vectors.astype("<f2").tobytes()).decode("ascii")


def _unpack(text: str, dim: int) -> FloatArray:
    raw = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2").reshape(-1, dim)
    return as_vectors(raw.astype(np.float32), dim=dim, what="canary vectors")


def _smallest_cosine(a: FloatArray, b: FloatArray) -> float:
    if a.shape != b.shape or not len(a):
        return -1.0
    cosines = np.einsum("nd,nd->n", normalize(a), normalize(b))
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    return float(np.where(both_zero, 1.0, cosines).min())
