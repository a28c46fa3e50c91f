"""Arguments that may be left out: where their values come from, and the stages they add up to.

Precedence: the call, the constructor, the collection's stored plan, the default. "Not given" is a value of its
own, since None means something.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from .errors import CollectionMismatchError, DimensionError, InvalidInput, NothingLearned
from .manifest import Manifest
from .stored_plan import DEFAULT_COARSE_TOP_K, PER_HIT, planned_stages
from .two_stage import Stage

__all__ = [
    "AUTO",
    "NOT_GIVEN",
    "CandidateCount",
    "NotGiven",
    "SearchSettings",
    "StageSpec",
    "check_positive",
    "check_recall",
]

StageSpec = Sequence[tuple[int, int]]
"""A funnel as the user writes it: ``[(dims, keep), …]``, from short to long."""


class NotGiven(enum.Enum):
    """The type of :data:`NOT_GIVEN`."""

    token = 0

    def __repr__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN: Final = NotGiven.token

AUTO: Final = "auto"
"""As ``coarse_top_k``: what the collection's stored plan says."""

CandidateCount = int | Literal["auto"]

DEFAULT_COARSE_DIMS = 64
DEFAULT_FINAL_TOP_K = 10


def check_positive(value: Any, name: str) -> int:
    """Return ``value`` if it is a whole number of at least 1.

    Raises:
        InvalidInput: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidInput(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(value)


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What a constructor or a call said about the search; each field may be :data:`NOT_GIVEN`."""

    coarse_top_k: CandidateCount | NotGiven = NOT_GIVEN
    final_top_k: int | NotGiven = NOT_GIVEN
    stages: tuple[Stage, ...] | NotGiven = NOT_GIVEN

    @classmethod
    def checked(
        cls,
        coarse_top_k: Any,
        final_top_k: Any,
        stages: Any,
        *,
        top_k_name: str,
        coarse_dims: Any = NOT_GIVEN,
    ) -> SearchSettings:
        """Check what can be checked without a collection.

        Raises:
            InvalidInput: a number below 1, ``coarse_top_k`` below the hits asked for, or a funnel that widens.
            TypeError: ``stages`` together with ``coarse_dims`` or ``coarse_top_k``: they say the same thing twice.
        """
        if coarse_top_k is not NOT_GIVEN and not is_auto(coarse_top_k):
            coarse_top_k = check_positive(coarse_top_k, "coarse_top_k")
        if final_top_k is not NOT_GIVEN:
            final_top_k = check_positive(final_top_k, top_k_name)
        if stages is not NOT_GIVEN and stages is not None:
            if coarse_top_k is not NOT_GIVEN or coarse_dims is not NOT_GIVEN:
                raise TypeError("stages= says what coarse_dims= and coarse_top_k= say: give one or the other")
            stages = _check_funnel(stages)
        else:
            stages = NOT_GIVEN
        fixed = coarse_top_k is not NOT_GIVEN and not is_auto(coarse_top_k)
        if fixed and final_top_k is not NOT_GIVEN and coarse_top_k < final_top_k:
            raise InvalidInput(
                f"coarse_top_k={coarse_top_k} is below {top_k_name}={final_top_k}: the candidates must be at least "
                f"as many as the hits; raise coarse_top_k to several times {final_top_k}"
            )
        return cls(coarse_top_k, final_top_k, stages)

    def resolve(self, made: SearchSettings, manifest: Manifest, *, exact: bool) -> tuple[Stage, ...]:
        """The stages of a search: this call's settings over those of the constructor (``made``).

        Raises:
            InvalidInput: fewer candidates than hits were asked for.
            CollectionMismatchError: the funnel begins at a prefix that this collection does not index.
            NothingLearned: the stored plan was asked for, and there is none.
        """
        plan = manifest.plan or {}
        k: int = _first(self.final_top_k, made.final_top_k, plan.get("final_top_k"), DEFAULT_FINAL_TOP_K)
        last = Stage(manifest.fine_dims, k)
        if exact:
            return (last,)
        funnel = self._funnel(made, plan, manifest, k)
        if not funnel:
            return (last,)
        if funnel[0].dims != manifest.coarse_dims:
            raise CollectionMismatchError(
                f"the first stage searches {funnel[0].dims} dims, this collection indexes {manifest.coarse_dims}: "
                f"begin the funnel with ({manifest.coarse_dims}, …), or make a collection with "
                f"coarse_dims={funnel[0].dims}"
            )
        for stage in funnel:
            if stage.limit < k:
                raise InvalidInput(
                    f"a stage keeps {stage.limit} candidates, fewer than the {k} hits asked for: raise "
                    f"coarse_top_k to several times {k}, or ask for at most {stage.limit} hits"
                )
        return (*funnel, last)

    def _funnel(self, made: SearchSettings, plan: dict[str, Any], manifest: Manifest, k: int) -> tuple[Stage, ...]:
        for given in (self, made):
            if not isinstance(given.stages, NotGiven):
                clamped = [Stage(min(s.dims, manifest.fine_dims), s.limit) for s in given.stages]
                return tuple(clamped)
            if given.coarse_top_k == AUTO:
                if "coarse_top_k" not in plan:
                    raise NothingLearned(
                        "coarse_top_k='auto' asks for the collection's plan, and none is stored: make one with plan() "
                        "(mrl plan), or give a number"
                    )
                break
            if not isinstance(given.coarse_top_k, NotGiven):
                return (Stage(manifest.coarse_dims, int(given.coarse_top_k)),)
        if "coarse_top_k" in plan:
            return planned_stages(plan, manifest.coarse_dims, k)
        # Nobody fixed a number: never fewer than a few candidates for each hit.
        return (Stage(manifest.coarse_dims, max(DEFAULT_COARSE_TOP_K, PER_HIT * k)),)


def _first(*values: Any) -> Any:
    return next(v for v in values if v is not NOT_GIVEN and v is not None)


def is_auto(value: Any) -> bool:
    """Whether the stored plan is asked for."""
    return isinstance(value, str) and value == AUTO


def _check_funnel(stages: Any) -> tuple[Stage, ...]:
    try:
        pairs = [(dims, limit) for dims, limit in stages]
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"stages is a list of pairs such as [(64, 400), (128, 100)], got {stages!r}") from error
    if not pairs:
        raise InvalidInput("stages is empty; give at least one pair such as (64, 200), or leave it out")
    funnel = tuple(
        Stage(check_positive(dims, f"stages[{i}] dims"), check_positive(limit, f"stages[{i}] candidates"))
        for i, (dims, limit) in enumerate(pairs)
    )
    for before, after in zip(funnel, funnel[1:], strict=False):
        if after.dims < before.dims or after.limit > before.limit:
            raise InvalidInput(
                f"stage ({after.dims}, {after.limit}) follows ({before.dims}, {before.limit}): a funnel goes to "
                "longer prefixes over fewer candidates"
            )
    return funnel


def check_recall(recall: Any, name: str = "recall") -> float:
    """Return ``recall`` if it is a number between 0 and 1, both excluded.

    Raises:
        InvalidInput: it is not.
    """
    if isinstance(recall, bool) or not isinstance(recall, (int, float, np.floating)) or not 0 < recall < 1:
        raise InvalidInput(f"{name} is a share between 0 and 1, for instance 0.99, not {recall!r}")
    return float(recall)


def resolve_dims(
    dim: int, coarse_dims: int | NotGiven, fine_dims: int | None, stages: tuple[Stage, ...] | NotGiven
) -> tuple[int, int, tuple[int, ...]]:
    """The dims of a new collection: ``(coarse, fine, funnel)``. Coarse ones beyond the encoder's are clamped.

    Raises:
        DimensionError: ``fine_dims`` is beyond ``dim``.
    """
    fine = dim if fine_dims is None else check_positive(fine_dims, "fine_dims")
    if fine > dim:
        raise DimensionError(f"fine_dims={fine} is beyond the {dim} dims of the vectors; use at most {dim}, or None")
    funnel: tuple[int, ...] = ()
    if not isinstance(stages, NotGiven):
        coarse = min(stages[0].dims, fine)
        funnel = tuple(sorted({s.dims for s in stages[1:] if coarse < s.dims < fine}))
    else:
        coarse = min(DEFAULT_COARSE_DIMS if isinstance(coarse_dims, NotGiven) else coarse_dims, fine)
    return coarse, fine, funnel


def check_dims(
    manifest: Manifest,
    coarse_dims: int | NotGiven,
    fine_dims: int | None,
    stages: tuple[Stage, ...] | NotGiven,
    dim: int | None,
    where: str,
) -> None:
    """Hold explicitly given dims to those of an existing collection.

    Raises:
        CollectionMismatchError: they differ; both values and the remedy are in the message.
    """
    if not isinstance(stages, NotGiven):
        first = min(stages[0].dims, manifest.fine_dims)
        if first != manifest.coarse_dims:
            raise CollectionMismatchError(
                f"{where} was made with coarse_dims={manifest.coarse_dims}, but stages= begins with {first} dims: "
                f"begin it with ({manifest.coarse_dims}, …), or index into another collection"
            )
    for name, given, stored in (
        ("dim", dim, manifest.dim),
        ("fine_dims", fine_dims, manifest.fine_dims),
        ("coarse_dims", coarse_dims, manifest.coarse_dims),
    ):
        if given is None or isinstance(given, NotGiven):
            continue
        wanted = min(given, manifest.fine_dims) if name == "coarse_dims" else given
        if wanted != stored:
            raise CollectionMismatchError(
                f"{where} was made with {name}={stored}, but {name}={given} was given: leave it out, or index into "
                "another collection"
            )
