"""Which generation of a collection counts: pointing to another one, going back, clearing away what is older.

The pointer is ``moved_to`` in the manifest of the collection's own name; one compare-and-set of it is the switch.
What a run that was stopped behind it has left undone, the next one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..backend import Backend
from ..errors import CollectionNotFound, ConflictError
from ..generations import base_of, check_there, generation_names
from ..registry import open_backend

__all__ = ["clear_up", "generations", "replace_manifest", "rollback", "switch"]


@contextmanager
def generations(address: str, options: Mapping[str, Any] | None) -> Iterator[tuple[Backend, Backend]]:
    """The collection by its own name, and the generation that holds its rows now; they may be the same."""
    with open_backend(address, **(options or {})) as named:
        manifest = named.manifest
        base_name = base_of(manifest, named.address.collection)
        if base_name != named.address.collection:
            with generations(str(named.address.with_collection(base_name)), options) as both:
                yield both
            return
        if manifest.moved_to is None:
            yield named, named
            return
        with open_backend(named.address.with_collection(manifest.moved_to), **(options or {})) as current:
            yield named, current


def replace_manifest(backend: Backend, **changes: Any) -> None:
    """Change a manifest by compare-and-set."""
    found = backend.read_manifest()
    if found is None:
        raise CollectionNotFound(f"there is no collection at {backend.address} any more")
    changed = replace(found, **changes)
    if changed != found:
        backend.write_manifest(changed, found)


def switch(base: Backend, current: Backend, target: Backend) -> None:
    """Point to the new generation. The write to ``base`` is the moment from which it counts."""
    name, previous = target.address.collection, current.address.collection
    if (found := current.read_manifest()) is None or found.frozen != name:
        raise ConflictError(f"the reindexing of {base.address} was called off meanwhile; {name!r} is kept for the next")
    replace_manifest(target, origin=(target.manifest.origin or {}) | {"complete": True})
    if current.address == base.address:
        replace_manifest(base, moved_to=name, previous=previous, frozen=None)
    else:
        replace_manifest(base, moved_to=name, previous=previous)


def clear_up(base: Backend, current: Backend, options: Mapping[str, Any] | None) -> None:
    """After a switch: send writers of the generation before on, drop what is older.

    Of the first generation the manifest stays, which holds the pointer. A generation that is being made of the current
    one stays too.
    """
    previous = base.manifest.previous
    names = base.collections()
    if current.address == base.address or previous not in names:
        return
    own, now = base.address.collection, current.address.collection
    if previous != own:
        with open_backend(base.address.with_collection(previous), **(options or {})) as before:
            manifest = before.read_manifest()
            if manifest is not None and manifest.frozen == now:
                replace_manifest(before, moved_to=now, frozen=None)
    for name in generation_names(own, names):
        if name in (now, previous):
            continue
        with open_backend(base.address.with_collection(name), **(options or {})) as old:
            manifest = old.read_manifest()
            if manifest is None or base_of(manifest, name) != own:
                continue
            if (manifest.origin or {}).get("source_id") != current.manifest.collection_id:
                old.drop()
    if previous != own:
        for batch in list(base.scan(documents=False)):
            base.delete(batch.ids)


def rollback(address: str, *, backend_options: Mapping[str, Any] | None = None) -> str:
    """Go back to the generation before; a second call comes forth again. Returns the name of the one used now.

    What was written since the switch is in the generation that is left, and stays there. An unfinished reindexing is
    called off: what it has done is kept, and taken up by the next. Where the generation in use was dropped, this is
    the way back to the rows of the one before.

    Raises:
        CollectionNotFound: there is no collection.
        ConflictError: there is no generation before.
    """
    with generations(address, backend_options) as (base, current):
        left = current.read_manifest()
        if left is not None and left.frozen is not None:
            replace_manifest(current, frozen=None)
            return current.address.collection
        previous = base.manifest.previous
        if previous is None or previous not in base.collections():
            check_there(current, base)
            raise ConflictError(f"{base.address} has no generation before this one: it was not reindexed")
        # Writers first, the pointer last: interrupted in between, writes are refused until it is repeated.
        if left is not None and current.address != base.address:
            replace_manifest(current, moved_to=previous)
        forth = None if left is None else current.address.collection
        if previous == base.address.collection:
            replace_manifest(base, moved_to=None, previous=forth)
        else:
            with open_backend(base.address.with_collection(previous), **(backend_options or {})) as other:
                replace_manifest(other, moved_to=None, frozen=None)
            replace_manifest(base, moved_to=previous, previous=forth)
        return previous
