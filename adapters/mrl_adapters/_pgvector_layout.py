"""What a collection was made with, and the SQL expressions that follow from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from psycopg import sql

from mrl_retrieval.errors import ManifestError

__all__ = ["Layout", "Settings", "Types"]

_OPERATOR_CLASS = {"none": "vector_ip_ops", "halfvec": "halfvec_ip_ops", "binary": "bit_hamming_ops"}


@dataclass(frozen=True)
class Types:
    """Where the extension put its types: its schema, and PostgreSQL's numbers of the two."""

    schema: str
    vector: int
    halfvec: int

    @property
    def search_path(self) -> dict[str, str]:
        """Settings with which the names of the extension are found, and no others."""
        quoted = self.schema.replace('"', '""')
        return {"search_path": f'pg_catalog, "{quoted}", pg_temp'}


@dataclass(frozen=True)
class Settings:
    """What is settled when a collection is made."""

    m: int = 16
    ef_construction: int = 128
    coarse_quantization: str = "none"
    fine_dtype: str = "float32"

    @classmethod
    def given(cls, options: Mapping[str, Any]) -> Settings:
        """The defaults, but for what was given."""
        return cls(**options)

    def dumps(self) -> str:
        """The text that is stored."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Settings:
        """Read :meth:`dumps`'s form. Raises :class:`ManifestError` where it is damaged."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise ManifestError(f"the settings of the collection cannot be read ({error}): {text[:200]!r}") from error


@dataclass(frozen=True)
class Layout:
    """The table of one collection, and how its vectors lie in it."""

    table: sql.Identifier
    coarse_dims: int
    fine_dims: int
    settings: Settings

    @property
    def half(self) -> bool:
        """Whether full vectors are float16."""
        return self.settings.fine_dtype == "float16"

    @property
    def fine_type(self) -> sql.Composable:
        """The type of full vectors."""
        return sql.SQL("halfvec" if self.half else "vector")

    @property
    def operator_class(self) -> sql.Composable:
        """How the graph measures."""
        return sql.SQL(_OPERATOR_CLASS[self.settings.coarse_quantization])

    def prefix(self, dims: int, column: sql.Identifier) -> sql.Composable:
        """The renormalised prefix of a full vector, in float32."""
        full = self._full(column)
        if dims == self.fine_dims:
            # A float32 vector is stored with unit length; rounded to float16 it has it no longer.
            return sql.SQL("l2_normalize({})").format(full) if self.half else full
        return sql.SQL("l2_normalize(subvector({}, 1, {}))").format(full, dims)

    def indexed(self, column: sql.Identifier) -> sql.Composable:
        """What the graph is over: a query must say the very same for the graph to be used."""
        dims, kind = self.coarse_dims, self.settings.coarse_quantization
        if kind == "binary":
            short = sql.SQL("subvector({}, 1, {})").format(self._full(column), dims)
            return sql.SQL("(binary_quantize({})::bit({}))").format(short, dims)
        return sql.SQL("({}::{}({}))").format(
            self.prefix(dims, column), sql.SQL("halfvec" if kind == "halfvec" else "vector"), dims
        )

    def _full(self, column: sql.Identifier) -> sql.Composable:
        return sql.SQL("{}::vector").format(column) if self.half else column
