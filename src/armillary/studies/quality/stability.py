"""Stability: are the features of a fit found again by another seed?

    matched_cosine    of each feature of the first fit with its partner in the best one-to-one matching, mean over the other fits
    support_jaccard   shared entries of a feature and its partner, as a share of those of either; where atoms have zeros
    consensus         share of the features whose partners in all other fits have a cosine of at least 0.9

Fits of one method to the same rows by several seeds are compared with the first. The null is the same matching against atoms whose
entries are shuffled. In Python, `armillary.stability(method, rows, seeds=3)` makes the fits too.
"""

from __future__ import annotations

from typing import Literal

from armillary.core.config import Config as Settings
from armillary.core.report import Report
from armillary.core.selection import agreement
from armillary.core.study import Need, Subjects, as_subjects

needs: frozenset[Need] = frozenset({"fit"})
accepts: frozenset[Need] = frozenset()


class Config(Settings):
    """Settings of the study."""

    sign: Literal["auto", "matters", "ignored"] = "auto"
    """Whether opposite directions are different features; by default they are where codes are sparse."""


def run(subjects: Subjects, *, config: Config = Config()) -> Report:  # noqa: B008 (frozen)
    """Compare fits with the first of them.

    Args:
        subjects: at least two fits, in one space.
        config: settings.

    Raises:
        InputError: fewer than two fits.
        ShapeError: fits of different widths.
    """
    given = as_subjects(subjects)
    is_signed = None if config.sign == "auto" else config.sign == "matters"
    title = f"stability of {given[0].label} against {len(given) - 1} other fits"
    return agreement([subject.fit() for subject in given], title=title, is_signed=is_signed).report
