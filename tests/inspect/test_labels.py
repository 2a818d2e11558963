"""Labels: evidence is exact and of whole tokens, a summary says what the tokens are, and what is no label is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import armillary as arm
from armillary.core.rows import TensorRows
from armillary.core.run import drive
from armillary.core.tokens import Document, Tokens
from armillary.errors import InputError
from armillary.inspect.activity import Active, Activity, Example, chunks, examples, marked
from armillary.inspect.answers import parse_label, parse_yes_no
from armillary.inspect.evidence import Shape, Source
from armillary.inspect.labels import counts_from, label, prompt
from support import tiny_lm
from toys import RESID, SideBySide, ToyLM, identity_fit, random_sae, toy_rows, toy_texts
from worded import BEASTS, CITIES, COLOURS, FILLER, Perfect, Saying, sentences, word_fit, worded


@pytest.fixture(scope="module")
def rows() -> TensorRows:
    return worded(sentences(200))


GROUPS = [CITIES, COLOURS, BEASTS, ("never",), FILLER]


def read(fit: Any, rows: Any, features: Any, **told: Any) -> Any:
    activity = Activity(fit, rows, features, **told)
    drive([activity], rows)
    return activity.finish()


# ---------------------------------------------------------------- evidence


@pytest.mark.parametrize("batch_size", [7, 4096])
@pytest.mark.parametrize("k", [0, 3])
def test_activity_is_all_there_is(k: int, batch_size: int) -> None:
    model = ToyLM()
    rows = toy_rows(model, model.tokenize(toy_texts(40)), RESID)
    fit = random_sae(rows, k=k)
    found = read(fit, SideBySide(rows), [5, 2, 15], batch_size=batch_size)
    value = fit.activations(rows.x).dense().numpy()
    for feature in (5, 2, 15):
        one = found.of[feature]
        np.testing.assert_array_equal(one.row, np.flatnonzero(value[:, feature] > 0))
        np.testing.assert_allclose(one.value, value[one.row, feature], rtol=1e-12)
    assert found.seen.all() and len(found.of[15]) == 0


def test_the_state_of_a_pass_can_be_kept_and_ranks_merged(rows: TensorRows) -> None:
    fit = word_fit(rows, GROUPS)
    halves = [Activity(fit, rows, [0, 1]) for _ in range(2)]
    for rank, half in enumerate(halves):
        for batch in rows.batches(64, rank=rank, world=2):
            half.update(batch)
    merged = Activity(fit, rows, [0, 1])
    merged.merge([half.state() for half in halves])
    whole = read(fit, rows, [0, 1])
    for feature in (0, 1):
        np.testing.assert_array_equal(merged.finish().of[feature].row, whole.of[feature].row)


def test_only_the_first_rows_where_that_is_asked(rows: TensorRows) -> None:
    found = read(word_fit(rows, GROUPS), rows, [0, 1], max_rows=100, batch_size=64)
    assert found.seen.sum() == 100 and found.of[1].row.max() < 100


def test_special_tokens_are_left_out() -> None:
    lm = tiny_lm("gpt2")
    rows = lm.rows(["The cat sat.", "The mat."], "resid_post.1")
    fit = arm.PCA(n_components=3).fit(rows)
    found = read(fit, rows, [0])
    assert not rows.tokens.is_special[rows.tokens.rows[found.seen]].any()
    for one in label(fit, rows, [0])[0].evidence.top:
        assert not rows.tokens.is_special[one.token].any()


def test_tokens_are_whole(rows: TensorRows) -> None:
    """The regression test of a script that shortened tokens to their first character, often a space."""
    found = label(word_fit(rows, GROUPS), rows, [0, 1])
    assert {token.text.strip() for token in found[0].evidence.tokens} == set(CITIES)
    shown = prompt(found[0].evidence, "input")
    assert all(f"<<{city}>>" in shown for city in CITIES)
    assert all(len(token.text.strip()) > 1 for one in found.values() for token in one.evidence.tokens)


def test_a_character_of_several_tokens_stays_whole() -> None:
    lm = tiny_lm("gpt2")
    text = "数 and 🙂!"
    tokens = lm.tokenize(text)
    (whole,) = chunks(tokens, 99)
    (one,) = examples(tokens, [whole], np.ones(len(tokens)))
    assert one.text == text and "�" not in one.marked() and len(one.tokens) > len(text)


def test_pieces_of_characters_are_told_apart_in_a_summary() -> None:
    """Shown as they decode, all of them are the same mark of replacement."""
    tokens = pieces((*(b"\xe6\x95", b"\xb0") * 3, b" \xe2", b"\x82\xac", *(b"a",) * 12))
    rows = TensorRows(torch.eye(2, dtype=torch.float64)[[0, 1] * 3 + [0, 1] + [1] * 12], tokens=tokens)
    (found,) = label(identity_fit(rows), rows, [0], densest=1.0).values()
    assert found.text is not None and found.text.startswith("tokens: \\xe6\\x95, \\xe2")
    assert [token.text for token in found.evidence.tokens] == ["\\xe6\\x95", " \\xe2"] and "�" not in found.text


def test_marks() -> None:
    one = Example(("The", " cat", " sat", " on", "\n", "it"), (0.0, 1.0, 0.5, 0.29, 0.0, 0.3), np.arange(6))
    assert one.marked() == "The <<cat sat>> on\n<<it>>"
    assert one.marked(1.0) == "The <<cat>> sat on\nit"
    assert marked(("a", "\n", "b"), (False, True, False)) == "a<<\n>>b"
    assert Example(("a",), (0.0,), np.arange(1)).marked() == "a", "nothing is active, so nothing is marked"


PIECES = (b"He said", b" \xe2\x80", b"\x9c", b"no", b"\xe2\x80", b"\x9d\xf0", b"\x9f\x99", b"\x82", b" \n", b"a")


@pytest.mark.parametrize(
    ("active", "expected"),
    [
        ([1], "He said <<“>>no”🙂 \na"),
        ([2], "He said <<“>>no”🙂 \na"),
        ([1, 2, 3], "He said <<“no>>”🙂 \na"),
        ([4], "He said “no<<”>>🙂 \na"),
        ([5], "He said “no<<”🙂>> \na"),
        ([6], "He said “no”<<🙂>> \na"),
        ([4, 5, 6, 7], "He said “no<<”🙂>> \na"),
        ([8], "He said “no”🙂<< \n>>a"),
    ],
)
def test_a_mark_lasts_until_the_token_that_ends_the_character(active: list[int], expected: str) -> None:
    value = np.zeros(len(PIECES))
    value[active] = 2.0
    (one,) = examples(pieces(PIECES), [np.arange(len(PIECES))], value)
    assert one.marked() == expected and one.value == 2.0
    assert all(text for text, on in zip(one.tokens, one.is_marked(), strict=True) if on), "what shows nothing is not marked"


def test_the_rest_of_a_character_counts_as_much_as_the_strongest_of_its_tokens() -> None:
    (one,) = examples(pieces(PIECES), [np.arange(len(PIECES))], np.array([0.0, 3.0, 1.0, 0.0, 0.0, 2.0, 1.0, 0.5, 0.0, 0.0]))
    assert one.activations == (0.0, 0.0, 3.0, 0.0, 0.0, 2.0, 0.0, 2.0, 0.0, 0.0)


def pieces(parts: Sequence[bytes]) -> Tokens:
    """A document whose tokens are these bytes."""
    n, ends = len(parts), np.cumsum([len(part) for part in parts])
    return Tokens(
        ids=np.array([parts.index(part) for part in parts]), starts=np.array([0, n]), document=np.zeros(n, np.int64), position=np.arange(n),
        span=np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1), is_special=np.zeros(n, bool), is_row=np.ones(n, bool),
        documents=[Document(b"".join(parts).decode())],
    )  # fmt: skip


@pytest.mark.parametrize("length", [4, 5, 99])
def test_no_token_is_lost_when_text_is_cut(rows: TensorRows, length: int) -> None:
    assert rows.tokens is not None
    found = chunks(rows.tokens, length)
    np.testing.assert_array_equal(np.concatenate(found), np.arange(len(rows.tokens)))
    sizes = np.array([len(one) for one in found])
    assert sizes.max() <= length and sizes.min() >= min(length // 2, 10)
    assert all(len(set(rows.tokens.document[one])) == 1 for one in found)


def test_top_contexts_are_the_largest_and_of_different_documents(rows: TensorRows) -> None:
    found = label(word_fit(rows, GROUPS), rows, [0], shape=Shape(n_top=6, n_quantiles=3, per_quantile=2))[0].evidence
    assert [one.value for one in found.top] == [1.0] * 6 and len({one.document for one in found.top}) == 6
    levels = [one.value for one in found.sample]
    assert len(levels) == 6 and levels == sorted(levels, reverse=True) and levels[-1] < 1.0


def test_of_a_dense_feature_only_the_strongest_activations_count() -> None:
    active = Active(np.arange(100), np.arange(100.0) + 1)
    source = Source(tokens=None, is_in=np.ones(1000, bool))  # type: ignore[arg-type]
    assert len(active.from_value(counts_from(active, 0.02, source))) == 20
    assert counts_from(active, 0.5, source) == 0.0


def test_of_regions_members_count_and_the_likeliest_are_shown_first() -> None:
    model = ToyLM()
    rows = toy_rows(model, model.tokenize(toy_texts(60)), RESID)
    noisy = rows.x + 0.1 * torch.randn(rows.x.shape, generator=torch.Generator().manual_seed(0), dtype=rows.x.dtype)
    given = TensorRows(noisy, source=rows.layout[0][0], tokens=rows.tokens)
    fit = arm.MFA(n_regions=4, rank=1).fit(given, seed=0)
    found = label(fit, given, range(4), densest=1.0)
    home = fit.encoder.regions(noisy.to(fit.dictionary.atoms.dtype)).numpy()
    density = torch.stack([fit.encoder.log_density(noisy.to(fit.dictionary.atoms.dtype), torch.full((len(noisy),), k)) for k in range(4)])
    for k, one in found.items():
        assert one.evidence.kind == "region" and abs(one.evidence.n_active - (home == k).sum()) <= 2
        members = np.flatnonzero(home == k)
        best = members[np.argmax(density[k].numpy()[members])]
        assert rows.tokens is not None and rows.tokens.rows[best] in one.evidence.top[0].token


# ---------------------------------------------------------------- summaries


def test_a_summary_lists_the_tokens_and_the_neighbour_they_share(rows: TensorRows) -> None:
    found = label(word_fit(rows, GROUPS), rows, range(5))
    assert found[0].text is not None and found[0].text.startswith("tokens: ") and found[0].text.endswith("(after 'in')")
    assert all(city in found[0].text for city in CITIES)
    assert set(found[1].text.removeprefix("tokens: ").split(", ")) == set(COLOURS)
    assert found[4].text == "tokens: we", "of what is active on nearly all words, the strongest activations count"
    assert label(word_fit(rows, GROUPS), rows, [4], densest=1.0)[4].text == "no token stands out"
    assert (found[0].kind, found[0].judge) == ("tokens", "")


def test_lift_is_the_share_over_the_share_of_all(rows: TensorRows) -> None:
    tokens = rows.tokens
    assert tokens is not None
    (first, *_) = label(word_fit(rows, GROUPS), rows, [1])[1].evidence.tokens
    texts = [tokens.text(token).strip() for token in tokens.rows]
    colours = [text for text in texts if text in COLOURS]
    share = colours.count(first.text.strip()) / len(colours)
    assert first.share == pytest.approx(share)
    assert first.lift == pytest.approx(share / (texts.count(first.text.strip()) / len(texts)))


# ---------------------------------------------------------------- judges


def test_a_judge_labels_from_the_evidence(rows: TensorRows) -> None:
    judge = Perfect()
    found = label(word_fit(rows, GROUPS), rows, [1, 2], judge)
    assert (found[1].text, found[1].kind, found[1].judge) == (" ".join(sorted(COLOURS)), "input", "perfect")
    assert len(judge.asked) == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "gave no answer"), ("None", "nothing in common"), ("  ", "gave no label"), ("unclear.", "nothing in common"),
        ("I'm sorry, but I can't help with that.", "refused"), ("As an AI model, I see words", "refused"), ("x" * 500, "500 characters"),
    ],
)  # fmt: skip
def test_what_is_no_label_is_missing(answer: str | None, reason: str) -> None:
    text, why = parse_label(answer)
    assert text is None and reason in why


def test_labels_are_taken_as_they_are() -> None:
    for answer in ("names of cities", '"names of cities."', "Phrase: names of cities\n\nThey are in Europe.", "**names of cities**"):
        assert parse_label(answer) == ("names of cities", "")


def test_only_yes_and_no_are_answers() -> None:
    assert [parse_yes_no(one) for one in ("yes", " Yes.", "NO", "'no'")] == [True, True, False, False]
    for one in (None, "", "yes, because", "yes or no", "not", "maybe", "nope"):
        assert parse_yes_no(one) is None, one


def test_missing_stays_missing(rows: TensorRows) -> None:
    class Silent(Saying):
        def ask(self, prompts: Any) -> Any:
            return [None] * len(prompts)

    fit = word_fit(rows, GROUPS)
    found = label(fit, rows, [0, 3], Silent(None))
    assert found[0].text is None and found[0].reason == "the judge gave no answer"
    assert found[3].text is None and "active on none of the" in found[3].reason
    assert label(fit, rows, [3])[3].text is None and label(fit, rows, [3])[3].to_json()["label"] is None


def test_the_output_side_shows_promoted_tokens_where_they_stand_out() -> None:
    lm = tiny_lm("gpt2")
    rows = lm.rows(["The cat sat on the mat.", "Lisbon is in Portugal.", "the cat and the mat"] * 4, "resid_post.2")
    fit = arm.PCA(n_components=6).fit(rows)
    judge = Saying("x")
    found = label(fit, rows, range(6), judge, model=lm, side="output")
    for one in found.values():
        has = bool(one.evidence.promoted or one.evidence.suppressed)
        assert has or "no token more than random directions" in one.reason
        assert not has or "changes what comes next" in prompt(one.evidence, "output")
    read = label(fit, rows, [0], judge, side="output")[0]
    assert read.text is None and read.reason == "no model was given"


def test_bad_input(rows: TensorRows) -> None:
    fit = word_fit(rows, GROUPS)
    with pytest.raises(InputError, match="feature 5 is out of range"):
        label(fit, rows, [5])
    with pytest.raises(InputError, match="these rows have none"):
        label(identity_fit(TensorRows(torch.ones(3, 4, dtype=torch.float64))), torch.ones(3, 4, dtype=torch.float64), [0])
    with pytest.raises(InputError, match="side is one of input, output, both, got 'inside'"):
        label(fit, rows, [0], side="inside")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="evidence needs texts"):
        Shape(n_top=0, per_quantile=0)
