import pytest

from mrl_retrieval.address import Address, check_collection_name
from mrl_retrieval.errors import AddressError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory:", Address("memory")),
        ("faiss:./kb", Address("faiss", "./kb")),
        ("faiss:/a b/ü?collection=notes-2", Address("faiss", "/a b/ü", collection="notes-2")),
        ("faiss:C:\\kb", Address("faiss", "C:\\kb")),
        ("qdrant::memory:", Address("qdrant", ":memory:")),
        ("chroma+http://localhost:8000", Address("chroma", url="http://localhost:8000")),
        (
            "qdrant+https://h.example/base/?collection=x",
            Address("qdrant", url="https://h.example/base", collection="x"),
        ),
        ("qdrant+http://[::1]:6333", Address("qdrant", url="http://[::1]:6333")),
        ("my-db:x", Address("my-db", "x")),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert Address.parse(text) == expected
    assert Address.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no scheme"), ("./kb", "no scheme"), ("Faiss:x", "small letters, 'faiss:'"), ("http://host:80", r"http\+http"),
        ("qdrant://host", r"qdrant\+http"), ("qdrant+ftp://h", "'ftp' is unknown"), ("qdrant+http:", "no host"),
        ("qdrant+http://h:port", "no URL"), ("faiss:x?colection=y", "unknown option 'colection'"),
        ("faiss:x?collection=", "collection name ''"), ("faiss:x?collection=../up", "collection name"),
        ("faiss:x?collection=a..b", "collection name"), ("faiss:x?", "unknown option"), (5, "a string"),
        ("faiss:x?collection=a&collection=b", "two collections, 'a' and 'b'"), ("faiss:file:///x", "URL of a file"),
    ],
)  # fmt: skip
def test_what_is_no_address(text: str, words: str) -> None:
    with pytest.raises(AddressError, match=words):
        Address.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "qdrant+http://user:hunter2@host:6333",
        "pgvector+postgresql://u:hun/hunter2@h/x",
        "qdrant+http://u:a?hunter2@h",
        "qdrant+ftp://user:hunter2@host",
        "qdrant+http://h?api_key=hunter2",
    ],
)
def test_secrets_are_refused_and_masked(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        Address.parse(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a/b", "-a", "a-", "ä", "a" * 64, ".", "a b", "a\n"])
def test_collection_names_are_safe_everywhere(name: str) -> None:
    with pytest.raises(AddressError):
        check_collection_name(name)


def test_in_memory() -> None:
    assert Address.parse("chroma:").in_memory and Address.parse("chroma::memory:").in_memory
    assert not Address.parse("chroma:x").in_memory and not Address.parse("chroma+http://h").in_memory
