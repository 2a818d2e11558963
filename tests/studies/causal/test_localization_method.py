"""A method that learns from pairs gets its position by pairs held back, and the report of any other subject."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, final

import numpy as np
import pytest

import armillary as arm
from armillary.core.method import Consumer, Method, Needs
from armillary.core.pairs import Pairs
from armillary.core.study import Subject
from armillary.errors import CapabilityError, InputError, UnknownNameError
from armillary.methods.das import DAS
from armillary.studies.causal.interchange import Bench, Within
from armillary.studies.causal.localization import Config, run, run_method
from armillary.studies.causal.localization_report import _share
from planted_lm import STREAM, planted_lm
from support import tiny_lm

PLANTED = planted_lm()
QUICK = Config(n_bootstrap=100, max_pairs=120, n_random=2)


@final
class Spy(Method):
    """DAS that remembers what it is fitted to."""

    needs: ClassVar[Needs] = "pairs"
    seen: ClassVar[list[Pairs]] = []

    def consumer(self, data: Any, *, seed: int, start: Any) -> Consumer:
        self.seen.append(data)
        return DAS(rank=2, n_epochs=12, batch_size=8, lr=0.05).consumer(data, seed=seed, start=start)

    def min_rows(self, d: int) -> int:
        return 1


@cache
def learnt() -> arm.Report:
    Spy.seen.clear()
    return run_method(Spy(), PLANTED.lm, STREAM, PLANTED.task, name="spy", config=QUICK)


def test_a_method_finds_every_variable_where_it_is() -> None:
    report = learnt()
    assert report.title == "spy"
    for variable in ("colour", "shape"):
        one = report[f"disentangle: {variable}"]
        assert one.value is not None and one.value > 0.95 and one.null is not None and one.null < 0.7
    assert report["disentangle"].value == pytest.approx(np.mean([report[f"disentangle: {v}"].value for v in ("colour", "shape")]))
    assert report.tables["variables"]["position"] == ["entity", "entity"]
    assert set(report.tables["positions"]["position"]) == {"entity", "last"}
    assert "Spy was fitted to the training pairs of each variable" in report.notes[0]
    assert report.provenance["fit"]["method"] == "Spy" and report.provenance["fit"]["site"] == str(STREAM)


def test_positions_are_chosen_by_pairs_that_were_not_learnt_from() -> None:
    report, bench = learnt(), Bench(PLANTED.lm, PLANTED.task, [(STREAM, "entity")], max_pairs=QUICK.max_pairs)
    for variable, fits in (("colour", Spy.seen[:3]), ("shape", Spy.seen[3:])):
        train = bench.trials[variable, "train"]
        halves = train.split(QUICK.validation, QUICK.seed)
        assert [fit.position for fit in fits] == ["entity", "last", "entity"], "each position, and the best one again"
        assert fits[0].pairs == fits[1].pairs == halves.learn_from.pairs and fits[2].pairs == train.pairs
        held = {pair.base.groups["entity"] for pair in halves.choose_by.pairs}
        assert not held & {prompt.groups["entity"] for pair in fits[0].pairs for prompt in (pair.base, pair.source)}
    assert len(Spy.seen) == 6
    table = report.tables["positions"]
    score = {is_best: held for is_best, held in zip(table["is best"], table["held back"], strict=True)}
    assert score[True] > score[False]


def test_positions_are_scored_by_the_pairs_held_back() -> None:
    """A method too weak to be always right, so that pairs it learnt from and others tell different scores."""
    weak, bench = DAS(rank=2, n_epochs=2), Bench(PLANTED.lm, PLANTED.task, [(STREAM, "entity")], max_pairs=QUICK.max_pairs)
    halves = bench.trials["colour", "train"].split(QUICK.validation, QUICK.seed)
    fit = weak.fit(bench.pairs(halves.learn_from, STREAM, "entity"), seed=QUICK.seed)
    change = Within(STREAM, bench.x[STREAM, "entity"], fit.dictionary.atoms)
    learnt_from, held = (half.score(half.right("entity", change)) for half in (halves.learn_from, halves.choose_by))
    config = QUICK.model_copy(update={"variables": ("colour",), "positions": ("entity",)})
    table = run_method(weak, PLANTED.lm, STREAM, PLANTED.task, config=config).tables["positions"]
    assert table["held back"] == [held] * 2 and held != learnt_from


def test_its_report_stands_beside_those_of_fits() -> None:
    fit = arm.PCA(n_components=4).fit(arm.Pairs.of(PLANTED.lm, STREAM, "entity", PLANTED.task.train).rows)
    other = run(Subject(fit, model=PLANTED.lm, task=PLANTED.task, name="pca"), config=QUICK.model_copy(update={"select": "attribution"}))
    assert list(learnt().estimates) == list(other.estimates)
    assert "disentangle" in learnt().compare([other]).tables["differences"]["estimate"]


def test_what_the_method_or_the_study_cannot_do_is_said() -> None:
    with pytest.raises(InputError, match="rank must be at most the width D=16"):
        run_method(DAS(rank=17), PLANTED.lm, STREAM, PLANTED.task, config=QUICK)
    with pytest.raises(UnknownNameError, match="unknown variable of the task"):
        run_method(DAS(), PLANTED.lm, STREAM, PLANTED.task, config=Config(variables=("size",)))
    with pytest.raises(CapabilityError, match="an encoder"):
        run_method(DAS(), tiny_lm("bert"), STREAM, PLANTED.task)


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("varies", ["base", "source", "both"])
def test_intervals_hold_for_other_bases_and_other_sources(varies: str) -> None:
    """Entities that are easy or hard as base, as source or as both; two kinds of pairs, of which one is mostly right."""
    rng, n, per = np.random.default_rng(0), 40, 8
    base = np.repeat(np.arange(n), per)
    kind, truth, covered = np.arange(n * per) % 2, np.array([0.5, 0.8]), []
    for i in range(200):
        source = (base + rng.integers(1, n, n * per)) % n
        ease = 0.3 * rng.choice([-1, 1], size=n) * 2 / 3
        shift = {"base": ease[base], "source": ease[source], "both": (ease[base] + ease[source]) / 2}[varies]
        right = (rng.random(n * per) < truth[kind] + shift).astype(float)
        one = _share(np.full(n * per, 1 / (n * per)), right, kind, (base, source), Config(n_bootstrap=400, seed=i))
        assert one.low is not None and one.high is not None and one.value is not None and one.low < one.value < one.high
        covered.append(one.low <= truth.mean() <= one.high)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_kinds_that_are_wholly_right_and_wholly_wrong_are_not_beyond_doubt() -> None:
    """Doing nothing is right in exactly half of such pairs, and yet of few."""
    side, right = np.arange(20), np.arange(20) % 2.0
    one = _share(np.full(20, 1 / 20), right, np.arange(20) % 2, (side, side + 20), Config())
    assert one.value == 0.5 and one.low is not None and one.high is not None
    assert 0.35 < one.low < 0.47 and one.high == pytest.approx(1 - one.low)
