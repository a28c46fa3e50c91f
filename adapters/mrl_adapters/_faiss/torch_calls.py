"""PyTorch, imported in one place, with its errors turned into ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mrl_retrieval.errors import BackendError, MissingExtra

try:
    import torch
except ImportError as error:
    raise MissingExtra("an index on the GPU", "gpu") from error

__all__ = ["torch", "torch_errors"]


@contextlib.contextmanager
def torch_errors(doing: str) -> Iterator[None]:
    """Turn PyTorch's errors into ours: the one place where that happens."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise BackendError(
            f"{doing} failed, the GPU's memory is full: {error}; free some, or open the collection with index='flat' "
            "or 'ivf'"
        ) from error
    except RuntimeError as error:
        raise BackendError(f"{doing} failed, PyTorch says: {error}") from error
