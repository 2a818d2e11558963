"""Results: what a study measured of each subject, as a JSON file that a later run takes over.

A file is only taken over for the same question: its key is a hash of the study, its settings, the fits, the rows, the model and the task.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from armillary import __version__
from armillary.core.artifact import sha256_of, write_atomic
from armillary.core.decomposition import Decomposition
from armillary.core.report import Estimate, plain
from armillary.core.statistics import Units
from armillary.core.study import Subject
from armillary.errors import InputError

#: By subject, by name.
Found = dict[str, dict[str, Estimate]]
#: Version of the files.
SCHEMA = 1


def key_of(study: str, settings: Mapping[str, Any], subjects: Sequence[Subject]) -> str:
    """What tells a question from others."""
    about = {"study": study, "settings": settings, "subjects": [_about(subject) for subject in subjects], "version": __version__}
    return hashlib.sha256(json.dumps(plain(about), sort_keys=True).encode()).hexdigest()


def _about(subject: Subject) -> dict[str, Any]:
    rows = None if subject.rows is None else {"layout": str(subject.rows.layout), **subject.rows.record}
    task = None if subject.task is None else hashlib.sha256(repr(subject.task).encode()).hexdigest()
    return {**identity(subject), "rows": rows, "task": task}


def identity(subject: Subject) -> dict[str, Any]:
    """What tells a fit, and the model it is of, from others."""
    model = None if subject.model is None else subject.model.revision
    what = replace(subject.what, provenance={}) if isinstance(subject.what, Decomposition) else subject.what
    return {"label": subject.label, "fit": sha256_of(what), "model": model}


def write(path: Path, key: str, found: Found, *, warnings: Sequence[str], seconds: float) -> None:
    """Write a file; its name should hold the key, so that no other question's is there."""
    told = {name: {one: _to_json(estimate) for one, estimate in of.items()} for name, of in found.items()}
    text = json.dumps({"schema": SCHEMA, "key": key, "found": told, "warnings": list(warnings), "seconds": seconds}, allow_nan=False)
    write_atomic(path, text.encode())


def read(path: Path, key: str) -> tuple[Found, list[str]] | None:
    """What was measured and warned of; None where there is nothing for this question.

    Raises:
        InputError: the file cannot be read.
    """
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text())
        if told["schema"] != SCHEMA or told["key"] != key:
            return None
        found = {name: {one: _from_json(value) for one, value in of.items()} for name, of in told["found"].items()}
        return found, [str(warning) for warning in told["warnings"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"'{path}' is no file of results ({type(error).__name__}: {error}); remove it to measure again") from error


def _to_json(estimate: Estimate) -> dict[str, Any]:
    units = estimate.units
    held = None if units is None else {name: plain(getattr(units, name)) for name in ("kind", "ids", "numerator", "denominator")}
    infinite = {} if estimate.value is None or math.isfinite(estimate.value) else {"reason": f"the value is {estimate.value}"}
    return {**estimate.to_json(), **infinite, "units": held}


def _from_json(told: Mapping[str, Any]) -> Estimate:
    held = told["units"]
    if held is None:
        return Estimate(**told)
    numerator, denominator = (np.array(held[name], dtype=np.float64) for name in ("numerator", "denominator"))
    return Estimate(**{**told, "units": Units(held["kind"], np.array(held["ids"], dtype=np.int64), numerator, denominator)})
