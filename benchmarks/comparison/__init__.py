"""The parts of ``benchmarks.backends``: the vectors, what is measured of a database, its servers, the report."""
