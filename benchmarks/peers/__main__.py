"""``python -m benchmarks.peers``: every library on every data set, and the report of what was measured.

Results are kept in ``.cache/peers``; what is there is not measured again. The report is ``docs/benchmarks-peers.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.peers.libraries import PEERS
from benchmarks.peers.measuring import PHASES
from benchmarks.peers.runner import Plan, run
from benchmarks.peers.sets import SETS, is_made, open_set

DOCS = Path(__file__).parents[2] / "docs"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for and not there, then write the report."""
    options = _parser().parse_args(arguments)
    if options.make:
        for name in options.make:
            print(open_set(name).shape)
        return
    named = [_cut(text, options.rows) for text in options.sets]
    sets = [open_set(name, rows) for name, rows in named if is_made(name) or not options.report_only]
    if not options.report_only:
        plan = Plan(
            only=options.only,
            phases=PHASES[:1] if options.build_only else PHASES,
            k=options.k,
            seconds=options.seconds,
            again=options.again,
            rebuild=options.rebuild,
            discard=options.discard,
            builds=options.builds,
            settings=options.settings,
            one_process=options.one_process,
        )
        for data in sets:
            run(data, plan, say=lambda line: print(line, flush=True))
    if not options.build_only:
        from benchmarks.peers.report import write_report

        print(f"written: {write_report(sets, options.k, options.report, options.plots)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    add = parser.add_argument
    known = f"of {', '.join(SETS)}, or a cut as M:200000; default: M,W,minilm"
    add("--sets", type=_names(SETS), default=["M", "W", "minilm"], help=known)
    add("--rows", type=int, help="take the first rows of each set only")
    add("--only", type=_names(PEERS), default=list(PEERS), help=f"peers, of {', '.join(PEERS)}")
    add("--k", type=int, default=10, help="neighbours asked for (10)")
    add("--seconds", type=float, default=10.0, help="limit for the queries at one setting (10)")
    add("--build-only", action="store_true", help="make the indexes, measure no queries")
    add("--report-only", action="store_true", help="write the report of what is there")
    add("--again", action="store_true", help="measure queries again; indexes stay")
    add("--rebuild", action="store_true", help="make the indexes again too")
    add("--discard", action="store_true", help="delete each index once it is measured")
    add("--builds", type=int, help="only the first so many builds of each peer")
    add("--settings", type=int, help="no more settings than that of each build, evenly picked")
    add("--one-process", action="store_true", help="all phases in one process: quick, and memory means nothing")
    add("--make", type=_names(SETS), help="make data sets, and nothing else")
    add("--report", type=Path, default=DOCS / "benchmarks-peers.md", help="the page to write")
    add("--plots", type=Path, default=DOCS / "plots", help="the folder of its plots")
    return parser


def _cut(text: str, rows: int | None) -> tuple[str, int | None]:
    """The name of a set, and how many of its rows: ``M``, or ``M:200000``."""
    name, _, cut = text.partition(":")
    if name not in SETS or not (cut == "" or cut.isdecimal()):
        raise SystemExit(f"--sets: {text!r} is none of {', '.join(SETS)}, nor one with a number of rows, as M:200000")
    return name, int(cut) if cut else rows


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in names if name not in known and ":" not in name]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    main()
