"""Backends and encoders by name, from entry points; nothing is imported before it is asked for.

Groups: ``mrl_retrieval.backends`` (a subclass of :class:`~mrl_retrieval.backend.Backend`),
``mrl_retrieval.encoders`` (a callable ``(argument: str, **options) -> Encoder``, where the argument is what stands
after the colon in ``"name:argument"``) and ``mrl_retrieval.importers`` (see :mod:`mrl_retrieval.moving.foreign`).
Our own come in by the same door as anybody else's.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from .address import Address
from .errors import InvalidInput, MRLError, PluginError, UnknownNameError

if TYPE_CHECKING:
    from .backend import Backend
    from .encoder import Encoder
    from .moving.foreign import ForeignCollection

BACKENDS = "mrl_retrieval.backends"
ENCODERS = "mrl_retrieval.encoders"
IMPORTERS = "mrl_retrieval.importers"

__all__ = [
    "backend_class",
    "backend_names",
    "encoder_names",
    "importer",
    "importer_names",
    "load_encoder",
    "open_backend",
]


def backend_names() -> list[str]:
    """The known backends, sorted. Imports none of them."""
    return sorted(_found(BACKENDS))


def encoder_names() -> list[str]:
    """The known encoders, sorted. Imports none of them."""
    return sorted(_found(ENCODERS))


def backend_class(name: str) -> type[Backend]:
    """The class behind a scheme.

    Raises:
        UnknownNameError: no such backend; the message lists the known ones.
        MissingExtra: its database's package is not installed.
    """
    cls: type[Backend] = _load(BACKENDS, "backend", name)
    return cls


def open_backend(address: str | Address, **options: Any) -> Backend:
    """Connect to a database by address. Nothing is created before the first write.

    Args:
        address: ``"faiss:./kb"``, ``"qdrant+http://host:6333?collection=notes"``, …
        options: what the backend's own page lists, such as ``lock_timeout=`` or ``api_key=``.
    """
    where = Address.parse(address) if isinstance(address, str) else address
    cls = backend_class(where.scheme)
    try:
        return cls.from_address(where, **options)
    except MRLError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        if not options:
            raise
        raise InvalidInput(
            f"the {where.scheme} backend cannot use the options {', '.join(sorted(options))}: {error}"
        ) from error


def load_encoder(spec: str, **options: Any) -> Encoder:
    """An encoder by name: ``"wordllama"``, ``"sentence-transformers:./folder"``, …

    Raises:
        UnknownNameError: no such encoder; the message lists the known ones.
        MissingExtra: its package is not installed.
    """
    name, _, argument = spec.partition(":")
    factory: Callable[..., Encoder] = _load(ENCODERS, "encoder", name)
    return factory(argument, **options)


def importer_names() -> list[str]:
    """The databases whose own collections can be taken over, sorted. Imports none of them."""
    return sorted(_found(IMPORTERS))


def importer(name: str) -> Callable[..., ForeignCollection]:
    """What reads the collections that others made in a database of this scheme.

    Raises:
        UnknownNameError: none is known; the message lists the known ones.
        MissingExtra: the database's package is not installed.
    """
    found: Callable[..., ForeignCollection] = _load(IMPORTERS, "importer", name)
    return found


def _found(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def _load(group: str, kind: str, name: str) -> Any:
    found = _found(group)
    if name not in found:
        hint = ""
        if kind == "encoder":
            hint = f"A sentence-transformers model or folder is written 'sentence-transformers:{name}'"
        raise UnknownNameError(kind, name, found, hint)
    try:
        return found[name].load()
    except MRLError:
        raise
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"the {kind} {name!r} is registered as {found[name].value}, which fails to load: {error}; reinstall the "
            "package it comes with"
        ) from error
