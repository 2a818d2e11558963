"""The model part of fidelity on a model whose logits are known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from armillary.core.dictionary import Dictionary
from armillary.core.encoders import LinearEncoder
from armillary.core.report import Report
from armillary.core.study import Subject
from armillary.core.tokens import Tokens, concatenate
from armillary.errors import CapabilityError, InputError
from armillary.studies import fidelity
from armillary.studies.quality.fidelity import Config
from armillary.studies.quality.loss import choose_sequences, losses, parts, resample
from armillary.studies.units import RowUnits
from toys import LETTERS, RESID, VOCAB, ToyLM, constant_fit, fit_of, identity_fit, own_texts, random_sae, toy_rows

QUICK = Config(n_bootstrap=100)


@pytest.fixture(scope="module")
def model() -> ToyLM:
    return ToyLM()


@pytest.fixture(scope="module")
def tokens(model: ToyLM) -> Tokens:
    return model.tokenize(own_texts(model, 24))


def measure(model: ToyLM, tokens: Tokens, fit: object = None, config: Config = QUICK, site: str = "resid_post.0") -> Report:
    rows = toy_rows(model, tokens, site)
    return fidelity.run(Subject(fit(rows) if callable(fit) else identity_fit(rows), rows=rows, model=model), config=config)


def value(report: Report, name: str) -> float:
    found = report[name].value
    assert found is not None, f"{name}: {report[name].reason}"
    return found


def by_hand(model: ToyLM, tokens: Tokens, resid: torch.Tensor) -> tuple[float, float]:
    """Mean cross-entropy and KL from the clean model, when the residual stream of token t is resid[t], written as slow loops."""
    clean = model.embedding[tokens.ids] + model.embedding[tokens.ids].tanh() @ model.down
    ce, kl, n = 0.0, 0.0, 0
    for start, stop in zip(tokens.starts[:-1], tokens.starts[1:], strict=True):
        for t in range(start + 1, stop - 1):
            p, q = (torch.softmax(x[t] @ model.unembedding, 0) for x in (clean, resid))
            ce -= math.log(float(q[tokens.ids[t + 1]]))
            kl += float((p * (p / q).log()).sum())
            n += 1
    return ce / n, kl / n


def test_losses_equal_the_closed_form(model: ToyLM, tokens: Tokens) -> None:
    report = measure(model, tokens, random_sae)
    rows = toy_rows(model, tokens, RESID)
    clean = torch.zeros(len(tokens), 6).double()
    clean[tokens.rows] = rows.x
    fit = random_sae(rows)
    mean = rows.x.mean(0).expand_as(clean)
    for name, resid in {"clean": clean, "spliced": fit.reconstruct(clean), "zero": torch.zeros_like(clean), "mean": mean}.items():
        ce, kl = by_hand(model, tokens, resid)
        assert value(report, f"ce_{name}") == pytest.approx(ce, rel=1e-5)
        if name != "clean":
            assert value(report, f"kl_{name}") == pytest.approx(kl, rel=1e-4)
    assert value(report, "ce_zero") == pytest.approx(math.log(VOCAB), rel=1e-6)  # all logits are 0
    increase = value(report, "ce_spliced") - value(report, "ce_clean")
    assert value(report, "ce_increase") == pytest.approx(increase, rel=1e-9)
    span = value(report, "ce_mean") - value(report, "ce_clean")
    assert value(report, "ce_recovered_mean") == pytest.approx(1 - increase / span, rel=1e-9)
    assert value(report, "kl_recovered_zero") == pytest.approx(1 - value(report, "kl_spliced") / value(report, "kl_zero"), rel=1e-9)
    assert report["ce_increase"].null == pytest.approx(span)
    assert report["ce_increase"].unit == "nats"


def test_a_perfect_fit_recovers_everything(model: ToyLM, tokens: Tokens) -> None:
    report = measure(model, tokens)
    assert value(report, "ce_increase") == pytest.approx(0, abs=1e-6)
    assert value(report, "kl_spliced") == pytest.approx(0, abs=1e-6)
    for name in ("zero", "mean", "resample"):
        assert value(report, f"kl_recovered_{name}") == pytest.approx(1, abs=1e-5)
        assert value(report, f"ce_recovered_{name}") == pytest.approx(1, abs=1e-5)


def test_an_ablation_that_does_not_hurt_carries_no_ratio(model: ToyLM) -> None:
    # Where the text is what the model least expects, any ablation lowers the loss.
    chance = (model.embedding + model.embedding.tanh() @ model.down) @ model.unembedding
    text = "a"
    while len(text) < 12:
        text += LETTERS[int(chance[1 + LETTERS.index(text[-1]), 1:].argmin())]
    report = measure(model, model.tokenize([text] * 10))
    assert report["ce_recovered_zero"].value is None
    assert "zero ablation does not raise it" in report["ce_recovered_zero"].reason
    assert any("zero ablation costs only -" in warning for warning in report.warnings)


def test_a_mean_predictor_recovers_nothing_over_the_mean(model: ToyLM, tokens: Tokens) -> None:
    report = measure(model, tokens, lambda rows: constant_fit(rows, rows.x.mean(0)))
    assert value(report, "fvu") == pytest.approx(1, abs=1e-12)
    assert value(report, "kl_recovered_mean") == pytest.approx(0, abs=1e-6)
    assert value(report, "ce_increase") == pytest.approx(report["ce_increase"].null, abs=1e-6)


def test_resampling_gives_every_token_another_ones_value(model: ToyLM, tokens: Tokens) -> None:
    model.seen.clear()
    measure(model, tokens, config=Config(n_bootstrap=100, batch_tokens=10_000))
    clean, resampled = model.seen[1], model.seen[4]  # 0 is the capture for the rows; then clean, zero, mean, resample
    _, mask = tokens.padded()
    is_row = torch.from_numpy(tokens.spread(tokens.is_row))
    rows = clean[is_row]
    assert (resampled[is_row][:, None] - rows).abs().amax(2).amin(1).max() < 1e-6  # each is the value of some row
    assert ((resampled - clean)[is_row].abs().amax(1) > 0).float().mean() > 0.8  # (a letter may meet its own kind)
    assert torch.equal(resampled[torch.from_numpy(mask) & ~is_row], clean[torch.from_numpy(mask) & ~is_row])


def test_no_token_is_resampled_to_itself(model: ToyLM) -> None:
    tokens = model.tokenize(["abcdefghijk"])
    part = next(parts(tokens, np.array([0]), 100))
    sample = torch.arange(12.0)[:, None]  # the value of a token is its index
    for seed in range(20):
        (edit,) = resample(RESID, sample, np.arange(12), seed)(part)
        assert (edit.source[0, :, 0] != torch.arange(12.0)).all()  # type: ignore[attr-defined]


def test_special_tokens_and_padding_are_never_edited(model: ToyLM, tokens: Tokens) -> None:
    model.seen.clear()
    measure(model, tokens, random_sae, config=Config(n_bootstrap=100, batch_tokens=10_000))
    clean, *edited = model.seen[1:]
    is_row = torch.from_numpy(tokens.spread(tokens.is_row))
    assert len(edited) == 4
    for one in edited:
        assert torch.equal(one[~is_row], clean[~is_row])
        assert not torch.equal(one[is_row], clean[is_row])


def test_batching_changes_nothing(model: ToyLM, tokens: Tokens) -> None:
    whole, small = (measure(model, tokens, random_sae, Config(n_bootstrap=100, batch_tokens=size)) for size in (10_000, 1))
    for name, one in whole.estimates.items():
        if one.value is not None:
            assert value(small, name) == pytest.approx(one.value, rel=1e-9, abs=1e-9), name


def test_any_site_can_be_replaced(model: ToyLM, tokens: Tokens) -> None:
    for site in ("mlp_act.0", "mlp_out.0", "mlp_in.0"):
        report = measure(model, tokens, random_sae, site=site)
        assert value(report, "kl_spliced") > 0
        assert value(report, "kl_zero") > 0


def test_a_transcoder_writes_what_it_predicts_from_another_site(model: ToyLM, tokens: Tokens) -> None:
    from toys import SideBySide

    read, write = toy_rows(model, tokens, "mlp_act.0"), toy_rows(model, tokens, "mlp_out.0")
    eye = torch.eye(6).double()
    perfect = fit_of(Dictionary.of_directions(model.down), LinearEncoder(eye, torch.zeros(6)), read, targets=write.layout)
    report = fidelity.run(Subject(perfect, rows=SideBySide(read, write), model=model), config=QUICK)
    assert value(report, "kl_spliced") == pytest.approx(0, abs=1e-6)
    assert value(report, "kl_recovered_zero") == pytest.approx(1, abs=1e-5)


def test_subjects_at_one_site_share_the_models_clean_and_ablated_runs(tokens: Tokens) -> None:
    model = ToyLM()
    rows = toy_rows(model, tokens, RESID)
    model.seen.clear()
    report = fidelity.run(
        [Subject(random_sae(rows, seed=seed), rows=rows, model=model, name=f"s{seed}") for seed in range(3)],
        config=Config(n_bootstrap=100, batch_tokens=10_000),
    )
    assert len(model.seen) == 4 + 3  # clean, three ablations, three splices
    assert report["s0: ce_clean"] == report["s2: ce_clean"]
    assert report["s0: kl_spliced"] != report["s2: kl_spliced"]


# ---------------------------------------------------------------- which tokens


def test_only_text_that_follows_text_is_predicted(model: ToyLM) -> None:
    first, second = model.tokenize(["abc", "defg"]), model.tokenize(["kk"])
    packed = concatenate([first, second], first.documents)
    one_sequence = replace(packed, starts=np.array([0, len(packed)]))
    part = next(parts(one_sequence, np.array([0]), 100))
    # <s> a b c <s> d e f g <s> k k: each letter but the last of its document predicts the next
    assert part.scored().tolist() == [1, 2, 5, 6, 7, 10]
    every = np.ones(len(packed), bool)
    document = np.array([0] * 4 + [1] * 5 + [2] * 3)  # packed without a separator
    unmarked = replace(one_sequence, is_special=~every, is_row=every, document=document)
    assert next(parts(unmarked, np.array([0]), 100)).scored().tolist() == [0, 1, 2, 4, 5, 6, 7, 9, 10]


def test_sequences_are_chosen_at_random_and_as_many_as_needed(tokens: Tokens) -> None:
    chosen = choose_sequences(tokens, 100, seed=0)
    length = tokens.lengths[chosen].sum()
    assert 100 <= length < 100 + tokens.lengths.max()
    assert chosen.tolist() != list(range(len(chosen)))
    assert not np.array_equal(chosen, choose_sequences(tokens, 100, seed=1))
    assert choose_sequences(tokens, 10**9, seed=0).tolist() == list(range(24))
    assert choose_sequences(tokens, None, seed=0).tolist() == list(range(24))


def test_parts_hold_no_more_than_asked(tokens: Tokens) -> None:
    cut = list(parts(tokens, np.arange(24), 40))
    assert all(part.tokens.padded()[0].size <= 40 for part in cut)
    assert np.concatenate([part.token for part in cut]).tolist() == list(range(len(tokens)))


def test_large_vocabularies_are_scored_in_chunks(model: ToyLM, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    units = RowUnits(tokens, tokens.n_rows)
    whole = losses(model, tokens, {}, units)
    monkeypatch.setattr("armillary.studies.quality.loss.CHUNK", 7)
    np.testing.assert_allclose(losses(model, tokens, {}, units).ce["clean"], whole.ce["clean"], rtol=1e-12)


# ---------------------------------------------------------------- what cannot be measured


def test_without_logits_the_loss_is_missing_or_refused(tokens: Tokens) -> None:
    encoder = ToyLM(has_logits=False)
    assert "has no next-token logits" in measure(encoder, tokens)["kl_spliced"].reason
    with pytest.raises(CapabilityError, match="needs next-token logits"):
        measure(encoder, tokens, config=Config(loss=True))
    rows = toy_rows(encoder, tokens, RESID)
    with pytest.raises(InputError, match="pass Subject"):
        fidelity.run(Subject(identity_fit(rows), rows=rows), config=Config(loss=True))


def test_the_loss_can_be_switched_off(tokens: Tokens) -> None:
    model = ToyLM()
    rows = toy_rows(model, tokens, RESID)
    model.seen.clear()
    report = fidelity.run(Subject(identity_fit(rows), rows=rows, model=model), config=Config(loss=False))
    assert "switched off" in report["ce_increase"].reason
    assert not model.seen


def test_a_fit_that_knows_no_site_has_no_loss(model: ToyLM, tokens: Tokens) -> None:
    from armillary.core.rows import TensorRows

    named = toy_rows(model, tokens, RESID)
    rows = TensorRows(named.x, tokens=tokens)
    fit = identity_fit(rows)
    assert "neither the fit nor the rows" in fidelity.run(Subject(fit, rows=rows, model=model), config=QUICK)["ce_increase"].reason
    with pytest.raises(InputError, match="loss=True, but"):
        fidelity.run(Subject(fit, rows=rows, model=model), config=Config(loss=True))
    # The rows' own site serves where the fit has none.
    assert value(fidelity.run(Subject(fit, rows=named, model=model), config=QUICK), "kl_zero") > 0


def test_another_model_than_the_rows_is_warned_of(model: ToyLM, tokens: Tokens) -> None:
    rows = toy_rows(model, tokens, RESID)
    report = fidelity.run(Subject(identity_fit(rows), rows=rows, model=ToyLM(seed=5)), config=QUICK)
    assert any("revision seed0" in warning for warning in report.warnings)
