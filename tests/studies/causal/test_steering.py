"""The steering study: features whose words are known, what is counted, and what is said where nothing can be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import armillary as arm
from armillary.core.dictionary import Dictionary
from armillary.core.report import Report
from armillary.core.rows import TensorRows
from armillary.core.site import Source
from armillary.errors import CapabilityError, InputError, MismatchError, ShapeError
from armillary.studies.causal import steering
from armillary.studies.causal.edit_families import adding
from armillary.studies.causal.steering import Config
from armillary.studies.causal.steering_aims import Aim
from armillary.studies.causal.steering_evidence import Gather
from armillary.studies.causal.steering_measured import Measured, Steered
from armillary.studies.causal.steering_report import Reporter, without_gaps
from armillary.studies.causal.steering_writing import Point, Sampled, Texts, Writer
from armillary.studies.causal.strength import Dose
from steered import SITE, SMALL, WORDS, planted, pushes, report, rows, subject, world
from support import ending_lm, tiny_lm
from toys import ReluEncoder


def numbers(report: Report) -> dict[str, Any]:
    return {key: value for key, value in report.to_json().items() if key != "seconds"}


# ---------------------------------------------------------------- what is found


def test_features_write_about_what_they_fire_on_and_random_directions_do_not() -> None:
    found = report()
    assert found.tables["features"]["feature"] in ([0, 1], [1, 0])
    for name in ("area", "concept", "log_odds", "own", "score"):
        one = found[name]
        assert one.value is not None and one.null is not None and one.value > one.null, name
        assert one.n == 2 and one.units is not None and one.units.kind == "feature"
    assert found["above_random"].value == pytest.approx(found["area"].value - found["area"].null)
    assert found["area_against"].value < found["area"].value
    assert 0 <= found["area"].value <= 1 and found["reached"].value > 0


def test_strengths_of_either_sign_have_the_wanted_effect_or_are_said_not_to() -> None:
    table = report().tables["strengths"]
    along = {name: [i for i, one in enumerate(table["along"]) if one == name] for name in dict.fromkeys(table["along"])}
    assert list(along) == ["feature", "against it", "random direction", "DiffMeans"]
    for i, value in enumerate(table["strength"]):
        if value is None:
            assert table["note"][i] in ("unreachable", "jumped over")
        else:
            assert table["KL"][i] == pytest.approx(table["KL wanted"][i], rel=0.05)
    assert all((table["strength"][i] or -1) < 0 for i in along["against it"])
    pairs = list(zip(along["feature"], along["against it"], strict=True))
    assert all(abs(table["strength"][i] or 1) != abs(table["strength"][j] or 2) for i, j in pairs)


def test_steered_text_differs_and_is_shown() -> None:
    table = report().tables["texts"]
    assert len(table["plain"]) == 4 and all(one != other for one, other in zip(table["plain"], table["steered"], strict=True))
    assert set(table["prompt"]) == {"We", "It"}


def test_the_area_of_the_curve_is_that_of_the_marks() -> None:
    curve = report().tables["curve"]
    assert curve["KL"] == list(SMALL.targets) * 4
    assert all(0 <= value <= 1 for name in ("concept", "fluency", "score") for value in curve[name] if value is not None)
    figure = report().figures["pareto"]["data"][0]
    assert (figure["x"][0], figure["y"][0]) == (1.0, 0.0) and len(figure["x"]) == 1 + sum(n > 0 for n in curve["features"][:3])


# ---------------------------------------------------------------- what it is made from


def gathered(batch_size: int = 4096) -> Any:
    consumer = Gather(planted(), rows(), [0, 1, 2], n=8, n_others=16, batch_size=batch_size, seed=0)
    arm.core.run.drive([consumer], rows())
    return consumer.finish()


def test_the_difference_of_means_is_of_the_rows_that_fire_and_without_special_tokens() -> None:
    found, (_, tokens, x) = gathered(), world()
    assert found.difference[:2].abs().max() < 10  # special rows are 1e6
    consumer = Gather(planted(), rows(), [0], n=8, n_others=16, batch_size=4096, seed=0)
    row = np.arange(len(x))
    first = consumer._is_first(row) & ~tokens.is_special
    fires = first & (x[:, 0] > 0.5).numpy()
    wanted = x[fires].double().mean(0) - x[first & ~fires].double().mean(0)
    torch.testing.assert_close(found.difference[0], wanted.float())
    assert found.n_fires.tolist()[0] == fires.sum() and found.n_fires.tolist()[2] == 0
    assert bool(found.difference[2].isnan().all())


def test_the_passages_are_of_other_documents_than_the_difference_of_means() -> None:
    found, (_, tokens, _) = gathered(), world()
    consumer = Gather(planted(), rows(), [0], n=8, n_others=16, batch_size=4096, seed=0)
    used = [row for row in np.concatenate([found.passages.ravel(), found.others]) if row >= 0]
    assert not consumer._is_first(np.array(used)).any() and not tokens.is_special[used].any()
    assert len(np.unique(tokens.document[found.passages[0]])) == 8  # one per document


# ---------------------------------------------------------------- what cannot be measured


def test_without_rows_features_are_scored_by_the_tokens_they_promote() -> None:
    found = steering.run(subject(rows=None), config=SMALL.model_copy(update={"features": (0, 1)}))
    assert found["area"].value > found["area"].null and "by the tokens they promote" in found.notes[0]
    assert found["log_odds"].value is None and found["above_diffmeans"].value is None
    assert "needs rows" in found["area_diffmeans"].reason
    assert "classifier of their passages" in report().notes[0]


def test_rows_without_text_still_say_which_features_fire() -> None:
    bare = TensorRows(world()[2], source=rows().layout[0][0])
    found = steering.run(subject(rows=bare), config=SMALL)
    assert "by the tokens they promote" in found.notes[0] and found["area_diffmeans"].value is not None
    assert 2 not in found.tables["features"]["feature"]


def test_a_feature_that_never_fires_is_missing_and_no_zero() -> None:
    found = steering.run(subject(), config=SMALL.model_copy(update={"features": (2,)}))
    assert found["area"].value is None and found["area"].reason == "no feature has one: it never fires on the rows"
    assert found.warnings[0] == "feature 2: it never fires on the rows"
    assert found.tables["features"]["missing"] == ["it never fires on the rows"]


def test_where_no_feature_fires_nothing_is_drawn() -> None:
    dead = planted(4).subset([2, 3, 4, 5])
    with pytest.raises(InputError, match="none of the 4 features that were looked at fires on 8 rows"):
        steering.run(subject(what=dead), config=SMALL)


def test_effects_that_cannot_be_had_are_said() -> None:
    found = steering.run(subject(), config=SMALL.model_copy(update={"targets": (1e6,), "features": (0,)}))
    assert found["area"].value is None and found["reached"].value == 0
    assert found.warnings == ["2 strengths could not be found: their KL is unreachable or jumped over; see the table"]
    assert set(found.tables["strengths"]["note"]) == {"unreachable"}


def test_concepts_that_are_not_in_the_tokens_are_missing() -> None:
    """The feature fires on every other document of either topic: no token tells of it."""
    _, tokens, x = world()
    coin = torch.from_numpy(tokens.document // 2 % 2 == 0).float()
    value = coin * (1 + torch.rand(len(coin), generator=torch.Generator().manual_seed(0)))
    other = torch.cat([value[:, None], x[:, 1:]], dim=1)
    found = steering.run(subject(rows=TensorRows(other, tokens=tokens)), config=SMALL.model_copy(update={"features": (0,)}))
    assert found["area"].value is None and "cannot be told from others by their tokens: AUROC 0." in found["area"].reason
    assert found["log_odds"].value is not None and found["own"].value is not None


def test_bad_input_is_refused() -> None:
    lm, _, x = world()
    with pytest.raises(InputError, match="from 0 to 1"):
        steering.run(subject(), config=Config(alphas=(0.5, 1.5)))
    with pytest.raises(InputError, match="prompts and KL targets above 0"):
        steering.run(subject(), config=Config(targets=(0.0,)))
    with pytest.raises(InputError, match="a fit with an encoder"):
        steering.run(arm.Subject(planted().dictionary, model=lm))
    with pytest.raises(CapabilityError, match="next-token logits"):
        steering.run(subject(model=tiny_lm("bert")))
    with pytest.raises(MismatchError, match="pass its own"):
        steering.run(subject(rows=TensorRows(x, source=Source("other", "abc", SITE))))
    with pytest.raises(InputError, match="does not name the one site"):
        steering.run(subject(what=replace(planted(), inputs=((None, 32),), targets=((None, 32),)), rows=None))
    with pytest.raises(ShapeError, match=r"whose 'mlp_act\.1' is 64 wide"):
        source = Source("tiny", "0", arm.Site("mlp_act", 1))
        steering.run(subject(what=replace(planted(), inputs=((source, 32),), targets=((source, 32),)), rows=None))
    with pytest.raises(InputError, match="reads at most"):
        steering.run(subject(), config=SMALL.model_copy(update={"n_tokens": 100}))
    with pytest.raises(InputError, match="out of range"):
        steering.run(subject(), config=SMALL.model_copy(update={"features": (9,)}))


# ---------------------------------------------------------------- regions, encoders, judges


def test_regions_are_moved_toward_their_centroid() -> None:
    lm, _, _ = world()
    fit = arm.MFA(n_regions=2, rank=1).fit(arm.core.rows.TensorRows(world()[2][~world()[1].is_special]), seed=0)
    layout = ((Source(lm.name, lm.revision, SITE), lm.d_model),)
    fit = replace(fit, inputs=layout, targets=layout)
    found = steering.run(subject(what=fit), config=SMALL.model_copy(update={"features": (0, 1), "alphas": (0.0, 0.8, 1.0)}))
    assert found.tables["features"]["kind"] == ["region", "region"]
    table = found.tables["alphas"]
    assert table["alpha"] == [0.0, 0.8, 1.0] * 2 and table["KL"][0] == 0 and table["concept"][0] == 0 and table["fluency"][0] == 1
    assert found["area_against"].value is None and "never away from it" in found["area_against"].reason
    assert found["area"].value is not None and found["area"].null is not None


def test_an_encoder_tells_how_like_the_passages_texts_are() -> None:
    found = steering.run(subject(), config=SMALL, encoder=tiny_lm("bert"))
    assert found["similarity"].value is not None and found["similarity"].n == 2
    assert "similarity" not in report().estimates


def strengths(found: Report) -> list[tuple[float | None, str]]:
    table = found.tables["strengths"]
    return list(zip(table["strength"], table["along"], strict=True))


class Reader:
    """A judge that looks for a topic's words, and counts."""

    def __init__(self, answer: str | None = None) -> None:
        self.answer, self.asked = answer, list[str]()

    def ask(self, prompts: Sequence[str]) -> list[str | None]:
        self.asked.extend(prompts)
        return [self._rating(prompt) if self.answer is None else self.answer or None for prompt in prompts]

    @staticmethod
    def _rating(prompt: str) -> str:
        concept, _, rest = prompt.partition("\n\nText: ")
        if not rest:
            return "2"
        text = rest.partition("\n\n")[0]
        topic = sum(word in concept for word in WORDS[0]) < sum(word in concept for word in WORDS[1])
        return str(min(2, sum(piece in text for word in WORDS[topic] for piece in (word, word[:2]))))


def test_a_judge_that_can_read_agrees_with_the_proxies() -> None:
    judge = Reader()
    found = steering.run(subject(), config=SMALL, judge=judge)
    n_texts = sum(value is not None and along in ("feature", "random direction") for value, along in strengths(found))
    assert len(judge.asked) == 3 * SMALL.n_judged * n_texts
    assert found["judge_concept"].value > found["judge_concept"].null and found["judge_fluency"].value is not None
    assert 0 <= found["judge_score"].value <= 2 and found["judge_score_axbench"].ceiling == 2
    table = found.tables["judge"]
    by_name = dict(zip(table["proxy"], table["rank_correlation"], strict=True))
    assert by_name["own"] > 0.2 and by_name["similarity"] is None
    assert {key: value for key, value in found.estimates.items() if not key.startswith("judge")} == report().estimates


@pytest.mark.parametrize("answer", ["", "As a language model I cannot rate this.", "5"])
def test_a_judge_that_fails_leaves_ratings_missing_and_that_is_said(answer: str) -> None:
    found = steering.run(subject(), config=SMALL, judge=Reader(answer))
    assert found["judge_score"].value is None and found["judge_score"].reason == "the judge gave no rating that can be read"
    assert any("ratings are missing" in warning for warning in found.warnings)
    assert found["area"] == report()["area"]


# ---------------------------------------------------------------- what is held against what


def test_random_features_do_not_beat_random_directions_by_their_own_tokens() -> None:
    """Whatever is added writes what it promotes: without rows, a random direction is known by its own tokens too."""
    lm, _, _ = world()
    atoms = torch.nn.functional.normalize(torch.randn(16, lm.d_model, generator=torch.Generator().manual_seed(5)), dim=1)
    layout = ((Source(lm.name, lm.revision, SITE), lm.d_model),)
    fit = arm.Decomposition(Dictionary.of_directions(atoms), ReluEncoder(atoms, torch.zeros(16)), layout, layout)
    some = SMALL.model_copy(update={"features": tuple(range(16)), "n_own": 30, "prompts": ("We",), "targets": (1.0, 2.5)})
    found = steering.run(subject(what=fit, rows=None), config=some)
    assert found["area"].null > 0.1 and found["area"].low < found["area"].null < found["area"].high
    assert found["own"].low < found["own"].null < found["own"].high
    assert found["above_random"].low < 0 < found["above_random"].high


def sorted_rows(x: torch.Tensor) -> TensorRows:
    """Rows of documents that are sorted by topic."""
    lm = world()[0]
    texts = [" ".join(np.random.default_rng(i).choice(WORDS[i >= 32], 12)) for i in range(64)]
    tokens = lm.tokenize(texts)
    every = replace(tokens, is_row=np.ones(len(tokens), bool))
    return TensorRows(x[: len(tokens)], source=Source(lm.name, lm.revision, SITE), tokens=every)


@pytest.mark.parametrize("kind", ["region", "direction"])
def test_passages_of_equal_activation_are_not_the_first_ones(kind: str) -> None:
    """Membership is shuffled, so no token tells of it, though the corpus is sorted by topic."""
    lm, _, _ = world()
    rng = np.random.default_rng(3)
    x = torch.from_numpy(0.01 * rng.normal(size=(4000, lm.d_model))).float()
    x[:, 0] = torch.from_numpy(rng.integers(0, 2, 4000)).float()
    given = sorted_rows(x)
    fit = arm.MFA(n_regions=2, rank=1).fit(TensorRows(x), seed=0) if kind == "region" else planted()
    layout = ((Source(lm.name, lm.revision, SITE), lm.d_model),)
    chosen = SMALL.model_copy(update={"features": (0,), "n_passages": 12})
    found = steering.run(subject(what=replace(fit, inputs=layout, targets=layout), rows=given), config=chosen)
    assert found.tables["features"]["auroc"][0] < chosen.least_auroc
    assert found["area"].value is None and "cannot be told from others" in found["area"].reason


@pytest.mark.parametrize("position", ["all", "last", "generated"])
def test_text_is_written_after_a_prompt_and_not_after_its_end(position: Any) -> None:
    how = Sampled(n_continuations=2, n_tokens=6, position=position)
    family = adding(SITE, pushes(world()[0])[0])
    wanted, found = (Writer(lm, ["We", "It is"], how) for lm in (tiny_lm("llama"), ending_lm("llama")))
    assert found.plain().ids == wanted.plain().ids and found.effect(family, [1.0]) == wanted.effect(family, [1.0])
    asked = [(family, 1.0), (family, 2.0)]
    assert [one.ids for one in found.steered(asked)] == [one.ids for one in wanted.steered(asked)]


def uneven() -> Measured:
    """A feature that reaches both KL, a random direction that reaches the smaller alone, DiffMeans the larger."""
    ids = ((1, 2), (1, 2))
    plain = Texts(("a b",) * 2, ids, np.full(2, 2.0), np.ones(2))
    texts = {loss: replace(plain, loss=np.full(2, loss)) for loss in (2.5, 4.0)}

    def points(*losses: float | None) -> list[Point]:
        return [Point(Dose(kl, 1, loss, kl), None if loss is None else texts[loss]) for kl, loss in zip((0.1, 0.5), losses, strict=True)]

    share: Any = lambda one: np.full(2, float(one.loss[0]) / 10 - 0.2)  # noqa: E731
    aim = Aim(7, "direction", None, {}, shares=dict.fromkeys(steering.WAYS, share))
    curves: Any = {"feature": points(2.5, 4.0), "random": points(2.5, None), "diffmeans": points(None, 4.0)}
    writer: Any = SimpleNamespace(plain=lambda: plain, prompt=np.arange(2), prompts=("a", "b"), how=Sampled())
    return Measured(subject(), writer, [Steered(aim, curves)], has_passages=False)


def test_ways_are_compared_over_the_effects_that_both_reach() -> None:
    m = uneven()
    assert m.values("loss", "feature", "random") == [0.5] == m.values("loss", "random", "feature")
    assert m.values("loss", "feature", "diffmeans") == [2.0] and m.values("loss", "diffmeans", "random") == [None]
    reporter = Reporter(m, SMALL, [])
    found = reporter.estimates()
    assert found["area"].value == found["area"].null and found["above_random"].value == 0 == found["above_diffmeans"].value
    assert found["concept"].value == found["concept"].null == pytest.approx(0.05)
    assert found["area_diffmeans"].reason == "no KL was reached with something written along both DiffMeans and random direction"
    table = reporter._features()
    assert (table["with random"], table["with diffmeans"]) == ([1], [1])


def test_a_curve_is_of_the_same_features_at_every_strength() -> None:
    """Beside features that reach both KL, one that reaches the smaller alone, and writes nothing of its concept there, is in neither mean;
    where most are such, the larger KL is left out."""
    m, two = uneven(), SMALL.model_copy(update={"targets": (0.1, 0.5)})
    (one,) = m.features
    silent = replace(one.aim, feature=8, shares=dict.fromkeys(steering.WAYS, lambda one: np.zeros(2)))
    lesser = replace(one, aim=silent, curves={"feature": one.curves["random"]})
    for features in ([one, one, lesser], [lesser, one, one]):
        reporter = Reporter(replace(m, features=features), two, [])
        table = reporter._curve()
        assert table["features"][:2] == [2, 2] and table["reached by"][:2] == [3, 2]
        assert table["concept"][:2] == pytest.approx([0.05, 0.2])
        assert reporter.figure(["feature"])["data"][0]["text"][1:] == ["KL 0.1, 2 of 3 features", "KL 0.5, 2 of 3 features"]
    many = Reporter(replace(m, features=[one, lesser, lesser]), two, [])._curve()
    assert many["features"][:2] == [3, 0] and many["reached by"][:2] == [3, 1] and many["concept"][1] is None


def test_the_largest_part_of_a_table_without_gaps() -> None:
    has = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]], bool)
    rows, columns = without_gaps(has)
    assert (rows.tolist(), columns.tolist()) == ([True, True, False, False], [True, True, False])
    assert has[np.ix_(*without_gaps(has))].all()
    for empty in (np.zeros((0, 3), bool), np.zeros((2, 3), bool)):
        rows, columns = without_gaps(empty)
        assert not rows.any() and columns.tolist() == [False] * 3


def test_a_lone_region_has_no_null_and_that_is_said() -> None:
    lm, tokens, x = world()
    fit = arm.MFA(n_regions=1, rank=1).fit(TensorRows(x[~tokens.is_special]), seed=0)
    layout = ((Source(lm.name, lm.revision, SITE), lm.d_model),)
    found = steering.run(subject(what=replace(fit, inputs=layout, targets=layout)), config=SMALL.model_copy(update={"features": (0,)}))
    assert "random direction" not in found.tables["strengths"]["along"]
    assert "mean of all centroids" in found["above_random"].reason and found["loss"].value is not None and found["loss"].null is None
    assert "feature 0 has no null: its centroid is the mean of all centroids, so no random point is as far from that" in found.warnings
    assert any("a random point as far" in note for note in found.notes) and not any("as long" in note for note in found.notes)


def test_what_is_missing_says_its_own_reason() -> None:
    found = steering.run(subject(), config=SMALL.model_copy(update={"features": (0, 2), "targets": (1e6,)}))
    for name in ("loss", "own", "area"):
        assert found[name].reason.startswith("no KL was reached"), name
    bare = steering.run(subject(rows=None), config=SMALL.model_copy(update={"features": (0,)}))
    assert bare["log_odds"].reason == "a classifier of passages needs rows with text"


def test_a_judge_is_shown_texts_of_every_prompt() -> None:
    judge = Reader()
    steering.run(subject(), config=SMALL.model_copy(update={"features": (0,), "targets": (1.0,)}), judge=judge)
    beginnings = [one.partition("\n")[0] for one in judge.asked if one.startswith("Beginning")]
    assert beginnings == ["Beginning: We", "Beginning: It"] * 2
