"""Where a collection keeps its rotation: the matrix in an attachment, its fingerprint in the manifest.

A matrix that is too large for one attachment, from 2,896 dims on, is in several: ``rotation``, ``rotation-2``, … The
first is written last, so that where it is there, all are.
"""

from __future__ import annotations

from typing import Any

from .attachments import MOST_BYTES
from .backend import Backend
from .encoder import Encoder
from .errors import CollectionMismatchError, CorruptionError, DimensionError, NotSupported
from .manifest import Manifest
from .rotation import Rotation

__all__ = ["ATTACHMENT", "check_fits", "check_possible", "hold_to", "is_for", "load", "save", "told"]

ATTACHMENT = "rotation"
"""Name of the attachment that holds the matrix."""


def told(rotation: Rotation) -> dict[str, Any]:
    """What the manifest says of a rotation."""
    return {"fingerprint": rotation.fingerprint, "fitted_on": rotation.fitted_on}


def save(backend: Backend, rotation: Rotation) -> None:
    """Keep the matrix with the collection."""
    content = rotation.to_bytes()
    for start in range(0, len(content), MOST_BYTES)[::-1]:
        backend.write_attachment(_part(start // MOST_BYTES + 1), content[start : start + MOST_BYTES])


def load(backend: Backend, manifest: Manifest) -> Rotation:
    """The rotation that the manifest tells of.

    Raises:
        CorruptionError: it is missing or damaged, or another one.
    """
    content = backend.read_attachment(ATTACHMENT)
    if content is None:
        raise _unusable(backend, manifest, "is missing: whoever made the collection was interrupted")
    parts = [content]
    while len(parts[-1]) == MOST_BYTES and (another := backend.read_attachment(_part(len(parts) + 1))) is not None:
        parts.append(another)
    try:
        rotation = Rotation.from_bytes(b"".join(parts))
    except CorruptionError as error:
        raise _unusable(backend, manifest, f"is damaged ({error})") from error
    if rotation.fingerprint != _fingerprint(manifest):
        raise _unusable(backend, manifest, f"is that of {rotation.fingerprint}, not the expected one")
    return rotation


def _unusable(backend: Backend, manifest: Manifest, what: str) -> CorruptionError:
    return CorruptionError(
        f"{backend.address} has the rotation {_fingerprint(manifest)}, but its matrix {what}. Open it with the same "
        "rotation= again, restore it from a backup, or drop it"
    )


def check_fits(rotation: Rotation, backend: Backend, dim: int, fine_dims: int) -> None:
    """Whether a collection of these dims can be made with a rotation.

    Raises:
        DimensionError: it is for vectors of another length, or they are not stored whole.
        NotSupported: the backend keeps no attachments.
    """
    if rotation.dim != dim:
        raise DimensionError(f"the rotation is for vectors of {rotation.dim} components, these have {dim}")
    check_possible(backend, dim, fine_dims)


def check_possible(backend: Backend, dim: int, fine_dims: int) -> None:
    """Whether a collection of these dims can have a rotation at all; errors as of :func:`check_fits`."""
    if fine_dims != dim:
        raise DimensionError(
            f"fine_dims={fine_dims} of {dim}: a collection with a rotation stores vectors whole, since a part of one "
            "cannot be turned back; leave fine_dims out"
        )
    if not backend.capabilities.attachments:
        raise NotSupported(f"the backend at {backend.address} cannot keep a rotation with its collections")


def is_for(encoder: Encoder | None) -> bool:
    """Whether prefixes of the encoder's model may need a rotation: it was not trained for them, as far as is known."""
    from .encoders.models import detect  # here: most processes need no table of models

    return encoder is None or detect(encoder).status in ("none", "unknown")


def hold_to(rotation: Rotation, backend: Backend, manifest: Manifest) -> None:
    """Compare a rotation that was given with that of a collection that exists. A matrix that is missing or damaged is
    written again, which finishes an interrupted making.

    Raises:
        CollectionMismatchError: it has another one, or none.
    """
    if manifest.rotation is None or rotation.fingerprint != _fingerprint(manifest):
        there = "none" if manifest.rotation is None else _fingerprint(manifest)
        raise CollectionMismatchError(
            f"{backend.address} was made with the rotation {there}, this one is {rotation.fingerprint}: leave "
            "rotation= out, or store it anew with rotate()"
        )
    try:
        load(backend, manifest)
    except CorruptionError:
        save(backend, rotation)


def _part(number: int) -> str:
    return ATTACHMENT if number == 1 else f"{ATTACHMENT}-{number}"


def _fingerprint(manifest: Manifest) -> str:
    return str((manifest.rotation or {}).get("fingerprint"))
