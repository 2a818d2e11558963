"""Localization on networks whose variables lie in known places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import armillary as arm
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.edits import Interchange
from armillary.core.encoders import LinearEncoder
from armillary.core.rows import TensorRows
from armillary.core.site import Source
from armillary.core.study import Subject
from armillary.core.task import Pair, Prompt, Task
from armillary.errors import CapabilityError, InputError, UnknownNameError
from armillary.studies.causal import localization
from armillary.studies.causal.interchange import Bench, Whole, Within
from armillary.studies.causal.localization import Config, run
from armillary.studies.causal.masks import Coordinates, attribution, difference
from planted_lm import STREAM, Planted, planted_lm
from support import tiny_lm

AXES = planted_lm(rotated=False)
PLACE = [(STREAM, "entity"), (STREAM, "last")]
QUICK = {"n_bootstrap": 100, "max_pairs": 60, "n_random": 2}


@cache
def bench(batch_tokens: int = 2048, max_pairs: int | None = 60) -> Bench:
    return Bench(AXES.lm, AXES.task, PLACE, batch_tokens=batch_tokens, max_pairs=max_pairs)


def rows(planted: Planted, x: Tensor | None = None) -> TensorRows:
    return TensorRows(planted.entities if x is None else x, source=planted.lm.source(STREAM))


def axes(planted: Planted = AXES) -> Decomposition:
    """Every dimension a feature of its own."""
    eye, layout = torch.eye(16), rows(planted).layout
    return Decomposition(Dictionary.of_directions(eye), LinearEncoder(eye, torch.zeros(16)), layout, layout)


def subject(what: Decomposition | None = None, planted: Planted = AXES, **more: Any) -> Subject:
    return Subject(axes() if what is None else what, model=planted.lm, task=planted.task, **more)


# ---------------------------------------------------------------- interchange


@pytest.mark.parametrize("variable", ["colour", "shape"])
def test_the_true_subspace_carries_the_variable_and_nothing_else(variable: str) -> None:
    trials, x = bench().trials[variable, "test"], bench().x[STREAM, "entity"]
    true, other = (AXES.colour, AXES.shape) if variable == "colour" else (AXES.shape, AXES.colour)
    assert trials.score(trials.right("entity", Within(STREAM, x, true))) == 1
    right = trials.right("entity", Within(STREAM, x, other))
    assert not right.any(), "the other variable changes when it must not, and this one stays"
    rest = torch.eye(16)[8:]
    assert trials.score(trials.right("entity", Within(STREAM, x, rest))) == 0.5, "what no answer is read from does nothing"


@pytest.mark.parametrize("variable", ["colour", "shape"])
def test_nothing_and_everything_both_give_one_half(variable: str) -> None:
    trials = bench().trials[variable, "test"]
    nothing, everything = bench().nothing(variable), bench().everything(variable, STREAM, "entity")
    causes = np.array([pair.kind == "cause" for pair in trials.pairs])
    assert trials.score(nothing) == trials.score(everything) == 0.5
    assert (nothing == ~causes).all() and (everything == causes).all()


def test_a_prompt_s_own_activation_changes_no_logit() -> None:
    trials = bench().trials["colour", "test"]
    which, x = np.arange(6), bench().x[STREAM, "entity"]
    plain, own = trials._runs[0].take(trials._runs[1][which]), replace(trials, source=trials.base)
    before = AXES.lm.logits(plain.tokens)
    coordinates = Coordinates(axes(), x, STREAM, "entity")
    for change in (Whole(STREAM, x), Within(STREAM, x, AXES.colour), coordinates.change(torch.ones(len(coordinates)))):
        with torch.no_grad():
            assert torch.equal(own.logits(which, "entity", change)[1], before)


def test_features_are_exchanged_as_the_edit_does_it() -> None:
    fit = arm.MFA(n_regions=4, rank=2).fit(AXES.entities.repeat(4, 1), seed=0)
    x, trials = bench().x[STREAM, "entity"], bench().trials["colour", "train"]
    coordinates = Coordinates(fit, x, STREAM, "entity")
    chosen = coordinates.names[:2]
    mask = torch.isin(coordinates.names, chosen).float()

    def edit(base: Any, source: Any, where: Any) -> Interchange:
        return Interchange(STREAM, x[torch.from_numpy(source)][:, None], fit, tuple(chosen.tolist()), where=where)

    with torch.no_grad():
        ours, theirs = (trials.logits(np.arange(20), "entity", change)[1] for change in (coordinates.change(mask), edit))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 7, 50])
def test_no_result_depends_on_batches_and_the_last_one_counts(batch_tokens: int) -> None:
    one, other = bench(), bench(batch_tokens)
    for variable in ("colour", "shape"):
        here, there = one.trials[variable, "test"], other.trials[variable, "test"]
        assert here.pairs == there.pairs and sum(map(len, there.batches())) == len(there)
        found = [b.trials[variable, "test"].right("entity", Within(STREAM, b.x[STREAM, "entity"], AXES.colour[:1])) for b in (one, other)]
        assert (found[0] == found[1]).all() and 0 < found[0].mean() < 1


def test_every_prompt_is_answered_once_and_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, read = [], []
    logits, capture = type(AXES.lm).logits, type(AXES.lm).capture

    def texts(tokens: Any) -> list[str]:
        return [" ".join(map(str, tokens.ids[a:b])) for a, b in zip(tokens.starts, tokens.starts[1:], strict=False)]

    def counted_logits(self: Any, tokens: Any, *, edits: Sequence[Any] = (), **more: Any) -> Tensor:
        asked.extend(texts(tokens) if not edits else [])
        found: Tensor = logits(self, tokens, edits=edits, **more)
        return found

    def counted_capture(self: Any, tokens: Any, sites: Any, **more: Any) -> Any:
        read.extend(texts(tokens))
        return capture(self, tokens, sites, **more)

    monkeypatch.setattr(type(AXES.lm), "logits", counted_logits)
    monkeypatch.setattr(type(AXES.lm), "capture", counted_capture)
    config = Config(select="difference", sizes=(3,), **QUICK)
    run([subject(name="a"), subject(name="b")], config=config)
    assert len(asked) == len(set(asked)) > 100
    assert len(read) == len(set(read)) > 50


def test_only_pairs_the_model_can_do_are_kept_and_their_share_is_told() -> None:
    wrong = [replace(pair, base=replace(pair.base, answer=" the")) if i % 4 == 0 else pair for i, pair in enumerate(AXES.task.test)]
    report = run(
        Subject(axes(), model=AXES.lm, task=replace(AXES.task, test=tuple(wrong))),
        config=Config(
            select="all",
            **QUICK,
        ),
    )
    # The prompt with a wrong answer is wrong in every pair that has it so.
    table = report.tables["kept"]
    test = [i for i, split in enumerate(table["split"]) if split == "test"]
    assert report["kept"].value == pytest.approx(sum(table["kept"][i] for i in test) / sum(table["pairs"][i] for i in test))
    assert 0.5 < report["kept"].value < 0.95
    assert all(table["share"][i] == 1 for i, split in enumerate(table["split"]) if split == "train")


def test_a_task_the_model_cannot_do_is_missing_and_not_zero() -> None:
    def spoilt(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        return tuple(replace(p, base=replace(p.base, answer=" the")) if p.variable == "shape" else p for p in pairs)

    task = replace(AXES.task, train=spoilt(AXES.task.train), test=spoilt(AXES.task.test))
    report = run(Subject(axes(), model=AXES.lm, task=task), config=Config(select="all", **QUICK))
    missing = report["iia: shape"]
    assert missing.value is None and "answers both prompts of none of 60 train pairs of 'shape'" in missing.reason
    assert report["iia: colour"].value is not None
    assert any("shape: the model answers" in line for line in report.warnings)


def test_pairs_are_counted_by_label_even_where_the_answer_stays() -> None:
    """A cause pair whose two values agree is still a cause pair: nothing is told by comparing tokens."""
    same = [pair for pair in AXES.task.test if (pair.variable, pair.kind) == ("colour", "cause")][:10]
    like = [replace(pair, source=pair.base, expected=pair.base.answer) for pair in same]
    task = replace(AXES.task, test=(*AXES.task.test, *like))
    table = run(Subject(axes(), model=AXES.lm, task=task), config=Config(select="all", **{**QUICK, "max_pairs": None})).tables["kept"]
    count = {(v, s, k): n for v, s, k, n in zip(*(table[name] for name in ("variable", "split", "kind", "pairs")), strict=True)}
    plain = sum((pair.variable, pair.kind) == ("colour", "cause") for pair in AXES.task.test)
    assert count["colour", "test", "cause"] == plain + len(like)


def test_pairs_are_drawn_evenly_over_kinds_and_by_the_seed() -> None:
    drawn = bench().drawn["colour", "train"]
    assert len(drawn) == 60 and {sum(pair.kind == kind for pair in drawn) for kind in ("cause", "isolate:shape")} == {30}
    again, other = (Bench(AXES.lm, AXES.task, PLACE, max_pairs=60, seed=seed).drawn["colour", "train"] for seed in (0, 1))
    assert again == drawn and other != drawn


def test_a_source_that_asks_nothing_is_never_wrong() -> None:
    pair = AXES.task.train[0]
    neutral = Prompt(pair.source.groups["entity"], "", spans={"entity": (0, len(pair.source.groups["entity"]))})
    made = Bench(AXES.lm, Task("t", (replace(pair, source=neutral),), AXES.task.test), PLACE[:1], variables=("colour",))
    assert len(made.trials["colour", "train"]) == 1


def test_a_prompt_longer_than_the_context_is_an_input_error() -> None:
    lm, long = tiny_lm("gpt2"), Prompt("the cat " * 80, " sat")
    task = Task("long", (Pair(long, long, "x", " sat", "k"),), (Pair(long, long, "x", " sat", "k"),))
    with pytest.raises(InputError, match=r"reads at most 64"):
        Bench(lm, task, [(arm.Site("resid_post", 1), "last")])


# ---------------------------------------------------------------- choosing features


@pytest.mark.parametrize("variable", ["colour", "shape"])
@pytest.mark.parametrize("select", ["mask", "attribution", "difference"])
def test_the_planted_features_are_chosen(select: str, variable: str) -> None:
    own = {"colour": [0, 1, 2], "shape": [3, 4, 5]}[variable]
    config = Config(select=select, variables=(variable,), sizes=(3,), positions=("entity",), **{**QUICK, "max_pairs": 200})
    report = run(subject(planted=planted_lm(rotated=False, noise=0.5)), config=config)
    assert report.tables["variables"]["which"] == [", ".join(map(str, own))]
    assert report[f"disentangle: {variable}"].value == 1 and report[f"n_features: {variable}"].value == 3


def test_scores_of_features_say_what_the_mask_would_do() -> None:
    trials = bench().trials["colour", "train"]
    coordinates = Coordinates(axes(), bench().x[STREAM, "entity"], STREAM, "entity")
    by_gradient = attribution(trials, coordinates)
    assert set(by_gradient.topk(3).indices.tolist()) == {0, 1, 2}
    place = {int(name): i for i, name in enumerate(coordinates.names)}
    assert all(by_gradient[place[i]] < 0 for i in (3, 4, 5)), "exchanging the shape spoils what is to stay"
    assert set(coordinates.names[difference(trials, coordinates).topk(3).indices].tolist()) == {0, 1, 2}
    unknown = replace(trials, pairs=tuple(replace(p, base=replace(p.base, values={})) for p in trials.pairs))
    with pytest.raises(InputError, match="needs each prompt's value of 'colour'"):
        difference(unknown, coordinates)


def test_a_fixed_number_of_features_is_kept() -> None:
    report = run(subject(), config=Config(n_features=5, n_steps=(20,), penalties=(0.0,), variables=("colour",), **QUICK))
    assert report["n_features: colour"].value == 5


def test_regions_carry_a_category_better_than_as_many_components() -> None:
    """Colours are clusters in noise as wide as they lie apart: a region is a category, while a component is of several and of noise."""
    planted = planted_lm(noise=0.6, shapes=0.0)
    generator = torch.Generator().manual_seed(0)
    colour = torch.randint(3, (3000,), generator=generator)
    noise = torch.linalg.svd(planted.entities - planted.entities @ planted.colour.T @ planted.colour)[2][:8]
    x = rows(planted, planted.colour[colour] + 0.6 * torch.randn(3000, 8, generator=generator) @ noise)
    causes = {
        split: tuple(p for p in getattr(planted.task, split) if (p.variable, p.kind) == ("colour", "cause")) for split in ("train", "test")
    }
    task = replace(planted.task, **causes, positions=("entity",))
    fits = {"mfa": arm.MFA(n_regions=3, rank=2).fit(x, seed=0), "pca": arm.PCA(n_components=16).fit(x)}
    subjects = [Subject(fit, model=planted.lm, task=task, name=name) for name, fit in fits.items()]
    report = run(subjects, config=Config(n_features=3, **QUICK))
    assert report["mfa: iia: colour"].value > max(0.9, report["pca: iia: colour"].value)
    centroids = run(subjects[0], config=Config(n_features=3, roles="centroids", **QUICK))
    assert centroids["iia: colour"].value > 0.9, "of a category the centroids are enough"
    with pytest.raises(InputError, match="has no loadings"):
        run(subjects[1], config=Config(roles="loadings", **QUICK))


def test_atoms_can_be_chosen_one_by_one() -> None:
    fit = arm.MFA(n_regions=3, rank=2).fit(AXES.entities.repeat(4, 1), seed=0)
    x = bench().x[STREAM, "entity"]
    grouped, flat = (Coordinates(fit, x, STREAM, "entity", units=units) for units in ("feature", "atom"))
    assert len(grouped) == 3 and len(flat) == 9 and grouped.atoms.equal(flat.atoms)
    of_role = [Coordinates(fit, x, STREAM, "entity", roles=roles) for roles in ("centroids", "loadings")]
    assert [len(one.atoms) for one in of_role] == [3, 6]


def test_a_fit_may_read_one_site_and_write_another() -> None:
    """The embedding is what the stream holds, so features carried over from there do the same."""
    read = Source("planted", "r", arm.Site.parse("path:embed"))
    inner = replace(axes(), inputs=((read, 16),), targets=((read, 16),))
    fit = inner.through(torch.eye(16), Source("planted", "r", STREAM))
    config = Config(variables=("colour",), positions=("entity",), **QUICK)
    ours, own = run(subject(fit), config=config), run(subject(), config=config)
    assert ours["disentangle: colour"].value == own["disentangle: colour"].value == 1


# ---------------------------------------------------------------- the report


@cache
def both() -> arm.Report:
    pca = arm.PCA(n_components=16).fit(rows(AXES))
    das = arm.DAS(rank=2, n_epochs=30).fit(arm.Pairs.of(AXES.lm, STREAM, "entity", AXES.task.train, variable="colour"))
    return run([subject(axes(), name="axes"), subject(pca, name="pca"), subject(das, name="das")], config=Config(**QUICK))


def test_nulls_ceilings_and_positions_stand_beside_the_scores() -> None:
    report = both()
    for variable in ("colour", "shape"):
        one = report[f"axes: disentangle: {variable}"]
        assert one.value == 1 and one.null is not None and 0.5 <= one.null < 0.9 and one.ceiling == pytest.approx(1)
        assert (report[f"axes: cause: {variable}"].ceiling, report[f"axes: isolate: {variable}"].null) == (1, 0)
    assert report["axes: disentangle"].value == 1 and report["axes: kept"].value == 1
    table = report.tables["axes: positions"]
    assert set(table["position"]) == {"entity", "last"} and len(table["kind"]) == 8
    assert {p for p, is_best in zip(table["position"], table["is best"], strict=True) if is_best} == {"entity"}


def test_das_is_a_subject_like_any_other() -> None:
    report = both()
    assert report["das: disentangle: colour"].value == 1 and report["das: n_features: colour"].value == 1
    assert report["das: disentangle: shape"].value == pytest.approx(0.5)


def test_subjects_are_compared_on_the_same_entities() -> None:
    report = both()
    units = [report[f"{name}: disentangle"].units for name in ("axes", "pca", "das")]
    assert all(one is not None and one.kind == "base entity" and (one.ids == units[0].ids).all() for one in units)
    entities = {pair.base.groups["entity"] for pair in AXES.task.test}
    assert len(units[0]) <= len(entities)
    found = dict(zip(report.tables["differences"]["estimate"], report.tables["differences"]["verdict"], strict=False))
    assert found["disentangle: colour"] is not None


def test_a_task_that_is_not_about_entities_is_scored_by_kinds_alone() -> None:
    plain = [replace(pair, kind="swap") for pair in AXES.task.train if pair.kind == "cause"]
    test = [replace(pair, kind="swap") for pair in AXES.task.test if pair.kind == "cause"]
    report = run(
        Subject(axes(), model=AXES.lm, task=Task("t", tuple(plain), tuple(test), ("entity",))), config=Config(select="all", **QUICK)
    )
    assert not any(name.startswith(("cause", "isolate", "disentangle")) for name in report.estimates)
    assert report["iia: colour"].value == report["iia: colour"].ceiling == 1 and report["iia: colour"].null < 1


def test_what_is_missing_or_unknown_is_said() -> None:
    with pytest.raises(InputError, match=r"pass Subject\(.*task=\.\.\.\), or --task"):
        run(Subject(axes(), model=AXES.lm))
    with pytest.raises(UnknownNameError, match=r"unknown variable of the task 'planted' 'color'.*colour"):
        run(subject(), config=Config(variables=("color",)))
    nameless = arm.PCA(n_components=2).fit(AXES.entities)
    with pytest.raises(InputError, match="does not name one"):
        run(subject(nameless))
    with pytest.raises(InputError, match="0 test pairs; both are needed"):
        run(Subject(axes(), model=AXES.lm, task=replace(AXES.task, test=())))
    with pytest.raises(CapabilityError, match="an encoder"):
        run(Subject(axes(), model=tiny_lm("bert"), task=AXES.task))


def test_the_study_names_no_method() -> None:
    assert localization.needs == {"fit", "logits", "task"}
