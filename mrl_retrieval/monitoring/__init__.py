"""What recall is, of a collection that is in use: measured once, or watched while it serves.

:meth:`~mrl_retrieval.MatryoshkaRetriever.measure_recall` holds searches to the collection's own exact search.
:class:`RecallMonitor` does so in the background, for a share of the live queries.
"""

from .detecting import Bounds, RecallState
from .drift import DriftCheck
from .events import DriftEvent, MonitorStatus, RecallEvent, RecallStatus
from .monitor import RecallMonitor
from .report import RecallReport, WorstQuery

__all__ = [
    "Bounds",
    "DriftCheck",
    "DriftEvent",
    "MonitorStatus",
    "RecallEvent",
    "RecallMonitor",
    "RecallReport",
    "RecallState",
    "RecallStatus",
    "WorstQuery",
]
