"""What a module is about, read from its source without importing it, so that help pages stay quick."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from pathlib import Path


def first_sentence(module: str) -> str:
    """The first paragraph of a module's docstring as one line; "package.module:Name" takes the one of that class."""
    name, _, inner = module.partition(":")
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == inner), tree)
    text = ast.get_docstring(found) or ast.get_docstring(tree) or ""
    return " ".join(text.split("\n\n")[0].split())


def help_text(docstring: str | None) -> str:
    """A docstring as a help page: without its sections on arguments and errors, and with indented blocks kept as they are."""
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    kept = [text for text in paragraphs if not text.startswith(("Args:", "Raises:", "Returns:", "Warns:"))]
    return "\n\n".join(f"\b\n{text}" if text.startswith("    ") else text for text in kept)
