"""docs/reference/api.md, made from the docstrings: `python docs/reference/make_api.py > docs/reference/api.md`."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import armillary

HEADER = """# The Python interface

Made by `python docs/reference/make_api.py > docs/reference/api.md`; a test keeps it current. Letters of shapes stand at the top of each
module: N rows, D width, M atoms, B sequences, T positions, V vocabulary.
"""
#: Sections: title, module, the names shown ("" for all that `armillary` itself offers).
MODULES = [
    ("armillary", "armillary", sorted(armillary._HOME, key=str.lower)),
    ("Edits", "armillary.core.edits", ["Add", "Toward", "Affine", "Clamp", "Ablate", "Interchange", "Splice"]),
    ("Non-negative least squares", "armillary.core.nnls", ["NNLS"]),
    ("Greedy encoders", "armillary.core.pursuit", ["OrthogonalPursuit", "GradientPursuit", "MatchingPursuit"]),
    (
        "Mixtures of factor analyzers",
        "armillary.methods.mfa",
        [
            *("Reading", "neighbors", "overlap", "merge", "split", "grow", "prune", "rotate", "ranks", "effective_ranks", "sample"),
            *("criteria", "select", "regions_at", "toward", "offset", "place", "transport", "guarded", "typical"),
        ],
    ),
    (
        "Looking",
        "armillary.inspect",
        ["contexts", "logit_effects", "region_contexts", "region_effects", "neighborhoods", "region_agreement"],
    ),
    ("Pictures of regions", "armillary.inspect.region_figures", ["region_map", "region_space", "waterfall", "save"]),
    ("Studies", "armillary.studies.quality.fidelity", ["run", "Config"]),
]


def markdown() -> str:
    """The whole page."""
    return "\n".join([HEADER, *(line for section in MODULES for line in _section(*section))])


def _section(title: str, module: str, names: list[str]) -> Iterator[str]:
    yield f"## {title}\n"
    if module != "armillary":
        yield f"`{module}`\n"
    home = importlib.import_module(module)
    for name in names:
        value = getattr(home, name)
        if not inspect.ismodule(value):
            yield from _entry(f"{'arm' if module == 'armillary' else module.rpartition('.')[2]}.{name}", value)


def _entry(name: str, value: Any) -> Iterator[str]:
    yield f"### {name}\n"
    options = getattr(value, "model_fields", None)
    yield f"```text\n{_signature(value) if options is None else ''}\n\n{inspect.getdoc(value)}\n```\n".replace("text\n\n\n", "text\n")
    if options:
        yield from _options(options)
    elif inspect.isclass(value):
        yield from _members(value)


def _options(fields: dict[str, Any]) -> Iterator[str]:
    """What a method, a study or a rule is told."""
    yield "| option | default | |\n|---|---|---|"
    for name, field in fields.items():
        default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`"
        yield f"| `{name}` | {default} | {field.description or ''} |".replace("\n", " ")
    yield ""


def _members(cls: type) -> Iterator[str]:
    """A line for every public method and property that has a docstring of its own."""
    found = [(name, member) for name, member in vars(cls).items() if not name.startswith("_") and _doc(member)]
    for name, member in found:
        call = "" if isinstance(member, property) or not callable(getattr(cls, name, None)) else _signature(getattr(cls, name))
        yield f"- **{name}** `{call}`: {_doc(member)}" if call else f"- **{name}**: {_doc(member)}"
    if found:
        yield ""


def _doc(member: Any) -> str:
    """The first line of a member's own docstring."""
    is_shown = callable(member) or isinstance(member, property | staticmethod | classmethod) or hasattr(member, "func")
    text = inspect.getdoc(getattr(member, "func", member)) if is_shown else None
    return (text or "").split("\n")[0]


def _signature(value: Any) -> str:
    try:
        text = str(inspect.signature(value, eval_str=False))
    except (TypeError, ValueError):
        return ""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)  # annotations are texts, which print quoted


if __name__ == "__main__":
    print(markdown(), end="")
