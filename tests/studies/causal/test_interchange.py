"""What a bench of a task's pairs leaves out, and what it says of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import armillary as arm
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import LinearEncoder
from armillary.core.rows import TensorRows
from armillary.core.study import Subject
from armillary.core.task import Pair, Task
from armillary.errors import InputError
from armillary.studies.causal.interchange import Bench, unit_id
from armillary.studies.causal.localization import Config, run
from planted_lm import STREAM, planted_lm

AXES = planted_lm(rotated=False)
PLACE = [(STREAM, "entity")]
QUICK = Config(select="all", positions=("entity",), n_bootstrap=100, max_pairs=60, n_random=1)


def axes() -> Decomposition:
    eye, layout = torch.eye(16), TensorRows(AXES.entities, source=AXES.lm.source(STREAM)).layout
    return Decomposition(Dictionary.of_directions(eye), LinearEncoder(eye, torch.zeros(16)), layout, layout)


def joined(pairs: Sequence[Pair], which: Callable[[int, Pair], bool]) -> tuple[Pair, ...]:
    """Some pairs with an answer that the tokenizer reads as the end of the prompt's last word."""
    return tuple(replace(pair, expected=pair.expected.strip()) if which(i, pair) else pair for i, pair in enumerate(pairs))


def of(which: Callable[[int, Pair], bool], *splits: str) -> Task:
    return replace(AXES.task, **{split: joined(getattr(AXES.task, split), which) for split in splits or ("train", "test")})


def looked_for(task: Task, **more: Any) -> arm.Report:
    return run(Subject(axes(), model=AXES.lm, task=task), config=QUICK.model_copy(update=more))


def test_pairs_that_a_tokenizer_joins_are_left_out_before_any_are_drawn() -> None:
    bench = Bench(AXES.lm, of(lambda i, pair: i % 3 == 0), PLACE, max_pairs=60)
    for key, left in bench.left_out.items():
        pairs = [pair for pair in getattr(AXES.task, key[1]) if pair.variable == key[0]]
        assert 0 < len(left) < len(pairs) and all(pair.expected == pair.expected.strip() for pair in left)
        assert len(bench.drawn[key]) == len(bench.trials[key]) == 60, "as many as were asked for are left"


def test_a_report_counts_them_and_gives_one() -> None:
    task = of(lambda i, pair: i in (3, 4))
    report = looked_for(task)
    told = "4 pairs left out: the tokenizer does not keep a prompt apart from its answer, such as in that of "
    assert report.warnings[0] in [f"{told}base {pair.base.text!r} and source {pair.source.text!r}" for pair in task.train[3:5]]
    assert not any("left out" in line for line in looked_for(AXES.task).warnings)


def test_a_variable_of_which_none_is_left_is_missing() -> None:
    report = looked_for(of(lambda i, pair: pair.variable == "shape", "test"))
    n = sum(pair.variable == "shape" for pair in AXES.task.test)
    assert report["iia: shape"].value is None and f"apart in none of {n} test pairs of 'shape'" in report["iia: shape"].reason
    assert report["iia: colour"].value is not None


@pytest.mark.parametrize("split", ["train", "test"])
def test_without_the_causes_what_is_left_is_not_scored(split: str) -> None:
    report = looked_for(of(lambda i, pair: pair.kind == "cause" and pair.variable == "colour", split))
    for measure in ("iia", "disentangle", "isolate"):
        reason = report[f"{measure}: colour"].reason
        assert report[f"{measure}: colour"].value is None
        assert reason == f"the tokenizer keeps prompt and answer apart in none of the 'cause' pairs of 'colour' in the {split}"


def test_a_task_of_which_nothing_is_left_is_an_error() -> None:
    with pytest.raises(InputError, match="does not keep prompt and answer apart in any of"):
        looked_for(of(lambda i, pair: True))


def test_pairs_to_fit_to_have_their_sources_activations_without_reading_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(AXES.lm, AXES.task, PLACE, max_pairs=60)
    trials = bench.trials["colour", "train"]
    monkeypatch.setattr(type(AXES.lm), "capture", lambda *args, **more: pytest.fail("read again"))
    pairs = bench.pairs(trials, *PLACE[0])
    (batch,) = pairs.rows.batches(len(trials))
    entity = [int(pair.source.groups["entity"][1:]) for pair in trials.pairs]
    torch.testing.assert_close(batch.x, AXES.entities[entity], rtol=0, atol=1e-6)
    assert pairs.rows.layout == axes().inputs and pairs.position == "entity"


def test_units_of_bases_and_sources_are_the_same_entities() -> None:
    trials = Bench(AXES.lm, AXES.task, PLACE, max_pairs=60).trials["colour", "test"]
    assert trials.source_unit.tolist() == [unit_id(pair.source) for pair in trials.pairs]
    assert np.isin(trials.source_unit, trials.unit).any()
