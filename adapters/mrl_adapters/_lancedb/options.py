"""What the LanceDB backend takes as options: those fixed with a collection, and those of one opening."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mrl_retrieval.errors import CollectionMismatchError, InvalidInput, ManifestError

__all__ = ["QUANTIZATION", "Opening", "Settings"]

QUANTIZATION = frozenset({"scalar", "product", "binary"})
"""What ``coarse_quantization`` takes besides ``"none"``."""

_FEWEST_TO_TRAIN = 256
# LanceDB counts in 32 bits, and in microseconds of 64 bits.
_LARGEST = 2**31 - 1
_LONGEST = 1e9

_CHOICES = {
    "index": ("auto", "flat", "ivf", "hnsw"),
    "coarse_quantization": ("none", *sorted(QUANTIZATION)),
    "fine_dtype": ("float32", "float16"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Fixed when the collection is made, and kept with it."""

    index: str = "auto"
    """``"flat"``: none, the coarse stage is exact; ``"ivf"``, ``"hnsw"``; ``"auto"``: ``"ivf"``, which is as fast and
    made a hundred times faster. Made once there are ``index_threshold`` vectors."""
    coarse_quantization: str = "none"
    """How the index keeps the prefixes; they are stored in full beside it, and the best found are scored by those."""
    index_threshold: int = 50_000
    """How many vectors there must be for an index to be made."""
    num_partitions: int = 0
    """Of an inverted index; 0: LanceDB's choice."""
    fine_dtype: str = "float32"
    """How full vectors are stored."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """The settings of a new collection, the options given among them.

        Raises:
            InvalidInput: a value, or two together, make no sense.
        """
        settings = cls(**{name: value for name, value in given.items() if value is not None})
        for name, known in _CHOICES.items():
            value = getattr(settings, name)
            if value not in known:
                raise InvalidInput(f"{name}={value!r}: use one of {', '.join(map(repr, known))}")
        _whole("index_threshold", settings.index_threshold, _FEWEST_TO_TRAIN)
        _whole("num_partitions", settings.num_partitions, 0)
        if settings.coarse_quantization != "none" and settings.index == "flat":
            raise InvalidInput(
                f"coarse_quantization={settings.coarse_quantization!r} with index='flat': LanceDB quantizes in an "
                "index; give index='ivf' or 'hnsw'"
            )
        if settings.coarse_quantization == "binary" and settings.index == "hnsw":
            raise InvalidInput(
                "coarse_quantization='binary' with index='hnsw': LanceDB has it with index='ivf' only; give that"
            )
        return settings

    @property
    def approximate(self) -> bool:
        """Whether the coarse stage may miss some of the best prefixes, once there is an index."""
        return self.index != "flat"

    @property
    def kind(self) -> tuple[str, str]:
        """The index and its quantization."""
        return "ivf" if self.index == "auto" else self.index, self.coarse_quantization

    @property
    def refine_factor(self) -> int:
        """So many times the candidates must be scored by their stored prefixes; 0: the index has them in full."""
        return {"none": 0, "scalar": 2}.get(self.coarse_quantization, 10)

    def held_to(self, given: Mapping[str, Any]) -> None:
        """Raise where an option was given that the collection was not made with."""
        for name, value in given.items():
            if value is not None and getattr(self, name) != value:
                raise CollectionMismatchError(
                    f"the collection was made with {name}={getattr(self, name)!r}, asked for {value!r}: leave the "
                    "option out, or copy the collection into a new one that has it"
                )

    def dumps(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Settings:
        """Read :meth:`dumps`'s form. Raises :class:`ManifestError` where it is damaged."""
        try:
            value = json.loads(text)
            return cls.of({f.name: value[f.name] for f in fields(cls)})
        except (ValueError, TypeError, KeyError) as error:
            raise ManifestError(f"the collection's settings cannot be read: {error!r}; restore a backup") from error


@dataclass(frozen=True, slots=True)
class Opening:
    """Of one opening alone."""

    nprobes: int = 20
    """Partitions looked at; more where too few rows were found."""
    refine_factor: int | None = None
    """So many times the candidates are scored by their stored prefixes; None: as the quantization needs it."""
    lock_timeout: float = 30.0
    """Seconds that a write waits for another writer."""
    keep_versions: float = 600.0
    """Seconds that files of older versions are kept, for readers that are still at work on them."""

    def __post_init__(self) -> None:
        _whole("nprobes", self.nprobes, 1)
        if self.refine_factor is not None:
            _whole("refine_factor", self.refine_factor, 1)
        for name, least, most in (("lock_timeout", 0.0, math.inf), ("keep_versions", 0.001, _LONGEST)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
                raise InvalidInput(f"{name}={value!r}: give seconds as a number from {least:g} to {most:g}")


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
        raise InvalidInput(f"{name}={value!r}: give a whole number from {least} to {_LARGEST}")
