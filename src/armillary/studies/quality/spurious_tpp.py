"""Targeted probe perturbation: does ablating the features of one class leave the probes of the others alone?

    tpp_<n>    mean over classes of    fall of the class's accuracy - mean fall of the others'

after ablating the n features of the largest effect on the class.

Karvonen et al. (2025), SAEBench, arXiv 2503.09532.

Letters: n documents, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from armillary.core.report import Estimate
from armillary.core.statistics import Floats
from armillary.core.tokens import Ints
from armillary.studies.quality.labelled import Concepts
from armillary.studies.quality.labelled_report import over_concepts
from armillary.studies.quality.linear_probe import Probe
from armillary.studies.quality.probing_tasks import Task
from armillary.studies.quality.spurious_parts import NOTHING, Means, right, strongest, trained


@dataclass(frozen=True)
class Perturbation:
    """Probes of classes.

    Args:
        tasks: [C] the documents of each.
        probes: [C].
        reason: why there are none.
    """

    tasks: Sequence[Task]
    probes: Sequence[Probe]
    reason: str = ""

    @staticmethod
    def of(x: Floats, classes: Concepts, *, seed: int) -> Perturbation:
        """Probes of documents' means [n, D], as many documents with a class as without."""
        if len(classes.asked) < 3:
            return Perturbation([], [], _too_few(classes))
        tasks = [Task.of(one, share=0.5, n_train=4000, n_test=1000, seed=seed) for one in classes.asked]
        return Perturbation(tasks, [trained(x[each.train], each.labels, seed=seed) for each in tasks])

    def estimates(self, means: Means, ns: Sequence[int], *, n_bootstrap: int, seed: int) -> dict[str, Estimate]:
        """The score of one fit for every n."""
        if self.reason:
            return {f"tpp_{n}": Estimate.missing(self.reason, better="higher") for n in ns}
        pairs = list(enumerate(zip(self.tasks, self.probes, strict=True)))
        effects = [means.effects(task.train, task.labels, probe, absolute=False) for _, (task, probe) in pairs]
        if not any((each > 0).any() for each in effects):
            return {f"tpp_{n}": Estimate.missing(NOTHING, better="higher") for n in ns}
        rng, out = np.random.default_rng(seed), {}
        for n in ns:
            values = [self.fall(means, c, strongest(effects[c], n)) for c, _ in pairs]
            chance = [self.fall(means, c, rng.permutation(means.dictionary.n_features)[:n]) for c, _ in pairs]
            concepts = [task.concept for task in self.tasks]
            out[f"tpp_{n}"] = over_concepts(concepts, values, null=float(np.mean(chance)), ceiling=0.5, n_bootstrap=n_bootstrap, seed=seed)
        return out

    def fall(self, means: Means, c: int, features: Ints) -> float:
        """How much more the accuracy of class c falls than that of the others, where features are ablated."""
        falls = []
        for each, probe in zip(self.tasks, self.probes, strict=True):
            before, after = (right(probe, x, each.test_labels).mean() for x in (means.x[each.test], means.without(each.test, features)))
            falls.append(float(before - after))
        return falls[c] - float(np.mean([fall for j, fall in enumerate(falls) if j != c]))


def _too_few(classes: Concepts) -> str:
    """Why a label with fewer than three classes will not do."""
    told = f"{classes.asked[0].label!r} has {len(classes.asked)}" if classes.asked else "there is none"
    more = f" ({classes.told(3)})" if classes.left_out else ""
    return f"it takes a label with three classes or more, as each of two is what the other is not; {told}{more}; name another as label"
