"""DiffMeans: the direction from one class mean to the other.

The difference-in-means probe and steering vector: Marks and Tegmark (2023), "The geometry of truth" (mass-mean probing); Belrose (2023),
"Diff-in-means concept editing is worst-case optimal".

Letters: N rows, D width, K classes, F features (1 for two classes, else K).
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import LinearEncoder
from armillary.core.method import Consumer, Labelled, Method, Needs, one_to_one, refuse_start
from armillary.core.rows import Layout, width
from armillary.core.summary import GroupSums, OnePass


@final
class DiffMeans(Method):
    """Difference of class means (Marks and Tegmark 2023; Belrose 2023), from `Labelled` rows.

    Two classes give one feature, whose atom is mean(second class) - mean(first class); K > 2 classes give one feature each, its mean minus
    the mean of all other rows. The code is the position along that line: -1/2 at the negative mean, +1/2 at the positive one and 0
    halfway, so its sign is a classifier, and adding an atom once carries the one mean onto the other.

    The base is the mean of the class means. With two classes, decoding projects a row onto the line through both means; with more, the
    lines are not orthogonal and their codes are scores, each right by itself (bind a pursuit with `with_encoder` for their best sum).
    """

    needs: ClassVar[Needs] = "labelled"
    invariances: ClassVar[frozenset[Literal["scale", "shift", "rotation"]]] = frozenset({"scale", "shift", "rotation"})

    def consumer(self, data: Labelled, *, seed: int, start: Decomposition | None) -> Consumer:
        refuse_start(self, start)
        number, names = data.classes()
        layout = data.rows.layout
        return OnePass(GroupSums(number, len(names), width(layout)), lambda sums: self._decompose(sums, names, layout))

    def min_rows(self, d: int) -> int:
        return 2

    def _decompose(self, groups: GroupSums, names: tuple[str, ...], layout: Layout) -> Decomposition:
        positive, negative = _means(groups.sums, groups.counts[:, None])  # [F, D] both
        atoms = positive - negative
        base = (groups.sums / groups.counts[:, None]).mean(0)  # [D]
        # Rows whose means coincide have no direction: code 0 rather than 0 / 0.
        weight = atoms / atoms.square().sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)  # [F, D]
        bias = (weight * (base - (positive + negative) / 2)).sum(1)  # [F]
        encoder = LinearEncoder(weight.float(), base.float(), bias.float())
        dictionary = Dictionary.of_directions(atoms.float(), bias=base.float())
        return Decomposition(dictionary, encoder, **one_to_one(layout), provenance={"classes": list(names)})


def _means(sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Means [F, D] of each feature's positive and negative rows, from sums [K, D] and counts [K, 1] per class."""
    means = sums / counts
    if len(means) == 2:
        return means[1:], means[:1]
    return means, (sums.sum(0) - sums) / (counts.sum() - counts)
