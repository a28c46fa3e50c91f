"""What can become of the cache file: each entry of ``DAMAGE`` changes a collection's folder."""

import json
import zlib

import faiss

from tests.backends.faiss.helpers import COARSE, vectors_of


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def edit(**changes):
    def change(place):
        path = place / "coarse.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def shorter_index(place):
    """A sound index file of fewer vectors, under a sidecar that claims more."""
    index = faiss.IndexFlatIP(COARSE)
    index.add(vectors_of(10, dim=COARSE))
    raw = faiss.serialize_index(index).tobytes()
    (place / "coarse.faiss").write_bytes(raw)
    edit(bytes=len(raw), crc32=zlib.crc32(raw))(place)


def nonsense_index(place):
    raw = b"IxXX" + b"\xff" * 60
    (place / "coarse.faiss").write_bytes(raw)
    edit(bytes=len(raw), crc32=zlib.crc32(raw))(place)


DAMAGE = {
    "a flipped bit": lambda place: flip(place / "coarse.faiss"),
    "cut short": lambda place: (place / "coarse.faiss").write_bytes((place / "coarse.faiss").read_bytes()[:-7]),
    "empty": lambda place: (place / "coarse.faiss").write_bytes(b""),
    "missing": lambda place: (place / "coarse.faiss").unlink(),
    "no sidecar": lambda place: (place / "coarse.json").unlink(),
    "a sidecar that is no JSON": lambda place: (place / "coarse.json").write_text("{"),
    "a sidecar that is a list": lambda place: (place / "coarse.json").write_text("[]"),
    "another collection's": edit(collection_id="other"),
    "other dims": edit(coarse_dims=7),
    "more rows than there are": edit(rows=10_000),
    "fewer rows": edit(rows=200),
    "another history": edit(lineage="00"),
    "a newer form": edit(version=4),
    "another index": shorter_index,
    "no index at all": nonsense_index,
}
