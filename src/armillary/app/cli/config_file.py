"""Options from a YAML file: keys are the names of the command's options, the command line wins.

    site: [resid_post.3, mlp_act.3]
    tokens: 100_000
    quiet: true

A key that is no option of the command is an error that names the nearest one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from armillary.app.cli.paths import near
from armillary.errors import InputError, unknown


def read(path: str, params: Iterable[click.Parameter]) -> dict[str, Any]:
    """The file's values by parameter name, ready to be a click context's `default_map`.

    Raises:
        InputError: the file is missing, is not YAML or is no mapping.
        UnknownNameError: a key that is no option of the command.
    """
    by_spelling = {spelling: param for param in params if param.name not in ("config", "help") for spelling in _spellings(param)}
    values = {str(key).replace("-", "_"): value for key, value in _mapping(Path(path)).items()}
    for key in values:
        if key not in by_spelling:
            raise unknown(f"option in {path}", key, by_spelling)
    given = {by_spelling[key]: value for key, value in values.items() if value is not None}
    return {str(param.name): _as_given(value, param) for param, value in given.items()}


def _spellings(param: click.Parameter) -> list[str]:
    """How a parameter may be called in a file: as it is typed, without the dashes in front and with either kind between words."""
    return [opt.lstrip("-").replace("-", "_") for opt in param.opts]


def _mapping(path: Path) -> dict[Any, Any]:
    import yaml

    if not path.is_file():
        raise InputError(f"no config file at '{path}'{near(path)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"'{path}' must hold 'option: value' lines, got a {type(values).__name__}; for instance 'seed: 1'")
    return values


def _as_given(value: Any, param: click.Parameter) -> Any:
    """A single value of an option that takes several is a list of one."""
    takes_many = param.nargs == -1 or getattr(param, "multiple", False)
    if takes_many:
        return value if isinstance(value, list) else [value]
    if isinstance(value, list | dict):
        raise InputError(f"option '{param.name}' takes one value, got {value!r}")
    return value
