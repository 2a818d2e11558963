"""by_rows: subjects that read the same rows are measured together, so that one reading serves them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from armillary.core.study import Subject

T = TypeVar("T")


def by_rows(subjects: Sequence[Subject], measure: Callable[[Sequence[Subject]], Sequence[T]]) -> list[T]:
    """What is measured of each subject, in their order.

    Args:
        subjects: fits with rows.
        measure: what is measured of subjects that share one rows object; called once for each such object, without gradients.

    Raises:
        InputError: a subject without an encoder or without rows, before anything is read.
    """
    groups: dict[int, list[int]] = {}
    for i, subject in enumerate(subjects):
        subject.fit(), subject.require_rows()
        groups.setdefault(id(subject.rows), []).append(i)
    found: dict[int, T] = {}
    with torch.no_grad():
        for group in groups.values():
            found |= zip(group, measure([subjects[i] for i in group]), strict=True)
    return [found[i] for i in range(len(subjects))]
