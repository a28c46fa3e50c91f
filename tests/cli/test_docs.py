"""docs/cli.md names every command and every option there is."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from mrl_retrieval.cli import build_parser

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def commands() -> dict[str, argparse.ArgumentParser]:
    (choice,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(choice.choices)


def sections() -> dict[str, str]:
    parts = re.split(r"^## `mrl ([\w-]+)`.*$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_has_its_section():
    assert set(sections()) == set(commands())


def test_every_option_is_named_where_it_belongs():
    for name, parser in commands().items():
        for action in parser._actions:
            for option in action.option_strings:
                if option not in ("-h", "--help"):
                    assert f"`{option}" in sections()[name], f"{name} {option} is missing"
    assert "--version" in PAGE


def test_no_option_is_named_that_does_not_exist():
    known = {o for parser in [build_parser(), *commands().values()] for a in parser._actions for o in a.option_strings}
    text = re.sub(r"`(git [^`]*|--hard)`", "", PAGE)  # the sample documents are about git
    assert set(re.findall(r"--[a-z][a-z-]*", text)) <= known
