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
