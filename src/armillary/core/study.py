"""Study: a question asked of fitted decompositions.

A study is a module under `armillary.studies` with

    Config      its settings, a frozen `core.config.Config`
    needs       what it must be given
    accepts     what it uses where it is given
    run(subjects, *, config=Config()) -> Report
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.model import Model
from armillary.core.report import Report
from armillary.core.rows import Rows, as_rows
from armillary.core.task import Task
from armillary.errors import CapabilityError, InputError

Need = Literal["fit", "rows", "model", "logits", "labels", "task", "pair", "methods"]


@dataclass(frozen=True)
class Subject:
    """What a study looks at.

    Args:
        what: a fit, or a bare dictionary.
        rows: activations to measure on.
        model: the language model they come from.
        name: how reports call it; the fit's method and width if empty.
        task: prompts and pairs, for studies of what the model does with them.
    """

    what: Decomposition | Dictionary
    rows: Rows | None = None
    model: Model | None = None
    name: str = ""
    task: Task | None = None

    @property
    def label(self) -> str:
        return self.name or repr(self.what)

    def fit(self) -> Decomposition:
        """The decomposition.

        Raises:
            InputError: the subject is a bare dictionary.
        """
        if not isinstance(self.what, Decomposition):
            raise InputError(f"this study needs a fit with an encoder, got a bare {self.what!r}")
        return self.what

    def require_rows(self) -> Rows:
        """The rows, or an `InputError` that says how to pass them."""
        if self.rows is None:
            raise InputError(f"this study reads activations: pass Subject({self.label}, rows=...), or --acts on the command line")
        return as_rows(self.rows)

    def require_model(self, *, logits: bool = False) -> Model:
        """The model, or an error that says how to pass one or that it has no logits."""
        if self.model is None:
            raise InputError(f"this study runs the model: pass Subject({self.label}, model=...), or --model on the command line")
        if logits and not self.model.has_logits:
            raise CapabilityError(f"this study needs next-token logits, which {self.model.name!r} (an encoder) does not have")
        return self.model

    def require_task(self) -> Task:
        """The task, or an `InputError` that says how to pass one."""
        if self.task is None:
            raise InputError(f"this study needs prompts with answers: pass Subject({self.label}, task=...), or --task on the command line")
        return self.task


#: What `run` accepts: subjects, or bare fits and dictionaries.
Subjects = Subject | Decomposition | Dictionary | Sequence[Subject | Decomposition | Dictionary]


def as_subjects(given: Subjects) -> list[Subject]:
    """A list of subjects from one or several subjects, fits or dictionaries.

    Raises:
        InputError: the list is empty.
    """
    several = [given] if isinstance(given, Subject | Decomposition | Dictionary) else list(given)
    if not several:
        raise InputError("a study needs at least one subject, got an empty list")
    return [one if isinstance(one, Subject) else Subject(one) for one in several]


class Study(Protocol):
    """The shape of a study's module."""

    needs: frozenset[Need]
    accepts: frozenset[Need]

    def run(self, subjects: Subjects, *, config: Any = ...) -> Report: ...
