"""Scores by hand, the classifier of passages, and judges that answer anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from armillary.errors import InputError
from armillary.studies.causal.steering_concept import counts, learn, vectors
from armillary.studies.causal.steering_judge import ASPECTS, Case, parsed, rank_correlation, rate
from armillary.studies.causal.steering_scores import Mark, area, chosen_elsewhere, fluency, gain, harmonic, mark, marks, mean_change
from armillary.studies.causal.steering_writing import Point, Texts
from armillary.studies.causal.strength import Dose

NAN = float("nan")
ALL = np.ones(2, bool)


def texts(loss: Sequence[float], distinct: Sequence[float] = (1.0, 1.0)) -> Texts:
    ids = tuple(() if np.isnan(one) else (1, 2) for one in loss)
    return Texts(tuple("a b" if one else "" for one in ids), ids, np.array(loss), np.array(distinct))


def test_harmonic_means() -> None:
    assert harmonic(1.0, 1.0) == 1 and harmonic(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic(0.0, 1.0) == 0 and harmonic(2, 2, 1) == pytest.approx(1.5)


def test_concept_is_what_was_gained_of_what_could_be() -> None:
    assert gain(np.array([0.6, 0.6]), np.array([0.2, 0.2])) == pytest.approx(0.5)
    assert gain(np.array([0.1]), np.array([0.2])) == 0 and gain(np.array([1.0]), np.array([1.0])) == 0
    assert gain(np.array([0.6, NAN]), np.array([0.2, 0.2])) == pytest.approx(0.5)


def test_fluency_is_what_perplexity_and_repetition_leave() -> None:
    plain = texts([2.0, 4.0])
    assert fluency(plain, plain, ALL) == 1
    assert fluency(texts([3.0, 4.0]), plain, ALL) == pytest.approx(np.exp(-0.5))
    assert fluency(texts([1.0, 1.0], [0.5, 0.25]), plain, ALL) == pytest.approx(0.375)  # a low loss by repetition is no gain


def test_text_without_an_edit_scores_nothing_and_adds_no_area() -> None:
    plain = texts([2.0, 4.0])
    found = mark(plain, plain, lambda _: np.array([0.3, 0.4]))
    assert found == Mark(0.0, 1.0) and found is not None and found.score == 0 and area([found]) == 0


def test_nothing_written_is_missing_and_no_zero() -> None:
    plain, silent = texts([2.0, 4.0]), texts([NAN, NAN], [NAN, NAN])
    assert mark(silent, plain, lambda _: np.array([NAN, NAN])) is None
    point = Point(Dose(0.1, 1, None, 0.0), None)
    assert marks([point], plain, lambda _: np.zeros(2)) == [None] and area([None]) is None
    assert mean_change([point], plain, lambda one: one.loss) is None
    assert mean_change([Point(Dose(0.1, 1, 1.0, 0.1), silent)], plain, lambda one: one.loss) is None


def test_a_text_counts_only_where_it_was_written_with_and_without_the_edit() -> None:
    """The easy prompt alone was answered: its loss is held against its own, not against that of the hard one too."""
    plain, some = texts([1.0, 5.0], [0.8, 0.2]), texts([1.5, NAN], [0.4, NAN])
    assert fluency(some, plain, ALL) == pytest.approx(np.exp(-0.5) * 0.5)
    assert gain(np.array([0.6, NAN]), np.array([0.2, 0.9])) == pytest.approx(0.5)
    assert mean_change([Point(Dose(0.1, 1, 1.0, 0.1), some)], plain, lambda one: one.loss) == pytest.approx(0.5)
    assert mark(texts([NAN, 1.0]), texts([1.0, NAN]), lambda _: np.zeros(2)) is None


def test_areas_are_of_what_lies_below_and_to_the_left() -> None:
    assert area([Mark(0.5, 1.0)]) == 0.5
    assert area([Mark(0.5, 1.0), Mark(1.0, 0.5)]) == pytest.approx(0.75)
    assert area([Mark(0.5, 1.0), Mark(1.0, 0.5), Mark(0.4, 0.9), None]) == pytest.approx(0.75)  # what another point beats adds nothing
    assert area([Mark(1.0, 1.0)]) == 1 and area([Mark(1.0, 0.0)]) == 0
    rng = np.random.default_rng(0)
    some = [Mark(*rng.random(2)) for _ in range(5)]
    grid = (np.arange(400) + 0.5) / 400
    covered = np.any([(grid[:, None] < one.fluency) & (grid[None] < one.concept) for one in some], axis=0).mean()
    assert area(some) == pytest.approx(covered, abs=5e-3)


def test_a_strength_is_chosen_on_one_half_and_judged_on_the_other() -> None:
    """Strength 1 is good on the first text only, strength 2 on the second only: neither half's choice is any good on the other."""
    plain = texts([2.0, 2.0])
    share = {id(plain): [0.0, 0.0]}
    points = []
    for value in ([1.0, 0.0], [0.0, 1.0]):
        one = texts([2.0, 2.0])
        share[id(one)] = value
        points.append(Point(Dose(0.1, 1, 1.0, 0.1), one))

    def read(one: Texts) -> np.ndarray:
        return np.array(share[id(one)])

    half = np.array([True, False])
    assert chosen_elsewhere(points, plain, read, half) == 0
    share[id(points[0].texts)] = [1.0, 1.0]
    assert chosen_elsewhere(points, plain, read, half) == 1
    assert chosen_elsewhere(points, plain, read, np.array([True, True])) is None


# ---------------------------------------------------------------- the classifier


def documents(n: int, low: int, high: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(low, high, 12).tolist() for _ in range(n)]


def test_vectors_have_length_1_and_unknown_tokens_do_not_count() -> None:
    place = {5: 0, 7: 1}
    assert counts([[5, 5, 9], [7], []], place).toarray().tolist() == [[2, 0], [0, 1], [0, 0]]
    x = vectors([[5, 5, 7], [9]], place, np.array([1.0, 2.0])).toarray()
    assert np.linalg.norm(x[0]) == pytest.approx(1) and (x[1] == 0).all()
    assert x[0, 1] / x[0, 0] == pytest.approx(2 * np.log(2) / np.log(3))


def test_passages_of_their_own_tokens_are_told_apart_on_other_documents() -> None:
    near, far = documents(24, 0, 30, 0), documents(60, 20, 200, 1)
    found = learn(near, far, np.arange(84))
    assert not isinstance(found, str) and found.auroc > 0.95 and found.n == 24
    odds = found.log_odds([*documents(5, 0, 20, 2), *documents(5, 40, 200, 3), []])
    assert odds[:5].min() > odds[5:10].max() and np.isnan(odds[10])
    assert all(token < 30 for token in found.words(5))


def test_passages_like_all_others_are_not_told_apart() -> None:
    found = learn(documents(40, 0, 50, 0), documents(160, 0, 50, 1), np.arange(200))
    assert not isinstance(found, str) and found.auroc < 0.65


def test_a_document_is_never_in_two_folds() -> None:
    """Each document has a token of its own and both kinds of passage: what is learned of a document says nothing of another."""
    near = [[1000 + i % 8, 1, 2] for i in range(16)]
    far = [[1000 + i % 8, 1, 2] for i in range(16)]
    found = learn(near, far, np.concatenate([np.arange(16) % 8] * 2))
    assert not isinstance(found, str) and found.auroc == pytest.approx(0.5, abs=0.01)


def test_too_little_text_is_said() -> None:
    assert learn(documents(3, 0, 9, 0), documents(60, 0, 9, 1), np.arange(63)) == "only 3 passages where 8 are needed"
    assert learn(documents(8, 0, 9, 0), documents(20, 0, 9, 1), np.zeros(28, np.int64)) == "its passages are of too few documents"


# ---------------------------------------------------------------- judges


class Judge:
    """Answers each prompt with what is in turn in a list."""

    def __init__(self, *answers: str | None) -> None:
        self.answers, self.asked = answers, list[str]()

    def ask(self, prompts: Sequence[str]) -> list[str | None]:
        first = len(self.asked)
        self.asked.extend(prompts)
        return [self.answers[(first + i) % len(self.answers)] for i in range(len(prompts))]


CASES = [Case("tokens: 'Paris'", "I think", f" that {i}") for i in range(4)]


@pytest.mark.parametrize(
    ("answer", "rating"), [("2", 2), (" 0\n", 0), ("1.", 1), ("3", None), ("Rating: 2", None), ("", None), (None, None)]
)
def test_only_a_digit_is_a_rating(answer: str | None, rating: int | None) -> None:
    assert parsed(answer) == rating


def test_one_thing_is_asked_of_one_text_at_a_time() -> None:
    judge = Judge("2")
    found = rate(judge, CASES)
    assert len(judge.asked) == 3 * len(CASES) == found.n_asked and found.n_missing == 0
    assert all(sum(f" that {i}" in prompt for i in range(4)) == 1 for prompt in judge.asked)
    assert (found.score(ASPECTS) == 2).all()


def test_what_cannot_be_read_is_missing_and_no_zero() -> None:
    for answers in (("I cannot help with that.",), (None,), ("7",)):
        found = rate(Judge(*answers), CASES)
        assert found.n_missing == 12 and np.isnan(found.score(("concept", "fluency"))).all()
    half = rate(Judge("2", None), CASES)
    assert half.n_missing == 6 and np.isnan(half.of["concept"]).tolist() == [False, True, False, True]


def test_a_zero_makes_the_score_zero() -> None:
    found = rate(Judge(*["0"] * 4, *["2"] * 8), CASES)
    assert (found.score(ASPECTS) == 0).all() and (found.score(("instruction", "fluency")) == 2).all()


def test_a_judge_that_loses_answers_is_refused() -> None:
    class Lossy:
        def ask(self, prompts: Sequence[str]) -> list[str | None]:
            return ["1"]

    with pytest.raises(InputError, match="gave 1 answers to 12 questions"):
        rate(Lossy(), CASES)


def test_rank_correlations() -> None:
    value, n = rank_correlation(np.array([1.0, 5, 2, NAN]), np.array([0.0, 2, 1, 1]))
    assert value == pytest.approx(1) and n == 3
    assert rank_correlation(np.arange(4.0), np.ones(4)) == (None, 4) and rank_correlation(np.arange(2.0), np.arange(2.0)) == (None, 2)
