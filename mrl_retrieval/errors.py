"""Every error this library raises, as one tree.

::

    MRLError
    ├── InvalidInput (ValueError)        what the caller passed cannot be used
    │   ├── DimensionError               a vector, or a dim, of the wrong length
    │   ├── NonFiniteError               NaN or infinity in a vector
    │   ├── DuplicateIdError             the same id twice in one call
    │   ├── MemoryBudgetError            nothing that was asked for fits the memory budget
    │   ├── FilterError                  unknown operator, wrong operand, order across types
    │   ├── TruncationError              a prefix that its model was not trained for, with strict=True
    │   ├── TooFewQueries                too few queries to prove what was asked for; says how many are needed
    │   ├── TextTooLongError             a text beyond the encoder's context, and nothing says to cut it
    │   └── AddressError                 a backend address that cannot be read
    ├── UnknownNameError (LookupError)   no backend or encoder of that name
    ├── MissingExtra (ImportError)       an optional dependency is not installed
    ├── PluginError (ImportError)        a registered backend or encoder cannot be loaded
    ├── EncoderError                     the encoder failed or answered nonsense
    │   ├── EncoderRequired              a text was given, but there is no encoder
    │   └── EncoderUnavailable           its server cannot be reached, is busy, or answered too late
    ├── RerankerError                    the reranker failed or answered nonsense
    ├── CollectionError                  a collection cannot be used as asked
    │   ├── CollectionNotFound           nothing is there
    │   ├── NotACollection               something is there, but it is not ours
    │   ├── ManifestError                the manifest is damaged
    │   │   └── NewerFormatError         written by a newer version of this library
    │   ├── CollectionMismatchError      made with other dims or settings
    │   │   └── ModelMismatchError       made with another encoder
    │   ├── NothingLearned               a recall or a plan was asked for before it was learned
    │   ├── ConflictError                somebody else changed the manifest meanwhile
    │   └── CorruptionError              stored data fails its checksum
    └── BackendError                     the database failed; its own words are in the message
        ├── BackendUnavailable           it cannot be reached, or answered too late
        ├── NotSupported                 this backend does not do what was asked
        └── LockTimeout (TimeoutError)   another writer held the lock too long

A client library's own exception is never let through: an adapter maps it in one place and chains it with
``raise … from``. Every message names both values (what was found, what was expected) and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "AddressError",
    "BackendError",
    "BackendUnavailable",
    "CollectionError",
    "CollectionMismatchError",
    "CollectionNotFound",
    "ConflictError",
    "CorruptionError",
    "DimensionError",
    "DuplicateIdError",
    "EncoderError",
    "EncoderRequired",
    "EncoderUnavailable",
    "FilterError",
    "InvalidInput",
    "LockTimeout",
    "MRLError",
    "ManifestError",
    "MemoryBudgetError",
    "MissingExtra",
    "ModelMismatchError",
    "NewerFormatError",
    "NonFiniteError",
    "NotACollection",
    "NotSupported",
    "NothingLearned",
    "PluginError",
    "RerankerError",
    "TextTooLongError",
    "TooFewQueries",
    "TruncationError",
    "UnknownNameError",
]


class MRLError(Exception):
    """Base of every error raised by this library.

    ``indexed_ids`` names the ids that a failed write call had already committed (whole batches, in the order
    given); it is empty for every error that is not about a write.
    """

    indexed_ids: tuple[str, ...] = ()


class InvalidInput(MRLError, ValueError):
    """An argument cannot be used; nothing was written."""


class DimensionError(InvalidInput):
    """A vector or a dim has the wrong length."""


class NonFiniteError(InvalidInput):
    """A vector holds NaN or an infinity."""


class DuplicateIdError(InvalidInput):
    """The caller gave the same id twice in one call."""


class MemoryBudgetError(InvalidInput):
    """No index that was asked for fits the memory budget."""


class FilterError(InvalidInput):
    """A filter has an unknown operator, a wrong operand, or orders values of different types."""


class TextTooLongError(InvalidInput):
    """A text is longer than the encoder's context; ``on_long="error"`` was asked for, or its server refuses it."""


class TooFewQueries(InvalidInput):
    """So few queries cannot prove a recall, whatever they find; ``needed`` is how many may."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


class TruncationError(InvalidInput):
    """Embeddings would be cut to a length that their model was not trained for."""


class AddressError(InvalidInput):
    """A backend address cannot be read."""


class UnknownNameError(MRLError, LookupError):
    """No backend or encoder is registered under this name."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        listed = ", ".join(sorted(known)) or "none"
        super().__init__(f"unknown {kind} {name!r}; known {kind}s: {listed}{'. ' + hint if hint else ''}")
        self.name = name


class MissingExtra(MRLError, ImportError):
    """An optional dependency is not installed.

    >>> print(MissingExtra("the faiss backend", "faiss"))
    the faiss backend needs a package that is not installed: pip install 'mrl-retrieval[faiss]'
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs a package that is not installed: pip install 'mrl-retrieval[{extra}]'")
        self.extra = extra


class PluginError(MRLError, ImportError):
    """A backend or encoder is registered by an entry point, but cannot be loaded."""


class EncoderError(MRLError):
    """The encoder failed, or its answer has the wrong shape or is not finite."""


class EncoderRequired(EncoderError):
    """A text has to be encoded, but this retriever has no encoder."""


class EncoderUnavailable(EncoderError):
    """The encoder's server cannot be reached, is busy, or did not answer in time; the same call may succeed later."""


class RerankerError(MRLError):
    """The reranker failed, or did not answer with one finite score for each document."""


class CollectionError(MRLError):
    """A collection cannot be used as asked."""


class CollectionNotFound(CollectionError):
    """There is no collection at this address."""


class NotACollection(CollectionError):
    """Something is at this address, but this library did not make it."""


class ManifestError(CollectionError):
    """The manifest cannot be read: damaged, incomplete, or changed by hand."""


class NewerFormatError(ManifestError):
    """The collection was written by a newer version of this library."""


class CollectionMismatchError(CollectionError):
    """The collection was made with other dims or settings than those given."""


class ModelMismatchError(CollectionMismatchError):
    """The collection was made with another encoder."""


class NothingLearned(CollectionError):
    """A recall was asked for, but how deep to search for it was never learned."""


class ConflictError(CollectionError):
    """The manifest was changed by somebody else between reading and writing it."""


class CorruptionError(CollectionError):
    """Stored data does not match its checksum."""


class BackendError(MRLError):
    """The database or index failed; the message carries its own words."""


class BackendUnavailable(BackendError):
    """The database cannot be reached or did not answer in time."""


class NotSupported(BackendError):
    """This backend does not do what was asked; its ``capabilities`` say so beforehand."""


class LockTimeout(BackendError, TimeoutError):
    """Another writer held the lock of this collection for longer than ``lock_timeout``."""
