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
from armillary.core.codes import Codes, sparse_codes
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.edits import Interchange
from armillary.core.encoders import Encoder, LinearEncoder
from armillary.core.rows import TensorRows
from armillary.core.site import Source
from armillary.core.statistics import wilson_interval
from armillary.core.study import Subject
from armillary.core.task import Pair, Prompt, Task
from armillary.errors import CapabilityError, InputError, NonFiniteError, UnknownNameError
from armillary.studies.causal import localization
from armillary.studies.causal.interchange import Bench, Whole, Within
from armillary.studies.causal.localization import Config, run
from armillary.studies.causal.masks import ROWS, Coordinates, attribution, difference, learn
from planted_lm import STREAM, Planted, planted_lm, prompt
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


def spoilt(pairs: Sequence[Pair], kind: str) -> tuple[Pair, ...]:
    """Sources of one kind of pair are given an answer the model does not give."""
    return tuple(replace(p, source=replace(p.source, answer=" the")) if p.kind.startswith(kind) else p for p in pairs)


def colours(**more: Any) -> Task:
    splits = {split: tuple(p for p in getattr(AXES.task, split) if p.variable == "colour") for split in ("train", "test")}
    return replace(AXES.task, positions=("entity",), **{**splits, **more})


@pytest.mark.parametrize("kind", ["cause", "isolate"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_task_without_a_cause_the_model_can_do_is_not_scored_by_what_is_left(split: str, kind: str) -> None:
    task = colours()
    task = replace(task, **{split: spoilt(getattr(task, split), kind)})
    report = run(Subject(axes(), model=AXES.lm, task=task), config=Config(select="all", **QUICK))
    for measure in ("iia", "disentangle", "cause"):
        missing = report[f"{measure}: colour"]
        assert missing.value is None and f"none of the '{kind}' pairs of 'colour' in the {split}" in missing.reason
    assert report["kept: colour"].value is not None
    assert any(f"none of the '{kind}' pairs" in line for line in report.warnings)


def test_pairs_held_back_without_a_cause_choose_nothing() -> None:
    trials = bench(max_pairs=None).trials["colour", "train"]
    held = {pair.base.groups["entity"] for pair in trials.split(0.25, 0).choose_by.pairs}
    train = tuple(pair for pair in trials.pairs if pair.kind != "cause" or pair.base.groups["entity"] not in held)
    config = Config(select="all", **{**QUICK, "max_pairs": None})
    report = run(Subject(axes(), model=AXES.lm, task=colours(train=train)), config=config)
    assert report["disentangle: colour"].value is None
    assert "held back the model can do none of kind 'cause'" in report["iia: colour"].reason


def test_a_kind_that_is_lost_is_named() -> None:
    kinds = {" red": "one", " green": "two", " blue": "two"}
    pairs = {
        split: tuple(replace(p, kind=kinds[p.base.answer]) for p in getattr(colours(), split) if p.kind == "cause")
        for split in ("train", "test")
    }
    task = colours(train=pairs["train"], test=spoilt(pairs["test"], "one"))
    report = run(Subject(axes(), model=AXES.lm, task=task), config=Config(select="all", **QUICK))
    assert report["iia: colour"].value == 1
    assert any("the model can do no test pair of kind 'one'" in line for line in report.warnings)


def test_no_fit_learns_from_what_is_left_of_a_task() -> None:
    with pytest.raises(InputError, match=r"both prompts of none of \d+ 'cause' pairs; choose a task it can do"):
        arm.Pairs.of(AXES.lm, STREAM, "entity", spoilt(colours().train, "cause"))
    assert arm.Pairs.of(AXES.lm, STREAM, "entity", spoilt(colours().train, "cause"), kinds=("isolate",))


def test_what_is_held_back_is_in_no_pair_that_is_learnt_from() -> None:
    trials = bench(max_pairs=None).trials["colour", "train"]
    halves = trials.split(0.25, 0)
    held = {pair.base.groups["entity"] for pair in halves.choose_by.pairs}
    learnt = {prompt.groups["entity"] for pair in halves.learn_from.pairs for prompt in (pair.base, pair.source)}
    assert len(held) == round(0.25 * len(np.unique(trials.unit))) and not held & learnt and not halves.shared
    assert len(halves.learn_from) > len(trials) / 4


def test_pairs_that_would_leave_too_few_are_kept_and_told() -> None:
    """Of three entities, each taken from by both others, two are held back."""
    few = {i: {asked: prompt(AXES.values, i, asked) for asked in ("colour", "shape")} for i in (0, 4, 8)}
    train = tuple(
        Pair(few[i][asked], few[j][asked], "colour", few[j if kind == "cause" else i][asked].answer, kind)
        for i in few
        for j in few
        for asked, kind in (("colour", "cause"), ("shape", "isolate:shape"))
        if i != j
    )
    report = run(Subject(axes(), model=AXES.lm, task=colours(train=train)), config=Config(select="all", validation=0.6, **QUICK))
    assert any("are sources in pairs learnt from" in line for line in report.warnings)
    assert report["iia: colour"].value is not None


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


class Firing(Encoder):
    """As many slots as the fullest row of those it is given has."""

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        most = int((x > 0.5).sum(1).max())
        value, index = x.clamp_min(0.5).sub(0.5).topk(most)
        return sparse_codes(value, index, x.shape[1])


def test_codes_may_differ_in_slots_between_parts() -> None:
    x = torch.zeros(ROWS + 3, 16)
    x[:, 2], x[0, :9], x[-1, 15] = 1.0, 2.0, 3.0
    layout = rows(AXES).layout
    fit = Decomposition(Dictionary.of_directions(torch.eye(16)), Firing(), layout, layout)
    codes = Coordinates(fit, x, STREAM, "entity").codes
    assert codes.index is not None and codes.value.shape == codes.index.shape == (ROWS + 3, 9)
    torch.testing.assert_close(codes.dense(), x.sub(0.5).clamp_min(0))


def test_a_loss_that_is_not_finite_is_no_empty_mask() -> None:
    trials = bench().trials["colour", "train"]
    coordinates = Coordinates(axes(), bench().x[STREAM, "entity"], STREAM, "entity")
    coordinates.vectors = torch.full_like(coordinates.vectors, torch.inf)
    with pytest.raises(NonFiniteError, match="the loss of a mask at step 0 or its gradient is not finite"):
        learn(trials, coordinates, n_steps=3, penalty=0.0, config=Config())
    with pytest.raises(NonFiniteError, match="the loss of attribution or its gradient is not finite"):
        attribution(trials, coordinates)


@pytest.mark.parametrize(
    "wrong", [{"penalties": ()}, {"penalties": (-1.0,)}, {"n_steps": ()}, {"n_steps": (0,)}, {"sizes": ()}, {"sizes": (4, 0)}]
)
def test_settings_that_try_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"option '{next(iter(wrong))}' of Config: .*at least 1|.*greater than or equal to"):
        Config(**wrong)


def test_more_features_than_there_are_is_all_of_them() -> None:
    config = Config(select="attribution", n_features=99, variables=("colour",), positions=("entity",), **QUICK)
    report = run(subject(), config=config)
    n = int(report["n_features: colour"].value or 0)
    assert 0 < n <= 16 and report.tables["variables"]["setting"] == [f"{n} features"]


# ---------------------------------------------------------------- the report


def test_what_is_always_right_still_has_an_interval() -> None:
    one = both()["axes: disentangle: colour"]
    assert one.units is not None and one.value == 1
    assert (one.low, one.high) == (pytest.approx(wilson_interval(len(one.units), len(one.units))[0]), 1.0) and one.low < 1
    assert both()["axes: kept: colour"].low < 1 and both()["axes: isolate: colour"].low < 1


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
