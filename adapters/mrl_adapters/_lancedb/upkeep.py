"""Upkeep of a collection's table: its indexes, the merging of small files, and the removal of old versions.

Every commit of LanceDB's adds files and a version. So from time to time a writer, who holds the lock, merges what has
gathered, brings the indexes up to date (until then new rows are found by looking at each), and removes the files that
only versions older than ``keep_versions`` seconds need.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from .options import Settings
from .package import kinds

__all__ = ["Upkeep", "vector_index"]

logger = logging.getLogger(__name__)

_COARSE = "coarse_"
_SCALARS = {"terms": "terms_idx", "key": "key_idx"}
# Below this many rows it is faster to look at each than to ask an index.
_SCALARS_FROM = 2000
# It is done when this many small files, or versions, have gathered, and in a large table one for this many rows: a
# growing table is then rewritten each time it has grown by a share, and not after every so many commits.
_COMMITS = 32
_ROWS_PER_COMMIT = 4000
# A trained index is made anew when there are so many times the vectors that it was trained on.
_GROWTH = 4

_KINDS: dict[tuple[str, str], Any] = {
    ("ivf", "none"): kinds.IvfFlat,
    ("ivf", "scalar"): kinds.IvfSq,
    ("ivf", "product"): kinds.IvfPq,
    ("ivf", "binary"): kinds.IvfRq,
    ("hnsw", "none"): kinds.HnswFlat,
    ("hnsw", "scalar"): kinds.HnswSq,
    ("hnsw", "product"): kinds.HnswPq,
}


def vector_index(table: Any) -> tuple[str, int] | None:
    """The name of the index over the prefixes, and how many vectors it was trained on; None where there is none."""
    for found in table.list_indices():
        trained = found.name.removeprefix(_COARSE)
        if found.name != trained and trained.isdigit():
            return found.name, int(trained)
    return None


class Upkeep:
    """Of one table, by one that holds the writer lock."""

    def __init__(self, table: Any, settings: Settings, keep_versions: float) -> None:
        self._table = table
        self._settings = settings
        self._keep = timedelta(seconds=keep_versions)

    def if_due(self) -> None:
        """Do it where enough has gathered."""
        stats = self._table.stats()
        files = stats["fragment_stats"]["num_small_fragments"]
        period = max(_COMMITS, stats["num_rows"] // _ROWS_PER_COMMIT)
        # Every commit makes a version, but rows that are replaced over and over leave few files.
        if files >= period or self._table.version % period == 0 or self._wants_its_first_index():
            self.run()

    def _wants_its_first_index(self) -> bool:
        least = self._settings.index_threshold
        if self._settings.index == "flat" or self._table.count_rows() < least or vector_index(self._table) is not None:
            return False
        return int(self._table.count_rows("has_vector")) >= least

    def run(self, *, unfinished: bool = False) -> None:
        """Merge, index, and clean up.

        Args:
            unfinished: also remove the files of writes that were never committed. Nobody else may be writing.
        """
        self._table.optimize(cleanup_older_than=self._keep, delete_unverified=unfinished)
        self._index_scalars()
        self._index_prefixes()

    def _index_scalars(self) -> None:
        rows = self._table.count_rows()
        there = {found.name for found in self._table.list_indices()}
        for column, name in _SCALARS.items():
            if rows >= _SCALARS_FROM and name not in there:
                config = kinds.BTree() if column == "key" else kinds.LabelList()
                self._table.create_index(column, config=config, name=name)

    def _index_prefixes(self) -> None:
        settings = self._settings
        if settings.index == "flat":
            return
        vectors = self._table.count_rows("has_vector")
        found = vector_index(self._table)
        if vectors < settings.index_threshold or (found is not None and vectors < _GROWTH * found[1]):
            return
        kind = settings.kind
        config = _KINDS[kind](distance_type="dot", num_partitions=settings.num_partitions or None)
        if kind[1] == "product":
            dims = self._table.schema.field("coarse").type.list_size
            config.num_sub_vectors = next(n for n in (dims // 4, dims // 2, dims) if n and dims % n == 0)
        self._table.create_index("coarse", config=config, replace=True, name=f"{_COARSE}{vectors}")
        if found is not None and found[0] != f"{_COARSE}{vectors}":
            self._table.drop_index(found[0])
        logger.info("%s: made an index over %d prefixes: %s", self._table.name, vectors, kind)
