"""``plan()`` of a retriever: which setting provably finds what is asked for, kept and used from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .reading import CollectionReader

if TYPE_CHECKING:
    from .planning import SearchPlan

__all__ = ["PlannedReader"]


class PlannedReader(CollectionReader):
    """A reader that plans its searches."""

    def plan(
        self,
        target_recall: float = 0.99,
        k: int = 10,
        queries: Any = None,
        confidence: float = 0.95,
        budget: Literal["latency", "memory"] = "latency",
        *,
        store: bool = True,
    ) -> SearchPlan:
        """Find the cheapest search that provably finds a share of the true best ``k``, and search so from now on.

        The promise is about the mean over queries like the sample's: it is broken in at most ``1 - confidence`` of
        plans. It holds for ``k`` hits without a filter, and for the collection as it is.

        Args:
            target_recall: share of the true best k, between 0 and 1.
            k: hits of a search.
            queries: texts like those that will be asked, or their full embeddings (Q, D). A target of 0.99 needs some
                hundreds, 0.999 some thousands. None: documents stand for queries; these are nearer to each other than
                queries are to them, so that somewhat less recall than promised is found.
            confidence: of the promise, between 0 and 1.
            budget: ``"latency"``: the quickest setting, as timed on this backend, and exact search where that is
                quicker. ``"memory"``: the fewest full vectors read, and advice by the shortest prefix.
            store: keep the plan with the collection, as the default of its searches, also for retrievers that are
                opened later. A verdict other than ``"planned"`` and ``"flat"`` is never kept.

        Returns:
            The setting and what was measured, or why there is none: that is a result, and no error.

        Raises:
            CollectionNotFound: nothing was indexed yet.
            TooFewQueries: so few could not prove the target, whatever they found; ``error.needed`` is how many could.
            InvalidInput: an argument cannot be used, or there are fewer rows than k.
        """
        from .planning.planner import Goal, check_rows, plan_collection  # here: searches do not need it
        from .planning.samples import from_documents, given_queries

        goal = Goal.checked(target_recall, k, confidence, budget)
        manifest = self.manifest or self._backend.manifest  # the latter says what is missing
        self._collection.check_current(writing=store)
        check_rows(self._backend, goal.k)
        if queries is None:
            sample = from_documents(self._backend, goal.target, goal.confidence)
        else:
            sample = given_queries(self._query_vectors(queries, manifest), goal.target, goal.confidence)
        found = plan_collection(self._backend, sample, goal, store=store)
        if found.stored:
            self._collection.take_plan()
        return found
