"""Files of other tools, read and written.

fit = arm.formats.load("runs/their-sae")                # the tool is found out; hf://owner/repository/folder fetches from the Hub
arm.formats.save(fit, "runs/ours", "saelens")           # or "dictionary_learning", "sparsify"
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armillary.errors import InputError, unknown

if TYPE_CHECKING:
    from armillary.core.decomposition import Decomposition

#: Tools whose files are read, in the order in which they are looked for.
READ = ("saelens", "sparsify", "dictionary_learning", "gemma_scope", "llama_scope", "circuit_tracer", "torch_files")
#: Tools whose files are written.
WRITTEN = ("saelens", "dictionary_learning", "sparsify")


def load(
    path: str | os.PathLike[str], tool: str | None = None, *, verify: bool = True, hints: Mapping[str, Any] | None = None
) -> Decomposition:
    """An autoencoder or transcoder of another tool, as a Decomposition.

    Args:
        path: a folder or a file; hf://owner/repository/folder[@revision] is fetched from the Hub.
        tool: one of `READ`; by default found out from the names of the files.
        verify: compare with the codes that were written beside the files, where there are any.
        hints: what the files do not say, such as {"layer": 3} for a set of transcoders, or {"k": 50}; messages tell when one is needed.

    Raises:
        InputError: there is nothing at the path, no tool's files, or a hint is needed that was not given.
        CorruptFileError: a file or tensor is missing, cut short, of another shape, or gives other codes than those written beside it.
        UnknownNameError: an architecture that is not known.
    """
    from armillary.methods.formats.files import located
    from armillary.methods.formats.self_test import check

    place = located(os.fspath(path))
    name = _tool_of(place) if tool is None else _known(tool, READ)
    module = _module(name)
    known = list(inspect.signature(module.load).parameters)[1:]
    for hint in hints or {}:
        if hint not in known:
            raise unknown(f"hint for {name}", hint, known)
    fit: Decomposition = module.load(place, **(hints or {}))
    if verify:
        check(fit, place if place.is_dir() else place.parent)
    return fit


def save(fit: Decomposition, path: str | os.PathLike[str], tool: str) -> Path:
    """Write a fit as a folder that another tool reads, with codes and reconstructions of a few rows beside it to check it by.

    Args:
        fit: a sparse autoencoder or transcoder.
        path: a folder that does not exist yet or is empty.
        tool: one of `WRITTEN`.

    Raises:
        OutputExistsError: the folder holds something already.
        CapabilityError: the tool has no place for such a fit.
        DiskFullError: nothing is left behind in that case.
    """
    from armillary.core.artifact import appearing
    from armillary.methods.formats.self_test import check, write

    target = Path(path)
    module = _module(_known(tool, WRITTEN))
    with appearing(target) as scratch:
        write(module.save(fit, scratch), scratch)
        check(module.load(scratch), scratch)
    return target


def _tool_of(place: Path) -> str:
    found = next((name for name in READ if _module(name).found_in(place)), None)
    if found is None:
        inside = [entry.name for entry in sorted(place.iterdir())[:6]] if place.is_dir() else [place.name]
        deeper = [str(entry) for entry in sorted(place.iterdir()) if entry.is_dir() and any(_module(name).found_in(entry) for name in READ)]
        hint = f"; its folder '{deeper[0]}' is one" if place.is_dir() and deeper else ""
        raise InputError(f"'{place}' is no checkpoint of {', '.join(READ)}{hint}; it holds {', '.join(inside) or 'nothing'}")
    return found


def _known(tool: str, names: tuple[str, ...]) -> str:
    plain = {name.replace("_", ""): name for name in names}
    wanted = tool.lower().replace("-", "").replace("_", "")
    if wanted not in plain:
        raise unknown("tool", tool, names)
    return plain[wanted]


def _module(name: str) -> Any:
    return importlib.import_module(f"armillary.methods.formats.{name}")


__all__ = ["READ", "WRITTEN", "load", "save"]
