"""``python -m benchmarks [PART …]``: prints Markdown tables; docs/ keeps a run of each."""

from __future__ import annotations

import argparse

from benchmarks import canaries, encoding, monitoring, planning, quality, speed, truncation
from benchmarks.datasets import require_data
from benchmarks.report import machine

PARTS = {
    "quality": quality,
    "truncation": truncation,
    "planning": planning,
    "speed": speed,
    "canaries": canaries,
    "encoding": encoding,
    "monitoring": monitoring,
}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], metavar="part", help=f"of {', '.join(PARTS)}; default: all"
    )
    chosen = parser.parse_args().parts or list(PARTS)
    require_data()
    print(f"{machine()}\n")
    for name in chosen:
        module = PARTS[name]
        print(f"## {name}\n\n{module.__doc__}\n", flush=True)
        print(f"\n{module.run()}\n", flush=True)


if __name__ == "__main__":
    main()
