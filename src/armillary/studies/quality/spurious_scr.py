"""Spurious correlation removal: does ablating the features of a second concept mend a probe that was trained where it came with the first?

    scr_<n>    (A ablated - A biased) / (A clean - A biased)        accuracies on documents with the two concepts in all four combinations

Marks et al. (2024), arXiv 2403.19647; Karvonen et al. (2025), SAEBench, arXiv 2503.09532.

Letters: n documents, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from armillary.core.report import Estimate
from armillary.core.statistics import Floats, Units, ratio_interval
from armillary.core.tokens import Bools, Ints
from armillary.studies.quality.labelled import Concept, Panel, concepts_of
from armillary.studies.quality.linear_probe import Probe
from armillary.studies.quality.spurious_parts import NOTHING, Means, right, strongest, trained

#: Accuracy that a probe must lose to the second concept before a share of it can be won back.
LEAST_LOSS = 0.001
#: Draws of random features behind the null.
N_DRAWS = 10


@dataclass(frozen=True)
class Bias:
    """A probe of one concept that was trained where another came with it.

    Args:
        probe: the biased one.
        judged: documents held out, equally many with neither concept, with either and with both.
        labels: [judged] the concept that is meant.
        before, clean: [judged] where the biased probe is right, and where one of all combinations is.
        balanced: training documents, as many of each combination.
        other: [balanced] the concept that came with it.
        of_other: the probe of that one.
    """

    probe: Probe
    judged: Ints
    labels: Bools
    before: Floats
    clean: Floats
    balanced: Ints
    other: Bools
    of_other: Probe

    @staticmethod
    def of(x: Floats, pair: Sequence[Concept], train: Sequence[Ints], test: Sequence[Ints], *, seed: int) -> Bias:
        """In the direction in which the biased probe does worse on training documents of all combinations."""
        coinciding, balanced, judged = np.concatenate([train[0], train[3]]), np.concatenate(train), np.concatenate(test)
        probe = trained(x[coinciding], pair[0].positive[coinciding], seed=seed)
        scores = [right(probe, x[balanced], one.positive[balanced]).mean() for one in pair]
        meant, other = (pair[0], pair[1]) if scores[0] <= scores[1] else (pair[1], pair[0])
        labels = meant.positive[judged]
        before = right(probe, x[judged], labels)
        clean = right(trained(x[balanced], meant.positive[balanced], seed=seed), x[judged], labels)
        of_other = trained(x[balanced], other.positive[balanced], seed=seed)
        return Bias(probe, judged, labels, before, clean, balanced, other.positive[balanced], of_other)

    def gained(self, means: Means, features: Ints) -> Floats:
        """[judged] what the biased probe gains where features are ablated."""
        return right(self.probe, means.without(self.judged, features), self.labels) - self.before


@dataclass(frozen=True)
class Removal:
    """A biased probe, or why there is none."""

    bias: Bias | str

    @staticmethod
    def of(x: Floats, panel: Panel, pair: Sequence[str], *, least: int, seed: int) -> Removal:
        """Probes of documents' means [n, D], with at least `least` documents of each combination on either side."""
        if not pair:
            return Removal("no pair of concepts was named")
        concepts = concepts_of(panel.documents, panel.is_test, wanted=pair, min_positives=least, max_concepts=2)
        found = concepts.asked
        if len(found) < 2:
            return Removal(" ".join([f"one of the pair has too few documents ({concepts.told(2)}).", *concepts.nowhere]))
        has_both = np.intersect1d(found[0].train, found[1].train), np.intersect1d(found[0].test, found[1].test)
        train, test = (_cells(found, rows, seed) for rows in has_both)
        if min(len(train[0]), len(test[0])) < least:
            reason = f"a combination of the pair has {min(len(train[0]), len(test[0]))} documents on a side, fewer than {least}"
            return Removal(f"{reason}; harvest more texts, lower min_positives or name another pair")
        return Removal(Bias.of(x, found, train, test, seed=seed))

    def estimates(self, means: Means, ns: Sequence[int], *, n_bootstrap: int, seed: int) -> dict[str, Estimate]:
        """The score of one fit for every n."""
        bias = self.bias
        if isinstance(bias, str):
            return {f"scr_{n}": Estimate.missing(bias, better="higher") for n in ns}
        lost = bias.clean - bias.before
        if lost.mean() < LEAST_LOSS:
            reason = f"the second concept costs the probe {lost.mean():.3f} of accuracy: nothing to win back"
            return {f"scr_{n}": Estimate.missing(reason, better="higher") for n in ns}
        effects = means.effects(bias.balanced, bias.other, bias.of_other, absolute=True)
        if not effects.any():
            return {f"scr_{n}": Estimate.missing(NOTHING, better="higher") for n in ns}
        rng, out = np.random.default_rng(seed), {}
        for n in ns:
            units = Units("document", bias.judged, bias.gained(means, strongest(effects, n)), lost)
            low, high = ratio_interval(units, n_samples=n_bootstrap, seed=seed)
            drawn = [rng.permutation(means.dictionary.n_features)[:n] for _ in range(N_DRAWS)]
            null = float(np.mean([bias.gained(means, features).sum() for features in drawn]) / lost.sum())
            out[f"scr_{n}"] = Estimate(units.value, low, high, len(bias.judged), null, ceiling=1.0, better="higher", units=units)
        return out


def _cells(pair: Sequence[Concept], rows: Ints, seed: int) -> list[Ints]:
    """Documents with neither concept, the second, the first, and both: equally many of each."""
    one, two = (concept.positive[rows] for concept in pair)
    cells = [rows[(one == first) & (two == second)] for first in (False, True) for second in (False, True)]
    size, rng = min(len(cell) for cell in cells), np.random.default_rng(seed)
    return [rng.permutation(cell)[:size] for cell in cells]
