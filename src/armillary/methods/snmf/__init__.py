"""Semi-nonnegative matrix factorisation of the neurons' activations. Read `semi_nmf`, `updates` and `solver` in that order.

fit = armillary.SemiNMF(n_features=400).fit(acts["mlp_act.6"])
armillary.snmf.tree(fit)                                   # features that share neurons, joined from the bottom up
armillary.snmf.hierarchy(fit, acts["mlp_act.6"], [200, 100, 50])
armillary.snmf.FeatureTree.read("tree.json")
"""

from __future__ import annotations

from collections.abc import Sequence

from armillary.core.decomposition import Decomposition
from armillary.core.tree import FeatureTree as FeatureTree
from armillary.core.tree import by_overlap
from armillary.methods.snmf.hierarchy import hierarchy as hierarchy


def tree(fit: Decomposition, *, within: float = 0.95, names: Sequence[str] = ()) -> FeatureTree:
    """Features that share neurons, joined from the bottom up; see `core.tree.by_overlap`."""
    return by_overlap(fit.dictionary, within=within, names=names)
