"""Quality by dimension: search, classification, clustering, STS and pairs, from one pass of encoding.

Needs scikit-learn and SciPy (the extra ``evaluate``). As a search of MTEB: ``mteb_search.py`` (the extra ``mteb``).
"""

from .reading import load_task
from .report import EvaluationReport, Measure, Row, TaskReport
from .running import evaluate
from .tasks import ClassificationTask, ClusteringTask, PairsTask, SearchTask, StsTask, Task

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
