"""``BackendConformance``: what every backend must do, checked against the exact oracle, ids and scores.

The parts are in files of their own: searching, explaining, rows, filters, collections, attachments. One fixture, ``address``, is all a
subclass has to give.
"""

from __future__ import annotations

from .attachments_suite import AttachmentSuite
from .collections_suite import CollectionSuite
from .explain_suite import ExplainSuite
from .filter_suite import FilterSuite
from .rows_suite import RowSuite
from .search_suite import SearchSuite

__all__ = ["BackendConformance"]


class BackendConformance(SearchSuite, ExplainSuite, RowSuite, FilterSuite, CollectionSuite, AttachmentSuite):
    """Subclass it, and give a fixture ``address``: a fresh, empty place for each test, as an address string."""
