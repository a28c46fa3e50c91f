"""Embeddings on disk at several lengths: float16 files, one for each prefix length, that are mapped into memory.

``save_multi_resolution`` writes them, ``load_resolution`` gives one of them back, ``load_rows`` the ids and texts
beside them, and ``resolution_summary`` says what they cost. ``ResolutionWriter`` is what writes: batch by batch, so
that a process that is killed goes on where it was. ``docs/resolutions.md`` describes the files.
"""

from .reading import Resolution, load_resolution, load_rows, verify_resolutions
from .saving import save_multi_resolution
from .summary import ResolutionSummary, resolution_summary
from .writing import ResolutionWriter

__all__ = [
    "Resolution",
    "ResolutionSummary",
    "ResolutionWriter",
    "load_resolution",
    "load_rows",
    "resolution_summary",
    "save_multi_resolution",
    "verify_resolutions",
]
