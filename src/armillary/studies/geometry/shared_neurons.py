"""Shared neurons: which features are built on the same neurons, and how do they merge?

    overlap             mean Jaccard index of two features' neurons; null: each feature's weights on neurons drawn at random
    nearest             mean over features of the largest index with another; null: neurons traded between features
    features_per_neuron mean over neurons that a feature has
    joined              share of the features that the tree joins with another; null: the same of traded neurons

Trading (Strona et al. 2014) leaves every feature as many neurons, and every neuron as many features, as it has. A few neurons that most
features have raise the overlap of any two, which is no structure: above the traded null are features that share more than that.

For dictionaries of sparse atoms, such as those of semi-NMF. The tree is average linkage of 1 - Jaccard index (`core.tree`).

Letters: F features, D neurons.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from armillary.core.config import Config as Settings
from armillary.core.dictionary import Dictionary
from armillary.core.report import Estimate, Report
from armillary.core.selection import shuffle, trade
from armillary.core.statistics import Floats, Units, ratio_interval, wilson_interval
from armillary.core.study import Need, Subject, Subjects, as_subjects
from armillary.core.tree import FeatureTree, by_overlap, overlap
from armillary.studies.together import together

needs: frozenset[Need] = frozenset({"fit"})
accepts: frozenset[Need] = frozenset()

#: Features whose overlaps are drawn: those joined first.
DRAWN = 200
#: Features that a row of the table names.
LISTED = 12


class Config(Settings):
    """Settings of the study."""

    within: float = Field(0.85, gt=0, le=1)
    """Distance, 1 - Jaccard index, above which features are not joined."""
    n_draws: int = Field(20, ge=2)
    """Draws of random neurons behind the nulls."""
    seed: int = Field(0, ge=0)
    """Of the draws."""


def run(subjects: Subjects, *, config: Config = Config()) -> Report:  # noqa: B008 (frozen)
    """Which features share neurons.

    Args:
        subjects: fits, or dictionaries, whose atoms have entries that are 0.
        config: settings.

    Raises:
        InputError: the atoms have no zeros, or there are fewer than two.
    """
    return together("shared neurons", [_report(subject, config) for subject in as_subjects(subjects)])


def _report(subject: Subject, config: Config) -> Report:
    began = time.monotonic()
    dictionary = subject.what if isinstance(subject.what, Dictionary) else subject.what.dictionary
    atoms = dictionary.directions().detach().cpu().float()
    tree = by_overlap(dictionary, within=config.within)
    shared = overlap(atoms).numpy()
    anywhere, traded = ([draw(atoms, config.seed + i) for i in range(config.n_draws)] for draw in (shuffle, trade))
    return Report(
        subject.label,
        {
            "overlap": _overlap(shared, float(np.mean([_mean_overlap(overlap(one).numpy()) for one in anywhere]))),
            "nearest": _nearest(shared, float(np.mean([_largest(overlap(one).numpy()).mean() for one in traded]))),
            "features_per_neuron": _per_neuron(atoms),
            "joined": _joined(tree, traded, config),
        },
        {"features": _features(tree, atoms), "neurons": _neurons(atoms)},
        {"shared neurons": _heat_map(shared, tree), "tree": tree.figure()},
        notes=[
            "Null of overlap: each feature's weights on neurons drawn at random; of nearest and joined: neurons traded between features, "
            "so that all keep as many. Intervals: bootstrap over features, of joined Wilson's."
        ],
        provenance={"study": "shared_neurons", "subject": subject.label, "settings": config.model_dump(mode="json")},
        seconds=time.monotonic() - began,
    )


def _mean_overlap(shared: Floats) -> float:
    return float((shared.sum() - np.trace(shared)) / (len(shared) * (len(shared) - 1)))


def _overlap(shared: Floats, null: float) -> Estimate:
    units = Units.of_values("feature", (shared.sum(1) - np.diagonal(shared)) / (len(shared) - 1))
    low, high = ratio_interval(units)
    return Estimate(units.value, low, high, len(shared), null=null, ceiling=1.0, units=units)


def _largest(shared: Floats) -> Floats:
    """[F] each feature's largest index with another."""
    found: Floats = (shared - np.diag(np.diagonal(shared))).max(1)
    return found


def _nearest(shared: Floats, null: float) -> Estimate:
    units = Units.of_values("feature", _largest(shared))
    low, high = ratio_interval(units)
    return Estimate(units.value, low, high, len(shared), null=null, ceiling=1.0, units=units)


def _per_neuron(atoms: Tensor) -> Estimate:
    counts = (atoms != 0).sum(0).double().numpy()
    units = Units.of_values("neuron", counts[counts > 0])
    low, high = ratio_interval(units)
    return Estimate(units.value, low, high, len(units), units=units)


def _joined(tree: FeatureTree, chance: list[Tensor], config: Config) -> Estimate:
    n = sum(parent is not None for parent in tree.above[: tree.n_leaves])
    trees = [by_overlap(Dictionary.of_directions(one), within=config.within) for one in chance]
    null = float(np.mean([sum(parent is not None for parent in one.above[: one.n_leaves]) / one.n_leaves for one in trees]))
    low, high = wilson_interval(n, tree.n_leaves)
    return Estimate(n / tree.n_leaves, low, high, tree.n_leaves, null=null, ceiling=1.0)


def _features(tree: FeatureTree, atoms: Tensor) -> dict[str, Any]:
    """A row per feature; its exclusive neurons are those that no other feature has."""
    leaves, on = range(tree.n_leaves), atoms != 0
    exclusive = (on & (on.sum(0) == 1)).sum(1).tolist()
    return {
        "feature": list(leaves),
        "neurons": [len(tree.core(i)) for i in leaves],
        "exclusive": exclusive,
        "siblings": [len(tree.siblings(i)) for i in leaves],
        "joined_with": [_listed([leaf for leaf in tree.leaves(tree.above[i] or i) if leaf != i]) for i in leaves],
    }


def _listed(features: list[int]) -> str:
    shown = ", ".join(map(str, features[:LISTED]))
    return shown if len(features) <= LISTED else f"{shown} and {len(features) - LISTED} more"


def _neurons(atoms: Tensor) -> dict[str, Any]:
    """A row per neuron that a feature has, those of most features first."""
    on = atoms != 0
    counts = on.sum(0)
    order = [int(i) for i in counts.argsort(descending=True, stable=True) if counts[i]]
    strongest = [torch.nonzero(on[:, i]).flatten()[atoms[on[:, i], i].abs().argsort(descending=True)][:8].tolist() for i in order]
    return {"neuron": order, "features": [int(counts[i]) for i in order], "strongest": [", ".join(map(str, one)) for one in strongest]}


def _heat_map(shared: Floats, tree: FeatureTree) -> dict[str, Any]:
    """Overlaps with features in the order of the tree; of many, those that are joined."""
    order = [leaf for root in tree.roots for leaf in tree.leaves(root)]
    order = (order + [leaf for leaf in range(tree.n_leaves) if leaf not in set(order)])[:DRAWN]
    names = [tree.name(leaf) for leaf in order]
    values = shared[np.ix_(order, order)].copy()
    np.fill_diagonal(values, np.nan)  # a feature shares all with itself, which would set the scale
    z = [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in values]
    trace = {"type": "heatmap", "z": z, "x": names, "y": names, "colorscale": "Blues", "reversescale": True, "zmin": 0}
    return {"data": [trace], "layout": {"title": {"text": "Shared neurons (Jaccard index)"}, "yaxis": {"autorange": "reversed"}}}
