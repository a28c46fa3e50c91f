"""Where the ``qdrant-edge`` backend keeps its files, and whose folder it is.

::

    folder/mrl-qdrant-edge.json        the marker: this folder is ours
    folder/NAME/collection.json        the manifest; written last when a collection is made
    folder/NAME/attachments/           a file each, sealed
    folder/NAME/lock                   held by the process that has the shard open
    folder/NAME/shard/                 Qdrant's own files
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from mrl_retrieval.address import check_collection_name
from mrl_retrieval.attachments import checked_name, unseal
from mrl_retrieval.errors import AddressError, ManifestError, NewerFormatError, NotACollection
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.storage.access import not_allowed
from mrl_retrieval.storage.files import os_errors, sweep_temporaries, sync_folder, write_atomically

__all__ = ["EdgeFiles", "collection_names", "is_ours"]

FORMAT = "mrl-qdrant-edge"
FORMAT_VERSION = 1
MARKER = f"{FORMAT}.json"
_COLLECTION = "collection.json"
_TEMPORARY = ".tmp-"
_DROPPED = ".dropped-"


@dataclass(frozen=True, slots=True)
class EdgeFiles:
    """The paths of one collection."""

    place: Path
    """Absolute, with links resolved."""
    name: str

    @property
    def folder(self) -> Path:
        """Everything of the collection."""
        return self.place / self.name

    @property
    def lock(self) -> Path:
        """Held by the process that has the shard open."""
        return self.folder / "lock"

    @property
    def shard(self) -> Path:
        """Qdrant's folder."""
        return self.folder / "shard"

    @property
    def attachments(self) -> Path:
        """A file for each attachment; made with the first."""
        return self.folder / "attachments"

    def read(self) -> tuple[Manifest, str] | None:
        """The manifest and how the coarse vectors are quantised; None where there is no collection. Takes no lock.

        Raises:
            NotACollection: the folder, or what has the collection's name in it, is not ours.
            ManifestError: the file is damaged.
        """
        if not is_ours(self.place):
            return None
        path = self.folder / _COLLECTION
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            self.check_strangers()
            return None
        except NotADirectoryError as error:
            raise self._not_ours([self.name]) from error
        except OSError as error:
            raise ManifestError(f"{path} cannot be read ({error}); check its permissions") from error
        try:
            found_json = json.loads(text)
            manifest, quantization = found_json["manifest"], found_json["coarse_quantization"]
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(f"{path} is damaged ({error!r}); restore it from a backup") from error
        return Manifest.loads(manifest), str(quantization)

    def write(self, manifest: Manifest, quantization: str) -> None:
        """Put the manifest in place, whole or not at all."""
        said = {"manifest": manifest.dumps(), "coarse_quantization": quantization}
        with os_errors(f"writing {self.folder / _COLLECTION}"):
            write_atomically(self.folder / _COLLECTION, json.dumps(said, indent=1).encode() + b"\n")

    def read_attachment(self, name: str) -> bytes | None:
        """What was last written under this name; None where there is nothing. Takes no lock.

        Raises:
            CorruptionError: it is not as it was written.
        """
        path = self._attachment(name)
        with os_errors(f"reading {path}"):
            try:
                sealed = path.read_bytes()
            except FileNotFoundError:
                return None
        return unseal(name, sealed, self.folder)

    def write_attachment(self, name: str, sealed: bytes) -> None:
        """Put what :func:`~mrl_retrieval.attachments.seal` gave in place, whole or not at all. The lock is held."""
        path = self._attachment(name)
        with os_errors(f"writing {path}"):
            if not self.attachments.is_dir():
                self.attachments.mkdir(exist_ok=True)
                sync_folder(self.folder)
            write_atomically(path, sealed)

    def sweep_attachments(self) -> None:
        """Remove what killed writers left half written. The lock is held."""
        with os_errors(f"looking into {self.attachments}"):
            if self.attachments.is_dir():
                sweep_temporaries(self.attachments)

    def _attachment(self, name: str) -> Path:
        # Some file systems take "a" and "A" for the same name.
        return self.attachments / (re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", checked_name(name)) + ".bin")

    def create(self) -> None:
        """Make the folders and the marker, durably; nothing happens where they exist."""
        with os_errors(f"creating {self.folder}"):
            for folder in (*reversed(self.place.parents), self.place):
                if not folder.is_dir():
                    folder.mkdir(exist_ok=True)
                    sync_folder(folder.parent)
            if not is_ours(self.place):
                marker = json.dumps({"format": FORMAT, "version": FORMAT_VERSION}) + "\n"
                write_atomically(self.place / MARKER, marker.encode())
            self.folder.mkdir(exist_ok=True)
            sync_folder(self.place)

    def clear(self) -> None:
        """Remove what an interrupted creation left, and make the folder of a new shard. The lock is held."""
        with os_errors(f"creating {self.shard}"):
            for folder in (self.shard, self.attachments):
                if folder.exists():
                    shutil.rmtree(folder)
            self.shard.mkdir()
            sync_folder(self.folder)

    def remove(self) -> None:
        """Take the collection's folder away in one step, then delete what was in it. The lock is held."""
        with os_errors(f"dropping {self.folder}"):
            self.folder.rename(self.place / f"{_DROPPED}{uuid.uuid4().hex}")
            sync_folder(self.place)
            for left in self.place.iterdir():
                if left.name.startswith(_DROPPED):
                    shutil.rmtree(left, ignore_errors=True)

    def check_strangers(self) -> None:
        """Raise :class:`NotACollection` where the collection's folder holds what this library did not put there."""
        ours = {_COLLECTION, self.lock.name, self.shard.name, self.attachments.name}
        with os_errors(f"looking into {self.folder}"):
            try:
                names = [entry.name for entry in self.folder.iterdir()]
            except FileNotFoundError:
                return
        if found := sorted(name for name in names if name not in ours and not name.startswith(_TEMPORARY)):
            raise self._not_ours(found)

    def _not_ours(self, found: list[str]) -> NotACollection:
        return NotACollection(
            f"{self.folder} holds {', '.join(found[:3])}, expected nothing but a collection's own files: move these "
            "elsewhere, or choose another ?collection="
        )


def is_ours(place: Path) -> bool:
    """Whether this folder is one of ours; False where there is nothing yet.

    Raises:
        NotACollection: something else is there.
        NewerFormatError: a newer version of this library made it.
        BackendError: this process may not look.
    """
    marker = place / MARKER
    try:
        text = marker.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if _is_free(place):
            return False
        return is_ours(place)
    except PermissionError as error:
        raise not_allowed(f"reading {marker}", marker) from error
    except OSError as error:
        raise NotACollection(f"{marker} cannot be read ({error}); check its permissions") from error
    try:
        found = json.loads(text)
        version = found["version"] if found["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError):
        version = None
    if type(version) is not int:
        raise NotACollection(
            f"{marker} holds {text[:60]!r}, expected format {FORMAT!r} and a version number: choose another folder"
        )
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{place} has format version {version}, this library reads up to {FORMAT_VERSION}: upgrade mrl-retrieval"
        )
    return True


def _is_free(place: Path) -> bool:
    """Whether nothing is there. False: somebody made it ours since the marker was looked for."""
    try:
        names = [entry.name for entry in place.iterdir() if not entry.name.startswith(_TEMPORARY)]
    except FileNotFoundError:
        return True
    except PermissionError as error:
        raise not_allowed(f"looking into {place}", place) from error
    except OSError as error:
        raise NotACollection(f"{place} is no folder that can be read ({error}): name another one") from error
    if names and not (place / MARKER).exists():
        raise NotACollection(
            f"{place} holds {sorted(names)[0]!r} and {len(names) - 1} more, but no {MARKER}, so this library did not "
            "make it: give the path of a folder that is new, empty, or made by this backend"
        )
    return not names


def collection_names(place: Path) -> list[str]:
    """Names of the collections in a folder, sorted; ``[]`` where there is none yet."""
    if not is_ours(place):
        return []
    with os_errors(f"listing {place}"):
        return sorted(entry.name for entry in place.iterdir() if _is_collection(entry))


def _is_collection(folder: Path) -> bool:
    try:
        check_collection_name(folder.name)
        return (folder / _COLLECTION).is_file()
    except (AddressError, PermissionError):
        return False  # left by an interrupted drop, whose name no collection can have; or somebody else's
