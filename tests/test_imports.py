"""Who may import whom (DESIGN, section 2), what importing the package loads, and what it exports."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import armillary

PACKAGE = Path(armillary.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LAYERS = {
    "core": {"core"},
    "lm": {"core", "lm"},
    "methods": {"core", "methods"},
    "inspect": {"core", "inspect"},
    "tasks": {"core", "tasks"},
    "studies": {"core", "inspect", "tasks", "studies"},
    "app": {"core", "lm", "methods", "inspect", "tasks", "studies", "app"},
}
CORE_LIBRARIES = {"numpy", "torch", "scipy", "safetensors", "pydantic", "fsspec", "rich", "psutil"}
HTML_RENDERING = ("core/render.py", "core/html/")
EXTRAS = {"umap", "faiss", "numba", "datasets", "wandb", "trackio", "tensorboard", "pyarrow", "zstandard"}
FORBIDDEN = {"transformer_lens", "nnsight", "sae_lens"}
HEAVY = ("torch", "transformers", "numpy", "scipy", "sklearn", "pydantic", "rich", "plotly", "fastapi", "jinja2", "starlette", "uvicorn")


def imports(tree: ast.AST, name: str = "") -> Iterator[str]:
    """Dotted modules a file imports anywhere, from within functions too; relative ones are made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: -node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" if module in ("armillary", "") else module for alias in node.names)


def top_level_imports(tree: ast.Module) -> Iterator[str]:
    """Modules that are imported as soon as the file is: not in a function, not for type checkers only."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        elif not (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_checking(node)):
            waiting.extend(ast.iter_child_nodes(node))


def _is_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def parse(path: Path) -> tuple[str, ast.Module]:
    return ".".join(["armillary", *path.relative_to(PACKAGE).with_suffix("").parts]), ast.parse(path.read_text())


def broken_rules(file: str, modules: Iterable[str]) -> list[str]:
    """What a file, named from the package's root, imports against the rules."""
    return [f"{module}: {reason}" for module in sorted(set(modules)) if (reason := _objection(file, module))]


def _objection(file: str, module: str) -> str:
    layer, library, part = file.split("/", maxsplit=1)[0], module.split(".", maxsplit=1)[0], [*module.split("."), ""][1]
    if library in FORBIDDEN:
        return "never"
    if library == "armillary":
        allowed = LAYERS.get(layer, set(LAYERS))
        return "" if part not in LAYERS or part in allowed else f"{layer} may import {sorted(allowed)}"
    if library == "plotly" and layer == "core":
        return "" if file.startswith(HTML_RENDERING) else "only where HTML is made"
    allowed = CORE_LIBRARIES | EXTRAS | set(sys.stdlib_module_names)
    return "" if layer != "core" or library in allowed else f"core may import {sorted(CORE_LIBRARIES)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_import_rules(path: Path) -> None:
    name, tree = parse(path)
    assert not broken_rules(path.relative_to(PACKAGE).as_posix(), imports(tree, name))
    optional = {module.split(".")[0] for module in top_level_imports(tree)} & EXTRAS
    assert not optional, "optional libraries are imported in the function that needs them"


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("core/x.py", "sklearn.decomposition"),
        ("core/x.py", "plotly.graph_objects"),
        ("core/x.py", "armillary.methods.pca"),
        ("methods/x.py", "armillary.lm.model"),
        ("methods/sae/x.py", "armillary.studies"),
        ("studies/quality/x.py", "armillary.methods.pca"),
        ("studies/x.py", "armillary.app.cli"),
        ("lm/x.py", "transformer_lens"),
        ("tasks/x.py", "armillary.lm.reference"),
    ],
)
def test_the_rules_can_be_broken(file: str, module: str) -> None:
    assert broken_rules(file, [module])


def test_imports_are_found_wherever_they_are() -> None:
    text = "import a.b\nif True:\n    from c import d\ndef f():\n    from armillary import methods\n    from ..core import x\n"
    assert set(imports(ast.parse(text), "armillary.lm.y")) == {"a.b", "c", "armillary.methods", "armillary.core"}
    assert set(top_level_imports(ast.parse(text))) == {"a.b", "c"}


# ---------------------------------------------------------------- what importing loads


def loaded(statement: str) -> set[str]:
    """Heavy libraries that are in memory after a statement in a new process."""
    code = f"import json, sys\n{statement}\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return set(json.loads(result.stdout))


@pytest.mark.parametrize("module", ["armillary", "armillary.errors", "armillary.methods", "armillary.studies"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    assert loaded(f"import {module}") == set()


def test_a_method_loads_no_model_library_and_no_page() -> None:
    assert loaded("import armillary; armillary.PCA; armillary.fit_many; armillary.load") & {"transformers", "plotly", "fastapi"} == set()


# ---------------------------------------------------------------- what it exports


@pytest.mark.parametrize("name", armillary.__all__)
def test_every_exported_name_is_there(name: str) -> None:
    value = getattr(armillary, name)
    assert value is getattr(armillary, name)
    assert value.__doc__, f"{name} has no docstring"


def test_type_checkers_see_the_same_names() -> None:
    """The lazy names are written twice, once for Python and once for type checkers."""
    _, tree = parse(PACKAGE / "__init__.py")
    (checking,) = [node for node in tree.body if _is_checking(node)]
    seen = {alias.asname: node.module for node in ast.walk(checking) if isinstance(node, ast.ImportFrom) for alias in node.names}
    modules = {name for name in armillary.__all__ if getattr(armillary, name).__class__.__name__ == "module"}
    assert seen.keys() | modules == set(armillary.__all__)
    for name, module in seen.items():
        assert module is not None and getattr(importlib.import_module(module), str(name)) is getattr(armillary, str(name))


def test_an_absent_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'PcA'"):
        armillary.PcA  # noqa: B018
    assert set(armillary.__all__) <= set(dir(armillary))
