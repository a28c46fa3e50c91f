"""What another prefix length, a rotation or a funnel would bring, each with the command for it."""

from __future__ import annotations

from collections.abc import Sequence

from ..manifest import Manifest
from .report import KEPT, FrontierRow

__all__ = ["advised"]

_WORTH = 0.9
"""What would be read in place of what is read now, for a change to be worth its work."""


def advised(
    rows: Sequence[FrontierRow], manifest: Manifest, target: float, memory: bool, vectors: int, address: str
) -> tuple[str, ...]:
    """Sentences for the user; none where nothing is better than what there is.

    Settings are compared by the components that a search reads: prefixes of all documents, and candidates in full.
    """

    def read(row: FrontierRow) -> float | None:
        candidates = row.needed(target)
        if candidates is None:
            return None
        return float(row.dims) if memory else float(vectors * row.dims + candidates * manifest.fine_dims)

    plain = [row for row in rows if row.longer is None]
    now = next((row for row in plain if row.own), None)
    reads = None if now is None else read(now)
    others = [(amount, row) for row in plain if not row.own and (amount := read(row)) is not None]
    said = []
    if others:
        amount, best = min(others, key=lambda pair: (pair[0], pair[1].dims))
        if reads is None or amount < _WORTH * reads:
            said.append(_change(best, manifest, target, address))
    funnel = next((row for row in rows if row.longer is not None), None)
    candidates = None if now is None or funnel is None else now.needed(target)
    if funnel is not None and candidates is not None and candidates == funnel.needed(target):
        said.append(
            f"a funnel covers as much and ranks fewer full vectors: stages=[({funnel.dims}, {candidates}), "
            f"({funnel.longer}, {candidates // KEPT})]"
        )
    return tuple(said)


def _change(row: FrontierRow, manifest: Manifest, target: float, address: str) -> str:
    candidates = row.needed(target)
    steps = []
    if row.dims != manifest.coarse_dims:
        name = None if manifest.encoder is None else manifest.encoder.name
        if name is None:
            steps.append(f"index it anew with coarse_dims={row.dims}")
        else:
            steps.append(f"mrl reindex {address} --encoder {name} --coarse-dims {row.dims}")
    if row.rotated and manifest.rotation is None:
        steps.append(f"mrl rotate {address}")
    if not row.rotated and manifest.rotation is not None:
        steps = [f"index it without a rotation{'' if not steps else f' and with coarse_dims={row.dims}'}"]
    return f"{row.name} dims would cover {target:g} with {candidates:,} candidates: {', then '.join(steps)}"
