"""Scores of features do not depend on how pairs are batched, and every pair counts in them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import LinearEncoder
from armillary.core.rows import TensorRows
from armillary.core.study import Subject
from armillary.studies.causal.interchange import Bench, Trials
from armillary.studies.causal.localization import Config, run
from armillary.studies.causal.masks import Coordinates, _epochs, attribution, difference
from planted_lm import STREAM, planted_lm

AXES = planted_lm(rotated=False)


def looked_at(batch_tokens: int) -> tuple[Trials, Coordinates]:
    bench = Bench(AXES.lm, AXES.task, [(STREAM, "entity")], max_pairs=61, batch_tokens=batch_tokens)
    return bench.trials["colour", "train"], Coordinates(fit(), bench.x[STREAM, "entity"], STREAM, "entity")


def fit(atoms: torch.Tensor | None = None) -> Decomposition:
    """Every dimension a feature of its own, or other directions."""
    rows = TensorRows(AXES.entities, source=AXES.lm.source(STREAM))
    directions = torch.eye(16) if atoms is None else atoms
    return Decomposition(Dictionary.of_directions(directions), LinearEncoder(directions, torch.zeros(16)), rows.layout, rows.layout)


@pytest.mark.parametrize("batch_tokens", [1, 7, 50])
def test_attribution_and_difference_do_not_depend_on_batches(batch_tokens: int) -> None:
    whole, parts = looked_at(2048), looked_at(batch_tokens)
    assert len(parts[0].batches()) > len(whole[0].batches())
    for score in (attribution, difference):
        torch.testing.assert_close(score(*parts), score(*whole), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("n", "size", "counts"), [(5, 2, [2, 2, 1]), (3, 8, [3]), (4, 4, [4])])
def test_masks_learn_from_every_pair_the_last_ones_and_few_ones_too(n: int, size: int, counts: list[int]) -> None:
    order = _epochs(n, size, 0)
    for _ in range(2):
        batches = list(itertools.islice(order, len(counts)))
        assert [len(one) for one in batches] == counts and sorted(np.concatenate(batches)) == list(range(n))


@pytest.mark.parametrize("select", ["mask", "attribution", "difference", "all"])
def test_a_fit_that_never_differs_exchanges_nothing_and_says_so(select: str) -> None:
    """No entity of the task has anything in these two dimensions: what is left is doing nothing, at its null."""
    flat = planted_lm(rotated=False, noise=0.0)
    subject = Subject(fit(torch.eye(16)[14:]), model=flat.lm, task=flat.task)
    config = Config(select=select, positions=("entity",), variables=("colour",), n_bootstrap=100, max_pairs=60, n_random=1)
    report = run(subject, config=config)
    assert report["n_features: colour"].value == 0 and report["disentangle: colour"].value == report["disentangle: colour"].null == 0.5
    assert any("no feature was chosen" in line for line in report.warnings)
