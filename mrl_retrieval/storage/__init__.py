"""The embedded store: documents, metadata and full vectors in files that survive a crash.

:class:`Store` is the whole of it; ``docs/store-format.md`` describes the files. It holds no search index: a backend
keeps one of its own beside it, as a cache that can always be made again from what is stored here.
"""

from .backup import BackupReport, RestoreReport
from .compaction import CompactionReport
from .files import CollectionFiles, check_place, collection_names
from .locks import ReadWriteLock, WriterLock
from .query import can_query
from .repair import RepairReport
from .rerank import Near, Reranker, Scored, candidates, rankings
from .row_copy import save as save_row_copy
from .scan import exact_scan
from .snapshot import NotAtHand, Snapshot
from .store import Store
from .verify import Problem, VerifyReport

__all__ = [
    "BackupReport",
    "CollectionFiles",
    "CompactionReport",
    "Near",
    "NotAtHand",
    "Problem",
    "ReadWriteLock",
    "RepairReport",
    "Reranker",
    "RestoreReport",
    "Scored",
    "Snapshot",
    "Store",
    "VerifyReport",
    "WriterLock",
    "can_query",
    "candidates",
    "check_place",
    "collection_names",
    "exact_scan",
    "rankings",
    "save_row_copy",
]
