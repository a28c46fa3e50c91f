"""What the runs of the suite on servers share."""

from mrl_retrieval.registry import open_backend

__all__ = ["drop_all"]


def drop_all(place: str) -> None:
    """Drop every collection at an address, so that the next test finds none."""
    with open_backend(place) as backend:
        names = backend.collections()
    for name in names:
        with open_backend(f"{place}?collection={name}") as one:
            one.drop()
