"""One collection as its backend knows it: how it is laid out, and the asking of PostgreSQL about it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mrl_retrieval.address import Address
from mrl_retrieval.errors import CollectionNotFound
from mrl_retrieval.manifest import Manifest

from .attachments import Attachments
from .client import Connections, Statement
from .layout import Layout, Types
from .options import Options
from .tables import Tables

__all__ = ["Known", "Session"]

Known = tuple[Manifest, Layout]


class Session:
    """What is known is looked up once, and forgotten where PostgreSQL says that the collection is gone. Thread-safe.

    ``learned`` is a method, and is told what was read or written each time, and None when it is there no more.
    """

    def __init__(self, address: Address, options: Options, learned: Callable[[Known | None], None]) -> None:
        self._address = address
        # Weak: a backend that nobody closes is to close its connections as soon as nobody has it any more.
        self._learned = weakref.WeakMethod(learned)
        self._connections = Connections(address, options)
        self.tables = Tables(address, options, self._connections)
        self.attachments = Attachments(address, options, self._connections)
        self._known: Known | None = None
        self._types: Types | None = None

    def read(self) -> Known | None:
        """The manifest and the layout as they are stored now; None where there is no collection."""
        return self._know(self.tables.read())

    def make(self, manifest: Manifest) -> None:
        """Make the collection."""
        self._know((manifest, self.tables.make(manifest)))

    def replace(self, manifest: Manifest, expected: Manifest) -> None:
        """Replace the manifest. How the rows are laid out never changes."""
        self.tables.replace(manifest, expected)
        self._know((manifest, self.layout))

    def drop(self) -> None:
        """Remove the collection."""
        self.tables.drop()
        self._know(None)

    def _know(self, known: Known | None) -> Known | None:
        self._known = known
        if known is None:
            self._types = None
        if (learned := self._learned()) is not None:
            learned(known)
        return known

    @property
    def layout(self) -> Layout:
        """How the collection is laid out.

        Raises:
            CollectionNotFound: there is none.
        """
        known = self._known or self.read()
        if known is None:
            raise CollectionNotFound(f"there is no collection at {self._address}; index something first")
        return known[1]

    @property
    def types(self) -> Types:
        """Of the extension."""
        found = self._types
        if found is None:
            found = self._types = self.tables.types()
        return found

    def ask(
        self, doing: str, statements: Sequence[Statement], settings: Mapping[str, str] | None = None, **how: bool
    ) -> list[list[tuple[Any, ...]]]:
        """:meth:`Connections.ask <mrl_adapters._pgvector.client.Connections.ask>`, with the names of the extension."""
        try:
            return self._connections.ask(doing, statements, self.types.search_path | dict(settings or {}), **how)
        except CollectionNotFound:
            self._know(None)
            raise

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()
