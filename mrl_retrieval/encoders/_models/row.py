"""One model of the registry: what is known about its prefixes and its input, and who says so."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["FIELDS", "Claim", "Kind", "ModelRow", "Status"]

Status = Literal["native", "api", "none", "unknown"]
"""``native``: trained so that its prefixes can be used. ``api``: a hosted model whose interface offers shorter
embeddings. ``none``: what its makers published says nothing of the kind, or rules it out. ``unknown``: not known."""

Kind = Literal["vendor", "copy", "secondary", "file", "unverified"]
"""Where a claim was read: in the vendor's own text, in a word-for-word copy of that, in somebody else's text, in a file
on this machine, or nowhere yet."""

FIELDS = (
    "dim",
    "status",
    "ladder",
    "context",
    "pooling",
    "unit_length",
    "shortened_unit_length",
    "layer_norm_first",
    "prompts",
)
"""What a claim can be about: attributes of :class:`ModelRow`. ``prompts`` stands for both prompts and both tasks,
``ladder`` for ``any_dim`` as well."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a source says about a model.

    ``source`` is a URL, or a path for the kind ``file``; it is empty for the kind ``unverified``.
    """

    fields: tuple[str, ...]
    source: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class ModelRow:
    """What is known about one model. An unknown value is None, and its field is in :attr:`unverified`.

    A value that is there may be unverified too: then it is believed, and no text of its vendor was seen to say so.
    """

    name: str
    """As its vendor writes it: a name on the Hugging Face hub, or of an interface. A path for a detected folder."""
    dim: int | None
    """Length of the full embedding."""
    status: Status
    aliases: tuple[str, ...] = ()
    """Other names: of Ollama, fastembed, gateways, this library. Every name without its organisation is one as well."""
    ladder: tuple[int, ...] = ()
    """The lengths it was trained at, or, of an ``api``, those that its vendor names; ascending, the last is ``dim``.
    Empty where none is published."""
    any_dim: tuple[int, int] | None = None
    """The shortest and longest prefix that the vendor allows, for models that have no ladder."""
    context: int | None = None
    """Tokens of a text that it sees. None: no limit, or unknown where :attr:`unverified` says so."""
    pooling: str | None = None
    """``mean``, ``cls`` or ``lasttoken``; None where it is hidden behind an interface."""
    unit_length: bool | None = None
    """Whether full embeddings come out at length 1 (from sentence-transformers, or from the interface)."""
    shortened_unit_length: bool | None = None
    """Whether an interface gives embeddings that it shortened at length 1. None where there is none. What is cut here
    never has length 1."""
    layer_norm_first: bool = False
    """Before an embedding is cut, a layer norm without learned parameters is to be taken over all ``dim`` components;
    after the cut it is scaled to length 1."""
    query_prompt: str = ""
    """To be put in front of a query."""
    document_prompt: str = ""
    """To be put in front of a document."""
    query_task: str = ""
    """The argument of the interface that says that a text is a query, as ``name=value``."""
    document_task: str = ""
    """The same for a document."""
    notes: tuple[str, ...] = ()
    """What goes wrong easily."""
    claims: tuple[Claim, ...] = ()

    @property
    def unverified(self) -> frozenset[str]:
        """The fields of :data:`FIELDS` that are believed or unknown, whatever their source."""
        return frozenset(field for claim in self.claims if claim.kind == "unverified" for field in claim.fields)

    @property
    def short_name(self) -> str:
        """The name without its organisation."""
        return self.name.rpartition("/")[2]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        value = asdict(self)
        value["claims"] = [{**asdict(claim), "fields": list(claim.fields)} for claim in self.claims]
        for key in ("aliases", "ladder", "notes"):
            value[key] = list(value[key])
        value["any_dim"] = None if self.any_dim is None else list(self.any_dim)
        return value | {"unverified": sorted(self.unverified)}
