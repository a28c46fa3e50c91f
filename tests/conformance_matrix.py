"""The suite on every backend, as a table: ``python -m tests.conformance_matrix`` runs it and writes docs/conformance.md.

A cell says how a test ended on a backend: ✓ passed, – skipped because the backend declares that it cannot, ✗ failed;
with a number where the test has several cases. With a file (``--junitxml``) of a run of the whole suite as its
argument, it is made of that.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "conformance.md"

HEAD = """# The suite on every backend

`mrl_retrieval.testing.BackendConformance`, run by `python -m tests.conformance_matrix` against the real databases. ✓ passed,
– skipped because the backend declares that it cannot do this, ✗ failed; empty: this way of running it has a part of the
suite only. A number says how many cases a test has. Servers that were not at hand are not in it: `MRL_QDRANT_URL=… make
test-full` runs the suite on yours.

Columns are the ways a backend is run: {columns}.

"""


def run() -> ET.Element:
    """Run the suite, slow variants too; the report in JUnit's form."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = ["-m", "pytest", "tests/conformance", "-q", "-n", "2", "--dist", "loadscope", f"--junitxml={report}"]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
        return ET.parse(report).getroot()


def table(report: ET.Element) -> str:
    """Tests down, ways of running a backend across."""
    cells: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    columns: list[str] = []
    for case in report.iter("testcase"):
        module, _, name = case.get("classname", "").rpartition(".")
        if not module.startswith("tests.conformance."):
            continue
        column = name.removeprefix("Test")
        outcome = {child.tag for child in case}
        if any("names no" in child.get("message", "") for child in case.iter("skipped")):
            continue  # no such server here
        if column not in columns:
            columns.append(column)
        mark = "✗" if outcome & {"failure", "error"} else "–" if "skipped" in outcome else "✓"
        cells[case.get("name", "").partition("[")[0]][column].append(mark)
    columns.sort()
    lines = [f"| test | {' | '.join(columns)} |", "|---" + "|:-:" * len(columns) + "|"]
    for test in sorted(cells):
        lines.append(
            f"| {test.removeprefix('test_').replace('_', ' ')} | {' | '.join(_cell(cells[test][c]) for c in columns)} |"
        )
    return HEAD.format(columns=", ".join(f"`{c}`" for c in columns)) + "\n".join(lines) + "\n"


def _cell(marks: list[str]) -> str:
    if not marks:
        return ""
    worst = next(mark for mark in "✗–✓" if mark in marks)
    return worst if len(marks) == 1 else f"{worst} {len(marks)}"


if __name__ == "__main__":
    PAGE.write_text(table(ET.parse(sys.argv[1]).getroot() if sys.argv[1:] else run()), encoding="utf-8")
