"""Absorption: the published rules by hand, a planted feature that falls silent, gates, and the prompts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

import armillary as arm
from armillary.core.codes import Codes, dense_codes, sparse_codes
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.method import Pass
from armillary.core.report import Report
from armillary.core.rows import TensorRows
from armillary.core.study import Subject
from armillary.core.tokens import Document, Tokens
from armillary.errors import InputError, TooFewRowsError
from armillary.studies import absorption
from armillary.studies.quality.absorption import Config, joined
from armillary.studies.quality.absorption_parts import absorbed, contributions_along, fraction, main_set, sizes
from armillary.studies.quality.absorption_prompts import letter_prompts
from armillary.studies.quality.chosen_rows import ChosenRows
from armillary.studies.quality.token_properties import draw_words
from support import TEXTS, tiny_lm
from toys import SideBySide
from words import GROUPS, planted, words_in_rows

QUICK = Config(form="letter", n_bootstrap=100, min_classes=2, n_draws=2)


def measure(rows: object, fit: object, **settings: object) -> Report:
    return absorption.run(Subject(fit, rows=rows), config=QUICK.model_copy(update=settings))  # type: ignore[arg-type]


# ---------------------------------------------------------------- the rules, by hand


def test_the_fraction_follows_the_published_rule() -> None:
    #            told  nothing else  silent  half  beyond p  weak  against w (the probe's bias accepts it)
    p = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -0.5, 0.0])
    inside = np.array([1.2, 0.5, 0.0, 0.5, 0.5, -0.1, -1.0, -0.1])
    others = np.array([0.9, 0.3, 0.8, 0.5, 0.9, 0.39, 0.3, 0.0])
    np.testing.assert_allclose(fraction(p, inside, others), [0.0, 0.0, 1.0, 0.5, 0.5, 0.0, 0.0, 0.0])


def test_absorption_of_a_row_is_the_one_computed_by_hand() -> None:
    w = torch.tensor([1.0, 0.0, 0.0])
    atoms = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0.05, 0.99875, 0], [0.5, 0, 0.866], [0.3, 0.954, 0], [0.4, 0.9165, 0]])
    code = torch.tensor([[0.2, 1.0, 9.0, 0.4, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    target = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    found = absorbed(Dictionary.of_directions(atoms), target, dense_codes(code), w, np.array([0]))
    # row 0: P = 0.2; feature 2 has cosine 0.05 < 0.1 and is out; A = 0.6 + 0.2 + 0.15 = 0.95; a = min(0.95, 0.8); 0.8 / 1.0
    np.testing.assert_allclose(found.fraction, [0.8, 1.0], rtol=1e-5)
    assert found.full.tolist() == [False, True]  # only where the main set is silent: 0.6 / 1 >= 0.4
    assert found.feature.tolist() == [1, 1]
    weak = absorbed(Dictionary.of_directions(atoms), 2 * target, dense_codes(code), w, np.array([0]))
    assert weak.full.tolist() == [False, False]  # 0.6 / 2 < 0.4


def test_contributions_are_those_of_the_fit_for_regions_and_subspaces() -> None:
    generator = torch.Generator().manual_seed(0)
    dictionary = Dictionary.of_regions(torch.randn(3, 5, generator=generator).double(), torch.randn(3, 2, 5, generator=generator).double())
    codes = dense_codes(torch.randn(7, 9, generator=generator).double())
    w = torch.nn.functional.normalize(torch.randn(5, generator=generator).double(), dim=0)
    along, length = contributions_along(dictionary, codes, w)
    for feature in range(3):
        own = dictionary.atoms_of([feature])
        part = codes.value[:, own] @ dictionary.atoms[own]
        np.testing.assert_allclose(along[:, feature], part @ w)
        np.testing.assert_allclose(length[:, feature], part.norm(dim=1))


def test_the_main_set_grows_while_it_pays() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(600) % 2 == 0
    side = np.repeat([0, 1, 2], 200)
    half = positive & (np.arange(600) % 4 == 0)
    table = np.stack([half, positive & ~half, rng.random(600) < 0.5], axis=1).astype(float)
    from scipy import sparse

    found = main_set(sparse.csr_matrix(table), positive, side, np.array([0, 1, 2]))
    assert found is not None and found.features.tolist() == [0, 1]  # the third adds nothing
    assert main_set(sparse.csr_matrix(table), positive, side, np.zeros(0, np.int64)) is None


def test_choices_are_not_made_on_the_tokens_judged_by() -> None:
    """Note 2.4, row 3: what is best on the test side is never kept."""
    rng = np.random.default_rng(0)
    positive, side = np.arange(600) % 2 == 0, np.repeat([0, 1, 2], 200)
    table = (rng.random((600, 4)) + 0.3 * positive[:, None]) * (rng.random((600, 4)) < 0.8)
    other = table.copy()
    other[side == 2] = np.stack([positive[side == 2]] * 4, axis=1)
    from scipy import sparse

    one, two = (main_set(sparse.csr_matrix(each), positive, side, np.arange(4)) for each in (table, other))
    assert one is not None and two is not None and one.features.tolist() == two.features.tolist()


# ---------------------------------------------------------------- the planted case


def judged(rows: TensorRows, letter: str) -> list[str]:
    words = draw_words(rows, "letter", n_rows=20_000, per_token=4, seed=0)
    return [word for word, side in zip(words.text, words.side, strict=True) if side == 2 and word[0] == letter]


@pytest.mark.parametrize("silent", [0.1, 0.5])
def test_a_planted_absorption_is_found_and_its_share_is_right(silent: float) -> None:
    rows, fit = planted(silent)
    report = measure(rows, fit)
    tokens = rows.tokens
    assert tokens is not None
    carried = {document.text for document, code in zip(tokens.documents, fit.encode(rows.x).dense(), strict=True) if not code[:3].any()}
    table = {name: list(column) for name, column in report.tables["classes"].items()}
    for letter, feature in (("s", 0), ("t", 1), ("u", 2)):
        i = table["class"].index(letter)
        share = float(np.mean([word in carried for word in judged(rows, letter)]))
        assert table["main set"][i] == str(feature)
        assert table["full_absorption"][i] == pytest.approx(share, abs=0.02)
        assert table["absorption_fraction"][i] == pytest.approx(share, abs=0.02)
        assert any(int(part.split(" (")[0]) // GROUPS in (feature, feature + 1) for part in table["absorbed into"][i].split(", "))
    assert report["split_features"].value == 1
    i = table["class"].index("s")
    assert table["random_fraction"][i] < table["absorption_fraction"][i]


def test_what_random_atoms_give_is_told_but_is_no_null() -> None:
    """In wide models they absorb nothing, which is also the best a fit can do."""
    report = measure(*planted(0.5))
    assert report["absorption_fraction"].null is None and report["full_absorption"].null is None
    mean = np.mean([value for value in report.tables["classes"]["random_fraction"] if value is not None])
    assert any(f"(2 draws): absorption_fraction {mean:.3g}, full_absorption" in note for note in report.notes)
    assert report["sparse_f1"].null is not None
    none = measure(*planted(0.0), min_positives=1000)
    assert any("were not asked" in note for note in none.notes)


def test_the_null_of_f1_is_that_of_the_tokens_judged_by() -> None:
    rows, fit = planted(0.3)
    report = measure(rows, fit)
    words = draw_words(rows, "letter", n_rows=20_000, per_token=4, seed=0)
    told = [c for c, reason in enumerate(report.tables["classes"]["left out because"]) if not reason]
    judged = words.side == 2
    nulls = [f1_score(words.member[c][judged], np.ones(judged.sum(), bool)) for c in told]
    assert report["sparse_f1"].null == pytest.approx(np.mean(nulls)) == report["probe_f1"].null


def test_where_nothing_is_absorbed_there_is_none() -> None:
    report = measure(*planted(0.0))
    assert report["absorption_fraction"].value == 0 and report["full_absorption"].value == 0
    assert report["sparse_f1"].value == pytest.approx(1.0)
    assert report["classes"].value == 3


def test_a_fit_that_never_fires_has_no_absorption_rather_than_none() -> None:
    rows, fit = planted(0.5)
    silent = replace(fit, encoder=replace(fit.encoder, weight=torch.zeros(fit.n_features, rows.x.shape[1]).double()))  # type: ignore[type-var]
    report = measure(rows, silent)
    assert report["absorption_fraction"].value is None
    assert "no feature has a positive weight" in report.tables["classes"]["left out because"][report.tables["classes"]["class"].index("s")]


def test_a_fit_that_tells_little_is_warned_of() -> None:
    rows, fit = planted(0.5)
    order = torch.randperm(len(rows.x), generator=torch.Generator().manual_seed(0))
    mixed = rows.x.clone()
    mixed[:, 3 + GROUPS :] = mixed[order, 3 + GROUPS :]  # the codes of other words
    report = measure(TensorRows(mixed, tokens=rows.tokens), fit)
    assert report["sparse_f1"].value is not None and report["sparse_f1"].value < 0.5
    assert any("hardly tell the classes" in warning for warning in report.warnings)


# ---------------------------------------------------------------- gates


def test_too_few_classes_are_missing_data_and_not_zero() -> None:
    rows, fit = planted(0.0)
    report = measure(rows, fit, min_classes=None)
    assert report["absorption_fraction"].value is None
    assert "too few letters passed: 3 of 26, and 20 are needed" in report["absorption_fraction"].reason
    assert report["classes"].value == 3 and "absorption" not in report.figures
    reasons = dict(zip(report.tables["classes"]["class"], report.tables["classes"]["left out because"], strict=True))
    assert reasons["s"] == "" and "only 0 rows with it" in reasons["a"]


def test_letters_without_a_probe_are_left_out() -> None:
    rows, fit = planted(0.0)
    noise = torch.randn(rows.x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    report = measure(TensorRows(noise, tokens=rows.tokens), fit)
    assert report["classes"].value == 0 and report["absorption_fraction"].value is None
    assert "not above 0.6" in report.tables["classes"]["left out because"][report.tables["classes"]["class"].index("s")]


def test_properties_of_tokens() -> None:
    texts = [" Running", "walked", " 42", "A", "as", "was", "things", "\n"]
    words = draw_words(words_in_rows(texts, torch.zeros(8, 2)), "property", n_rows=100, per_token=4, seed=0)
    has = {
        name: {text for text, on in zip(words.text, row, strict=True) if on} for name, row in zip(words.classes, words.member, strict=True)
    }
    assert "\n" not in words.text
    assert has["leading space"] == {" Running", " 42"} and has["capital"] == {" Running", "A"} and has["digit"] == {" 42"}
    assert has["-ing"] == {" Running"} and has["-ed"] == {"walked"} and has["-s"] == {"was", "things"}
    assert has["1 letter"] == {"A"} and has["2 or 3 letters"] == {"as", "was"} and has["7 or more letters"] == {" Running"}


def test_a_token_is_read_where_no_text_begins() -> None:
    """Tokenizers that put a space before a text give its first token the id of one with a space, whose text lacks it."""
    tokens = Tokens(
        ids=np.array([5, 6, 5]), starts=np.array([0, 3]), document=np.zeros(3, np.int64), position=np.arange(3),
        span=np.array([[0, 3], [3, 7], [7, 11]]), is_special=np.zeros(3, bool), is_row=np.ones(3, bool),
        documents=[Document("one two one")],
    )  # fmt: skip
    found = draw_words(TensorRows(torch.zeros(3, 2), tokens=tokens), "property", n_rows=10, per_token=4, seed=0)
    assert found.text == (" one", " two", " one")
    assert found.member[found.classes.index("leading space")].all()


def test_no_token_is_on_two_sides_and_none_is_drawn_too_often() -> None:
    words = [f"w{letter}{i}"[:2] + "abcdefghij"[i] * 3 for letter in "klm" for i in range(10)] * 7
    found = draw_words(words_in_rows(words, torch.zeros(len(words), 2)), "letter", n_rows=50, per_token=3, seed=0)
    assert len(found.row) == 50 and (np.diff(found.row) > 0).all()
    sides: dict[str, set[int]] = {}
    for text, side in zip(found.text, found.side, strict=True):
        sides.setdefault(text, set()).add(int(side))
    assert all(len(side) == 1 for side in sides.values())
    assert max(found.text.count(text) for text in found.text) <= 3


def test_rows_without_words_are_refused() -> None:
    rows, fit = planted(0.0)
    with pytest.raises(InputError, match="the rows have none; harvest text"):
        measure(TensorRows(rows.x), fit)
    digits = words_in_rows(["12"] * 8, rows.x[:8])
    with pytest.raises(InputError, match="form='letter'; try the other form"):
        measure(digits, fit)
    with pytest.raises(InputError, match="form='property'; harvest text with words"):
        measure(words_in_rows([" "] * 8, rows.x[:8]), fit, form="property")


def test_rows_that_never_come_are_an_error_and_not_zeros() -> None:
    chosen = ChosenRows(np.array([1, 5, 6]), Pass(4))
    for batch in TensorRows(torch.ones(6, 2)).batches(4):
        chosen.update(batch)
    with pytest.raises(TooFewRowsError, match="1 of the 3 rows asked for never came"):
        chosen.finish()


def test_the_size_of_batches_changes_nothing_and_subjects_share_a_reading() -> None:
    rows, fit = planted(0.3)
    assert measure(rows, fit, batch_size=7).tables == measure(rows, fit).tables
    stream = SideBySide(rows)
    both = absorption.run([Subject(fit, rows=stream, name=name) for name in "ab"], config=QUICK)
    assert stream.n_reads == 1 and both["a: absorption_fraction"] == both["b: absorption_fraction"]


def test_no_more_rows_than_a_batch_are_encoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, fit = planted(0.3)
    sizes, original = [], Decomposition.encode

    def counted(self: Decomposition, x: torch.Tensor, **more: object) -> Codes:
        sizes.append(len(x))
        return original(self, x, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Decomposition, "encode", counted)
    measure(rows, fit, batch_size=100)
    assert max(sizes) == 100 and sum(sizes) == len(rows.x)


def test_codes_of_batches_with_different_numbers_of_slots_are_joined() -> None:
    code = torch.tensor([[0.0, 2, 0, 0], [1, 0, 3, 4], [0, 0, 0, 0]])
    parts = [sparse_codes(torch.tensor([[2.0]]), torch.tensor([[1]]), 4)]
    parts += [sparse_codes(torch.tensor([[1.0, 3, 4], [0, 0, 0]]), torch.tensor([[0, 2, 3], [0, 0, 0]]), 4)]
    assert joined(parts).dense().tolist() == code.tolist()
    assert joined([dense_codes(code[:1]), dense_codes(code[1:])]).value.tolist() == code.tolist()


# ---------------------------------------------------------------- prompts


def test_prompts_ask_for_words_and_rows_are_the_words_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("llama", max_position_embeddings=256)
    n, original = 0, lm.capture

    def counted(tokens: Tokens, *args: object, **more: object) -> object:
        nonlocal n
        n += tokens.n_sequences
        return original(tokens, *args, **more)

    monkeypatch.setattr(lm, "capture", counted)
    rows = letter_prompts(lm, "resid_post.1", n_words=9, n_examples=2, batch_size=4)
    tokens = rows.tokens
    assert tokens is not None and n == tokens.n_sequences  # each prompt is read once
    for token in tokens.rows:
        text = tokens.documents[int(tokens.document[token])].text
        assert text.endswith(f"{tokens.text(int(token))} has the first letter:") and text.count("has the first letter") == 3
    monkeypatch.undo()
    whole = lm.capture(tokens, ["resid_post.1"])["resid_post.1"]
    torch.testing.assert_close(rows.x, whole[torch.from_numpy(tokens.spread(tokens.is_row, fill=False))], rtol=1e-5, atol=1e-5)
    assert str(rows.layout[0][0].site) == "resid_post.1"  # type: ignore[union-attr]
    fit = arm.PCA(n_components=3).fit(lm.rows(TEXTS, "resid_post.1"))
    assert absorption.run(Subject(fit, rows=rows), config=QUICK)["absorption_fraction"].value is None
    other = letter_prompts(lm, "resid_post.1", n_words=9, n_examples=2, batch_size=9)
    torch.testing.assert_close(other.x, rows.x, rtol=1e-5, atol=1e-5)


def test_sizes_do_not_depend_on_the_length_of_atoms() -> None:
    x = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)).double()
    one, other = (sizes(Dictionary.of_directions(scale * torch.eye(4).double()), dense_codes(x / scale)) for scale in (1.0, 7.0))
    np.testing.assert_allclose(one.toarray(), other.toarray())
