"""Databases used plainly, as their quickstarts do: one full-dimension collection with the database's own index.

They stand beside two-stage retrieval on the same database in ``benchmarks.backends``. One module a database, each
with subclasses of :class:`~benchmarks.comparison.side.Side`.
"""
