"""``BackendConformance``: what every backend must do, checked against the exact oracle, ids and scores.

The parts are in files of their own: searching, rows, filters, collections. One fixture, ``address``, is all a
subclass has to give.
"""

from __future__ import annotations

from .collections_suite import CollectionSuite
from .filter_suite import FilterSuite
from .rows_suite import RowSuite
from .search_suite import SearchSuite

__all__ = ["BackendConformance"]


class BackendConformance(SearchSuite, RowSuite, FilterSuite, CollectionSuite):
    """Subclass it, and give a fixture ``address``: a fresh, empty place for each test, as an address string."""
