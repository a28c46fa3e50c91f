"""``mrl info``: what a collection is and holds. Needs neither its encoder nor its encoder's package."""

from __future__ import annotations

import argparse
from typing import Any

from mrl_retrieval.backend import Backend, BackendStats
from mrl_retrieval.errors import CollectionNotFound
from mrl_retrieval.generations import open_current
from mrl_retrieval.manifest import Manifest

from .arguments import add_options
from .output import Output, on_one_line, plural, readable_bytes
from .planned import plan_lines
from .rotation import measured_line

__all__ = ["add_parsers"]


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "info",
        help="show what a collection holds",
        description="Show rows, dims, encoder, and bytes per stage of a collection. The encoder's package is not "
        "needed.",
        allow_abbrev=False,
    )
    parser.add_argument("address", metavar="URI", help="address of the collection")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Read and print."""
    with open_current(arguments.address, **dict(arguments.option)) as backend:
        manifest = backend.read_manifest()
        if manifest is None:
            known = ", ".join(backend.collections()) or "none"
            raise CollectionNotFound(f"there is no collection at {backend.address} (collections there: {known})")
        value = describe(backend, manifest, backend.stats())
    if arguments.json:
        output.json(value)
    else:
        _print(output, value)
    return 0


def describe(backend: Backend, manifest: Manifest, stats: BackendStats) -> dict[str, Any]:
    """Everything there is to say, as JSON."""
    able = backend.capabilities
    return {
        "address": str(backend.address),
        "rows": stats.rows,
        "vectors": stats.vectors,
        "dims": {
            "full": manifest.dim,
            "coarse": manifest.coarse_dims,
            "fine": manifest.fine_dims,
            "funnel": list(manifest.funnel_dims),
        },
        "metric": manifest.metric,
        "rotation": manifest.rotation,
        "rotation_measured": manifest.rotation_measured,
        "plan": manifest.plan,
        "fine_dtype": able.vector_dtype,
        "encoder": None if manifest.encoder is None else manifest.encoder.to_json(),
        "bytes": dict(stats.bytes),
        "bytes_per_row": {
            part: None if count is None or not stats.rows else count / stats.rows for part, count in stats.bytes.items()
        },
        "created_with": manifest.created_with,
        "collection_id": manifest.collection_id,
        "origin": manifest.origin,
        "backend": {
            "name": backend.address.scheme,
            "persistent": able.persistent,
            "transactions": able.transactions,
            "server_side_rerank": able.server_side_rerank,
            "exact_search": able.exact_search,
            "approximate_coarse": able.approximate_coarse,
            "filter_operators": sorted(able.filter_operators),
            "details": {key: _plain(item) for key, item in stats.details.items()},
        },
    }


def _print(output: Output, value: dict[str, Any]) -> None:
    def field(name: str, text: str) -> None:
        output.line(f"  {name:<14}{on_one_line(text)}")

    dims, encoder = value["dims"], value["encoder"]
    output.line(output.bold(value["address"]))
    without = value["rows"] - value["vectors"]
    field("rows", f"{value['rows']:,} ({value['vectors']:,} with a vector, {without:,} without)")
    funnel = "".join(f"{d}, " for d in dims["funnel"])
    field(
        "dims", f"coarse {dims['coarse']}, {funnel}fine {dims['fine']} ({value['fine_dtype']}), encoder {dims['full']}"
    )
    rotation, measured = value["rotation"], value["rotation_measured"]
    if rotation:
        field("rotation", f"{rotation['fingerprint']}, fitted on {rotation['fitted_on']:,} vectors")
    if measured:
        field("" if rotation else "rotation", ("" if rotation else "none: ") + measured_line(measured))
    for number, line in enumerate(plan_lines(value["plan"], value["rows"])):
        field("" if number else "plan", line)
    if encoder is None:
        field("encoder", "none: vectors were given")
    else:
        said = [f"{key} {encoder[key]}" for key in ("model", "revision", "pooling", "normalization") if encoder[key]]
        field("encoder", ", ".join([encoder["name"] or "an object without a registered name", *said]))
        for role, prompt in encoder["prompts"].items():
            field("", f"prompt for {role}: {prompt!r}")
    field("created with", f"mrl-retrieval {value['created_with'] or '(unknown version)'}")
    field("id", value["collection_id"])
    if origin := value["origin"]:
        unfinished = "" if origin.get("complete", True) else " (not finished)"
        field("made from", f"{origin.get('source', 'unknown')}{unfinished}")
    backend = value["backend"]
    flags = [key.replace("_", " ") for key, flag in backend.items() if flag is True]
    field("backend", ", ".join([backend["name"], *flags]))
    for key, item in backend["details"].items():
        field("", f"{key}: {item}")
    output.line()
    rows = [["bytes", "total", "per row"]]
    for part, count in value["bytes"].items():
        each = value["bytes_per_row"][part]
        rows.append([part, readable_bytes(count), "" if each is None else f"{each:,.0f} B"])
    output.table(rows)
    if not value["rows"]:
        output.line(f"  {plural(0, 'row')}: nothing was indexed yet, or everything was deleted")


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, list, dict)) or value is None else str(value)
