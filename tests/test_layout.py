"""What the tree promises: the core is light and knows no adapter, names are sorted, adapters/ is no package."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import mrl_retrieval
from mrl_retrieval import backend_names, encoder_names, errors

ROOT = Path(__file__).parent.parent


def test_importing_needs_numpy_alone() -> None:
    code = (
        "import json, sys; before = set(sys.modules); import mrl_retrieval; mrl_retrieval.backend_names(); "
        "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    foreign = set(json.loads(out)) - set(sys.stdlib_module_names) - {"numpy", "mrl_retrieval"}
    assert not {name for name in foreign if not name.startswith("_")}, foreign


def test_the_core_imports_nothing_else_at_the_top() -> None:
    for path in (ROOT / "mrl_retrieval").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            tops = {name.partition(".")[0] for name in names}
            assert tops <= set(sys.stdlib_module_names) | {"numpy"}, f"{path.name} imports {tops}"


def test_adapters_is_a_source_root() -> None:
    """The import name ``adapters`` belongs to another package."""
    assert not (ROOT / "adapters" / "__init__.py").exists()


def test_public_names_are_sorted_and_there() -> None:
    for module in (mrl_retrieval, errors):
        assert list(module.__all__) == sorted(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)
    tree = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.MRLError)
    }
    assert tree == set(errors.__all__)
    drawn = errors.__doc__ or ""
    assert all(name in drawn for name in tree), "the tree at the top of errors.py is not whole"


def test_ours_are_registered() -> None:
    assert {"memory", "faiss", "chroma", "qdrant"} <= set(backend_names())
    assert {"hashing", "wordllama", "sentence-transformers"} <= set(encoder_names())


def test_wheel_and_constraints_name_no_place() -> None:
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in text, f"{name} names a host"
