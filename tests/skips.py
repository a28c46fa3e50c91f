"""Holds a run to ``skips.txt``: a skip that is not written there fails it, and so does a line there that no test needs.

A test that no longer runs is noticed by its absence only if somebody looks for it. A line is
``condition | pattern of test ids | reason``; the condition says when the skip must happen, the pattern is a shell
pattern, and the reason a pattern too. A condition that begins with ``slow`` is of slow tests.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.power_loss import can_trace

LIST = Path(__file__).parent / "skips.txt"
SHARED = Path(__file__).parent.parent.parent / "shared"


@dataclass(frozen=True)
class Line:
    condition: str
    tests: str
    reason: str

    def covers(self, test: str, reason: str) -> bool:
        return fnmatchcase(test, self.tests) and fnmatchcase(reason, self.reason)


def holds(condition: str) -> bool:
    """Whether a line's condition is so here, whether of slow tests or not: ``always``, ``no VARIABLE``, ``no program NAME``, ``no file PATH``,
    ``no strace`` (or it may not trace), ``no gpu``, ``not root`` or ``no ../shared``."""
    condition = condition.removeprefix("slow ")
    what, _, name = condition.partition(" ")
    if condition == "always":
        return True
    if condition == "not root":
        return os.geteuid() != 0
    if condition.startswith("no file "):
        return not Path(condition.removeprefix("no file ")).exists()
    if condition == "no strace":
        return not can_trace()
    if condition == "no gpu":
        return not _has_gpu()
    if condition.startswith("no program "):
        return not shutil.which(condition.removeprefix("no program "))
    if what != "no" or not name:
        raise ValueError(
            f"skips.txt: condition {condition!r}, expected 'always', 'no VARIABLE', 'no program NAME', 'no file PATH', "
            "'no strace', 'no gpu', 'not root' or 'no ../shared'"
        )
    return not SHARED.is_dir() if name == "../shared" else not os.environ.get(name)


def _has_gpu() -> bool:
    """Whether PyTorch can use one. Loading it takes seconds, so a driver must be there for it to be asked."""
    if not any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        return False
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def read(text: str) -> list[Line]:
    """The lines of the list, without comments."""
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            parts = [part.strip() for part in line.split("|")]
            if len(parts) != 3:
                raise ValueError(f"skips.txt, line {number}: expected 'condition | tests | reason', got {line!r}")
            lines.append(Line(*parts))
    return lines


def differences(lines: Iterable[Line], skipped: Iterable[tuple[str, str]], whole: bool, slow: bool = True) -> list[str]:
    """What is wrong with the skips of a run; ``whole`` says that every test of the suite was to be run, ``slow`` that the
    slow ones were."""
    here = [line for line in lines if holds(line.condition)]
    seen = list(skipped)
    found = [
        f"{test} was skipped ({reason}), and no line of tests/skips.txt that holds here says so"
        for test, reason in seen
        if not any(line.covers(test, reason) for line in here)
    ]
    if whole:
        found += [
            f"tests/skips.txt expects '{line.tests}' to be skipped ({line.reason}), and it was not: take the line out"
            for line in here
            if (slow or not line.condition.startswith("slow "))
            and not any(line.covers(test, reason) for test, reason in seen)
        ]
    return found


class SkipCheck:
    """The plugin that collects the skips and fails the run; it works where the run is controlled, not in workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._skipped: set[tuple[str, str]] = set()
        self._differences: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
            self._skipped.add((report.nodeid, str(report.longrepr[2]).removeprefix("Skipped: ")))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        option = self._config.option
        whole = not (
            option.file_or_dir or option.keyword or option.deselect or option.ignore or getattr(option, "lf", False)
        )
        stopped = exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        self._differences = differences(
            read(LIST.read_text(encoding="utf-8")),
            sorted(self._skipped),
            whole and not stopped,
            "not slow" not in (option.markexpr or ""),
        )
        if self._differences and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._differences:
            terminalreporter.section("skips differ from tests/skips.txt", red=True)
            for line in self._differences:
                terminalreporter.write_line(line)
