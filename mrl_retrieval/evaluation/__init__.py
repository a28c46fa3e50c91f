"""Quality by dimension: search, classification, clustering, STS and pairs, from one pass of encoding.

``evaluate`` needs scikit-learn and SciPy (the extra ``evaluate``), and is imported when it is asked for: tasks and
reports are read without. As a search of MTEB: ``mteb_search.py`` (the extra ``mteb``).
"""

from typing import TYPE_CHECKING, Any

from .reading import load_task
from .report import EvaluationReport, Measure, Row, TaskReport
from .tasks import ClassificationTask, ClusteringTask, PairsTask, SearchTask, StsTask, Task

if TYPE_CHECKING:
    from .running import evaluate

__all__ = [
    "ClassificationTask",
    "ClusteringTask",
    "EvaluationReport",
    "Measure",
    "PairsTask",
    "Row",
    "SearchTask",
    "StsTask",
    "Task",
    "TaskReport",
    "evaluate",
    "load_task",
]


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        from .running import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
