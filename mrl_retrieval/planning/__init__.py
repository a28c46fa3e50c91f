"""The cheapest search of a collection that provably finds a share of the true nearest documents.

``samples.py`` says with which queries, ``truth.py`` what they should find, ``costs.py`` what a search takes,
``proving.py`` which settings are proved to reach the target, ``frontier.py`` what other prefixes would bring, and
``planner.py`` puts it together; ``report.py`` is what comes out.
"""

from .planner import plan_collection
from .report import FrontierRow, SearchPlan

__all__ = ["FrontierRow", "SearchPlan", "plan_collection"]
