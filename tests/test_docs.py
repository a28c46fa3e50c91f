"""The docs say what is so: README code runs, links lead somewhere, every extra and backend is named."""

import re
import tomllib
from pathlib import Path

import pytest

from mrl_retrieval import backend_names, encoder_names
from mrl_retrieval.filters import LOGICAL, OPERATORS
from tests import capability_table

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def test_the_readmes_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "git revert makes a new commit" in out and out.splitlines()[-1].startswith("2 ")


@pytest.mark.parametrize(
    "name",
    [
        "encoders",
        "evaluation",
        "explain",
        "faiss",
        "filters",
        "models",
        "monitoring",
        "moving",
        "planning",
        "reranking",
        "resolutions",
        "rotation",
    ],
)
def test_a_pages_blocks_run_one_by_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(<!-- downloads a model -->\n)?```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    shared: dict[str, object] = {}
    for downloads, block in blocks:
        code = compile(block, f"{name}.md", "exec")
        if not downloads:
            # A block that tests what the one before it defines may lean on it; every other stands alone.
            exec(code, shared if "class Test" in block else (shared := {}))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_name_is_in_the_docs() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name in {*extras, *backend_names(), *encoder_names()}:
        assert f"`{name}`" in text or f"{name}:" in text, f"{name} is in no page"
    filters = (ROOT / "docs" / "filters.md").read_text(encoding="utf-8")
    assert all(f"{op}" in filters for op in OPERATORS | LOGICAL)


def test_the_table_of_backends_is_what_they_declare() -> None:
    found = capability_table.in_page(capability_table.PAGE.read_text(encoding="utf-8"))
    assert found == capability_table.table(), "run `python -m tests.capability_table`"
