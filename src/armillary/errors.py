"""Every error armillary raises on purpose.

    ArmillaryError                     exit code 1 unless said otherwise
    ├── InputError (ValueError)        exit code 2: the caller can mend it
    │   ├── UnknownNameError           a model, site, method, study or option that does not exist
    │   ├── ShapeError                 a tensor of the wrong width, or a site outside the model
    │   ├── TooFewRowsError            a fit needs more rows than there are
    │   ├── NonFiniteError             NaN or inf among the activations
    │   ├── TextError                  text that is empty or is not UTF-8
    │   ├── CapabilityError            what this model cannot do (an encoder has no logits)
    │   ├── MissingExtraError          an optional dependency is not installed
    │   ├── OutputExistsError          an output that is there already
    │   └── MismatchError              a folder that belongs to another run, model or schema
    ├── CorruptFileError               a file whose bytes are not the ones that were written
    ├── DiskFullError                  no room left to write
    └── OutOfMemoryError               not enough memory

Warnings are of the kind ArmillaryWarning: what the reader of a result has to know. The command shows them in a line each.

A message says what was wrong, the value, what is allowed, and the nearest fix, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArmillaryError(Exception):
    """Root of the tree; `exit_code` is what the command line ends with."""

    exit_code = 1


class InputError(ArmillaryError, ValueError):
    """The caller's input is at fault."""

    exit_code = 2


class UnknownNameError(InputError):
    """A name that is not in the list of known ones; see `unknown`."""


class ShapeError(InputError):
    """A tensor's shape does not fit what it is given to."""


class TooFewRowsError(InputError):
    """Fewer rows than the fit needs."""


class NonFiniteError(InputError):
    """NaN or infinite activations."""


class TextError(InputError):
    """Text that cannot be read as text."""


class CapabilityError(InputError):
    """The model or method does not offer what was asked."""


class MissingExtraError(InputError):
    """An optional dependency is missing; the message holds the install line."""


class OutputExistsError(InputError):
    """The output is there already and nothing is overwritten unasked."""


class MismatchError(InputError):
    """A folder that was made by another run, model or schema version."""


class CorruptFileError(ArmillaryError):
    """A file is truncated or its checksum differs."""


class DiskFullError(ArmillaryError):
    """The disk has no room left; what was written before is intact."""


class OutOfMemoryError(ArmillaryError):
    """The machine has too little memory for the sizes asked."""


class ArmillaryWarning(UserWarning):
    """What the reader of a result has to know."""


class NotIdentifiableWarning(ArmillaryWarning):
    """A fit whose features another seed would not find again."""


def nearest(value: str, allowed: Iterable[str], n: int = 3) -> list[str]:
    """The up to `n` allowed names closest to `value`, best first (case is ignored); those far behind the best are left out."""
    by_lower = {name.lower(): name for name in allowed}
    hits = difflib.get_close_matches(value.lower(), by_lower, n=n, cutoff=0.4)
    likeness = [difflib.SequenceMatcher(None, hit, value.lower()).ratio() for hit in hits]
    return [by_lower[hit] for hit, ratio in zip(hits, likeness, strict=True) if ratio >= likeness[0] - 0.15]


def unknown(what: str, value: object, allowed: Iterable[str]) -> UnknownNameError:
    """An `UnknownNameError` that names the value, the nearest allowed names and, if few, all of them."""
    names = sorted(allowed)
    close = nearest(str(value), names)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    listed = f" Known: {', '.join(names)}." if len(names) <= 24 else ""
    return UnknownNameError(f"unknown {what} {str(value)!r}.{hint}{listed}")


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtraError:
    """The error for an optional dependency, with the exact line that installs it."""
    return MissingExtraError(f"{purpose} needs {package!r}, which is not installed. Run: pip install 'armillary[{extra}]'")
