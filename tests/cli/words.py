"""Fourteen words to make texts of, each as far from the others as a hash puts it."""

WORDS = [
    "river",
    "stone",
    "commit",
    "flour",
    "branch",
    "vector",
    "paper",
    "signal",
    "harbor",
    "letter",
    "garden",
    "engine",
    "copper",
    "orbit",
]


def texts(start, stop):
    """Texts of four words and a number of their own; those that are near in number have words in common."""
    return [" ".join(WORDS[n // 14**i % 14] for i in range(4)) + f" {n}" for n in range(start, stop)]
