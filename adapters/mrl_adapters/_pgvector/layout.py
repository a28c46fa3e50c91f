"""What a collection was made with, and the SQL expressions that follow from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from psycopg import sql

from mrl_retrieval.errors import ManifestError
from mrl_retrieval.manifest import Manifest

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
    stored_prefix: bool = False
    """The prefix has a column of its own. Not in collections made before there was one, which do not say."""

    @classmethod
    def given(cls, options: Mapping[str, Any], manifest: Manifest) -> Settings:
        """Of a new collection: the defaults, but for what was given."""
        return cls(stored_prefix=manifest.coarse_dims < manifest.fine_dims, **options)

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

    schema: str
    name: str
    coarse_dims: int
    fine_dims: int
    settings: Settings

    @property
    def table(self) -> sql.Identifier:
        """The table, as statements name it."""
        return sql.Identifier(self.schema, self.name)

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

    def prefix(self, dims: int, row: str) -> sql.Composable:
        """The renormalised prefix, in float32, of the full vector of a row that goes by this name."""
        return self._cut(dims, sql.Identifier(row, "fine"))

    def coarse(self, row: str) -> sql.Composable:
        """The prefix of ``coarse_dims``, of a row of the table."""
        return sql.Identifier(row, "coarse") if self.settings.stored_prefix else self.prefix(self.coarse_dims, row)

    def graph_key(self, row: str) -> sql.Composable:
        """What the graph is over: a query must say the very same for the graph to be used."""
        dims, kind, stored = self.coarse_dims, self.settings.coarse_quantization, self.settings.stored_prefix
        if kind == "none":
            return self.coarse(row) if stored else sql.SQL("({}::vector({}))").format(self.coarse(row), dims)
        if kind == "halfvec":
            return sql.SQL("({}::halfvec({}))").format(self.coarse(row), dims)
        short = self.coarse(row)
        if not stored:
            short = sql.SQL("subvector({}, 1, {})").format(self._full(sql.Identifier(row, "fine")), dims)
        return sql.SQL("(binary_quantize({})::bit({}))").format(short, dims)

    @property
    def columns(self) -> sql.Composable:
        """The columns of vectors, for the making of the table."""
        fine = sql.SQL("fine {}({})").format(self.fine_type, self.fine_dims)
        if not self.settings.stored_prefix:
            return fine
        return sql.SQL("{fine}, coarse vector({dims}) GENERATED ALWAYS AS ({cut}::vector({dims})) STORED").format(
            fine=fine, dims=self.coarse_dims, cut=self._cut(self.coarse_dims, sql.Identifier("fine"))
        )

    def _cut(self, dims: int, column: sql.Identifier) -> sql.Composable:
        full = self._full(column)
        if dims == self.fine_dims:
            # A float32 vector is stored with unit length; rounded to float16 it has it no longer.
            return sql.SQL("l2_normalize({})").format(full) if self.half else full
        return sql.SQL("l2_normalize(subvector({}, 1, {}))").format(full, dims)

    def _full(self, column: sql.Identifier) -> sql.Composable:
        return sql.SQL("{}::vector").format(column) if self.half else column
