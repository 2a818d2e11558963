"""DAS finds the subspace a model keeps a variable in, through the model alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import armillary as arm
from armillary.core.pairs import Pairs, weights
from armillary.core.task import Pair, Prompt
from armillary.errors import InputError, NonFiniteError, ShapeError
from planted_lm import STREAM, planted_lm

PLANTED = planted_lm()


def of(variable: str, **more: Any) -> Pairs:
    return Pairs.of(PLANTED.lm, STREAM, "entity", PLANTED.task.train, variable=variable, **more)


def differences(values: Tensor) -> Tensor:
    """[2, D] orthonormal rows that span the differences of three values."""
    return torch.linalg.svd(values - values.mean(0))[2][:2]


@pytest.mark.parametrize("variable", ["colour", "shape"])
def test_the_planted_subspace_is_found(variable: str) -> None:
    fit = arm.DAS(rank=2, n_epochs=30).fit(of(variable), seed=0)
    cosines = torch.linalg.svdvals(fit.dictionary.atoms @ differences(getattr(PLANTED, variable)).T)
    assert cosines.min() > 0.95
    other = PLANTED.shape if variable == "colour" else PLANTED.colour
    assert torch.linalg.svdvals(fit.dictionary.atoms @ differences(other).T).max() < 0.3


def test_the_fit_is_one_subspace_that_is_exchanged_exactly() -> None:
    fit = arm.DAS(rank=3, n_epochs=1).fit(of("colour"), seed=0)
    assert fit.n_features == 1 and fit.dictionary.feature(0).kind == "subspace"
    q = fit.dictionary.atoms
    torch.testing.assert_close(q @ q.T, torch.eye(3), rtol=0, atol=1e-6)
    ours, theirs = PLANTED.entities[:8], PLANTED.entities[8:16]
    swapped = ours + fit.decode(fit.encode(theirs)) - fit.decode(fit.encode(ours))
    torch.testing.assert_close(swapped, ours + (theirs - ours) @ q.T @ q, rtol=0, atol=1e-5)
    torch.testing.assert_close(fit.encode(swapped).value, fit.encode(theirs).value, rtol=0, atol=1e-5)
    assert fit.site == STREAM
    assert fit.provenance["position"] == "entity" and fit.provenance["variables"] == ["colour"]


def test_learning_from_causes_alone_isolates_nothing() -> None:
    """Exchanging half of everything changes the answer too: only isolation asks that the rest stays."""
    alone = of("colour", kinds=("cause",))
    assert {pair.kind for pair in alone.pairs} == {"cause"}
    both, one = (arm.DAS(rank=8, n_epochs=30).fit(data, seed=0) for data in (of("colour"), alone))
    leaks = [float(torch.linalg.svdvals(fit.dictionary.atoms @ differences(PLANTED.shape).T).max()) for fit in (both, one)]
    assert leaks[0] < 0.3 < leaks[1]


def test_the_loss_falls_and_is_told() -> None:
    fit = arm.DAS(rank=2, n_epochs=12).fit(of("colour"), seed=0)
    losses = [point["loss"] for point in fit.provenance["curve"]]
    assert len(losses) == 12 and losses[-1] < losses[0] / 2
    assert fit.provenance["final"]["loss"] == losses[-1]


def test_pairs_of_a_task_are_chosen_by_variable_kind_and_what_the_model_can_do() -> None:
    assert {pair.variable for pair in of("shape").pairs} == {"shape"}
    assert {pair.kind for pair in of("shape", kinds=("isolate",)).pairs} == {"isolate:colour"}
    good = PLANTED.task.train[0]
    bad = replace(good, base=replace(good.base, answer=" flat" if good.base.answer != " flat" else " round"))
    assert Pairs.of(PLANTED.lm, STREAM, "entity", [good, bad]).pairs == (good,)
    assert len(Pairs.of(PLANTED.lm, STREAM, "entity", [good, bad], only_right=False)) == 2
    with pytest.raises(InputError, match="answers both prompts of none of 1 pairs"):
        Pairs.of(PLANTED.lm, STREAM, "entity", [bad])
    with pytest.raises(InputError, match=r"none of \d+ pairs is of variable 'size'.*colour \(cause\)"):
        of("size")


def test_the_rows_are_the_sources_at_the_position() -> None:
    data = of("colour")
    entity = torch.tensor([int(pair.source.groups["entity"][1:]) for pair in data.pairs])
    (batch,) = data.rows.batches(len(data))
    torch.testing.assert_close(batch.x, PLANTED.entities[entity], rtol=0, atol=1e-6)
    with pytest.raises(ShapeError, match="pairs need as many rows"):
        replace(data, pairs=data.pairs[:-1])


def test_cause_and_isolation_count_half_each_and_other_kinds_alike() -> None:
    def shares(*kinds: str) -> list[float]:
        return [float(one) for one in weights([Pair(Prompt("a", "b"), Prompt("a", "b"), "v", "b", kind) for kind in kinds])]

    assert shares("cause", "cause", "isolate:a", "isolate:b", "isolate:b") == [0.25, 0.25, 0.25, 0.125, 0.125]
    assert shares("cause", "cause") == [0.5, 0.5]
    assert shares("order", "both", "both", "both") == pytest.approx([0.5, 1 / 6, 1 / 6, 1 / 6])


def test_what_cannot_be_fitted_is_said() -> None:
    with pytest.raises(InputError, match=r"rank must be at most the width D=16, got 17; try rank=16"):
        arm.DAS(rank=17).fit(of("colour"))
    with pytest.raises(InputError, match=r"DAS learns through the model: pass Pairs\.of\("):
        arm.DAS().fit(PLANTED.entities)
    with pytest.raises(InputError, match="cannot go on from an earlier fit"):
        arm.DAS().fit(of("colour"), start=arm.PCA(n_components=1).fit(PLANTED.entities))


def test_a_model_that_overflows_is_no_silent_fit() -> None:
    from armillary.lm.model import LanguageModel
    from planted_lm import PlantedNet

    net = PLANTED.lm.module
    wild = PlantedNet(net.embed.weight.detach().clone(), net.reading.detach() * float("inf"), torch.arange(6))
    data = replace(of("colour"), model=LanguageModel(wild, PLANTED.lm.tokenizer))
    with pytest.raises(NonFiniteError, match="not finite at step 0"):
        arm.DAS(n_epochs=1).fit(data)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    fit = arm.DAS(rank=2, n_epochs=2).fit(of("colour"))
    again = arm.load(fit.save(tmp_path / "das"))
    assert torch.equal(again.encode(PLANTED.entities).value, fit.encode(PLANTED.entities).value)
    assert again.provenance["method"] == "DAS" and again.provenance["options"]["rank"] == 2
