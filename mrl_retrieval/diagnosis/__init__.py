"""Can these embeddings be cut, and where? Measured on a corpus of the user's own, raw and rotated.

For every prefix length: how many of the true nearest documents (by full vectors) are among the candidates that the
prefixes give, and, where there are judgements, what a search by the prefix alone is worth and what two stages are.
"""

from .measuring import diagnose, diagnose_vectors
from .report import DimsReport, TruncationReport

__all__ = ["DimsReport", "TruncationReport", "diagnose", "diagnose_vectors"]
