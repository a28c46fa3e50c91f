"""Which generation of a collection counts: pointing to another one, going back, clearing away what is older.

The pointer is ``moved_to`` in the manifest of the collection's own name; one compare-and-set of it is the switch.
What a run that was stopped behind it has left undone, the next one does.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..backend import Backend
from ..errors import CollectionNotFound, ConflictError
from ..generations import base_of, check_there, generation_names
from ..manifest import Manifest
from ..registry import open_backend
from .passes import Moved, Mover, Progress, bring_over

__all__ = ["Turn", "clear_up", "generations", "move_over", "replace_manifest", "rollback"]


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


class Turn:
    """The right to make the next generation. Whoever takes it last has it.

    The manifest of the collection's own name says whose turn it is and which generation counts, and every step that
    matters is a compare-and-set of it: a run that was overtaken, or called off, comes no further.

    Raises:
        ConflictError: the generation that was to be embedded anew is not the current one any more.
    """

    def __init__(self, base: Backend, current: Backend, target: Backend) -> None:
        self._base, self._current, self._target = base, current, target
        self._token = str(uuid.uuid4())
        found = self._pointer()
        base.write_manifest(replace(found, reindexing=self._token), found)

    def check(self) -> Manifest:
        """The manifest that points to the current generation, as it is stored now.

        Raises:
            ConflictError: it is another's turn, or nobody's; or the target was dropped.
        """
        found = self._pointer()
        if found.reindexing != self._token:
            raise ConflictError(
                f"another reindexing of {self._base.address} has taken over, or this one was called off: nothing more "
                f"is done here; what {self._target.address} holds is kept for the next"
            )
        if self._target.read_manifest() is None:
            raise ConflictError(f"{self._target.address} was dropped while it was written to: nothing more is done")
        return found

    def freeze(self) -> None:
        """Refuse writes to the current generation from now on."""
        name, found = self._target.address.collection, self.check()
        if self._current.address == self._base.address:
            self._base.write_manifest(replace(found, frozen=name), found)
            return
        replace_manifest(self._current, frozen=name)
        self.check()

    def switch(self) -> None:
        """Point to the new generation. The write to the base's manifest is the moment from which it counts."""
        name, previous = self._target.address.collection, self._current.address.collection
        found = self.check()
        source = found if self._current.address == self._base.address else self._current.read_manifest()
        if source is None or source.frozen != name:
            raise ConflictError(f"the reindexing of {self._base.address} was called off meanwhile: {name!r} is kept")
        changed = replace(found, moved_to=name, previous=previous, reindexing=None)
        if self._current.address == self._base.address:
            changed = replace(changed, frozen=None)
        self._base.write_manifest(changed, found)

    def _pointer(self) -> Manifest:
        found = self._base.read_manifest()
        if found is None or (found.moved_to or self._base.address.collection) != self._current.address.collection:
            raise ConflictError(
                f"the rows of {self._base.address} are not in {self._current.address.collection!r} any more: somebody "
                "has reindexed it, or gone back, meanwhile; run it again if it is still wanted"
            )
        return found


def move_over(
    base: Backend,
    current: Backend,
    target: Backend,
    mover: Callable[[Turn], Mover],
    *,
    batch_size: int,
    started: bool,
    progress: Progress,
    options: Mapping[str, Any] | None,
) -> Moved:
    """Bring the rows into the next generation and switch to it: writers go on until the last pass, searches always.

    Raises:
        ConflictError: another run has taken over, this one was called off, or the rows were written to all the time.
    """
    turn = Turn(base, current, target)
    moving = mover(turn)
    first = bring_over(
        current, target, moving, batch_size=batch_size, started=started, progress=progress, to_the_end=False
    )
    turn.freeze()
    # From here on nobody writes to the source, so that this one comes to an end, and compares everything.
    last = bring_over(current, target, moving, batch_size=batch_size, started=True, progress=False)
    target.flush()
    turn.switch()
    clear_up(base, target, options)
    return Moved(last.rows, last.vectors, first.written + last.written, first.removed + last.removed)


def clear_up(base: Backend, current: Backend, options: Mapping[str, Any] | None) -> None:
    """After a switch: the current generation is whole; send writers of the one before on, drop what is older.

    Of the first generation the manifest stays, which holds the pointer. A generation that is being made of the current
    one stays too.
    """
    own, now = base.address.collection, current.address.collection
    names = base.collections()

    def points_here() -> Manifest | None:
        found = base.read_manifest()
        return found if found is not None and found.moved_to == now else None

    if (pointer := points_here()) is None or (previous := pointer.previous) not in names:
        return
    origin = current.manifest.origin or {}
    if not origin.get("complete", True):
        replace_manifest(current, origin=origin | {"complete": True})
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
            if (manifest.origin or {}).get("source_id") != current.manifest.collection_id and points_here():
                old.drop()
    if previous != own:
        for batch in list(base.scan(documents=False)):
            if points_here():
                base.delete(batch.ids)


def rollback(address: str, *, backend_options: Mapping[str, Any] | None = None) -> str:
    """Go back to the generation before; a second call comes forth again. Returns the name of the one used now.

    What was written since the switch is in the generation that is left, and stays there. Where the generation in use
    was dropped, this is the way back to the rows of the one before. A reindexing that is under way, or was
    interrupted, is called off instead, and the generation in use stays: what the run has done is kept, and taken up by
    the next with the same encoder.

    Raises:
        CollectionNotFound: there is no collection.
        ConflictError: there is no generation before.
    """
    with generations(address, backend_options) as (base, current):
        pointer, left = base.read_manifest(), current.read_manifest()
        own = base.address.collection
        if pointer is None or (pointer.moved_to or own) != current.address.collection:
            raise ConflictError(f"{base.address} was changed meanwhile: look again")
        frozen = left is not None and left.frozen is not None
        if pointer.reindexing is not None or frozen:
            # The run loses its turn before writers may go on.
            called_off = replace(pointer, reindexing=None)
            if current.address == base.address:
                called_off = replace(called_off, frozen=None)
            base.write_manifest(called_off, pointer)
            if frozen and current.address != base.address:
                replace_manifest(current, frozen=None)
            return current.address.collection
        previous = pointer.previous
        if previous is None or previous not in base.collections():
            check_there(current, base)
            raise ConflictError(f"{base.address} has no generation before this one: it was not reindexed")
        # Writers first, the pointer last: interrupted in between, writes are refused until it is repeated.
        if left is not None and current.address != base.address:
            replace_manifest(current, moved_to=previous)
        forth = None if left is None else current.address.collection
        if previous == own:
            changed = replace(pointer, moved_to=None, previous=forth, frozen=None)
        else:
            with open_backend(base.address.with_collection(previous), **(backend_options or {})) as other:
                replace_manifest(other, moved_to=None, frozen=None)
            changed = replace(pointer, moved_to=previous, previous=forth)
        base.write_manifest(changed, pointer)
        return previous
