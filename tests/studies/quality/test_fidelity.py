"""Fidelity against closed forms. The reconstruction metrics were wrong for years in tools people use; each fault is a test here."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import LinearEncoder, NearestEncoder
from armillary.core.report import Report
from armillary.core.rows import TensorRows
from armillary.core.site import Site, Source
from armillary.core.study import Subject
from armillary.core.tokens import Document, Tokens
from armillary.errors import InputError, ShapeError, TooFewRowsError
from armillary.studies import fidelity
from armillary.studies.quality.fidelity import Config
from toys import ReluEncoder, SideBySide, ToyLM, constant_fit, fit_of, identity_fit, random_sae, toy_rows, toy_texts

QUICK = Config(n_bootstrap=100)


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measure(fit: Decomposition, rows: TensorRows, config: Config = QUICK) -> Report:
    return fidelity.run(Subject(fit, rows=rows), config=config)


def value(report: Report, name: str) -> float:
    found = report[name].value
    assert found is not None, f"{name}: {report[name].reason}"
    return found


def in_documents(x: Tensor, lengths: list[int], is_special: np.ndarray | None = None) -> TensorRows:
    """Rows with tokens: documents of the given lengths, one letter per row."""
    n = sum(lengths)
    document = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(length) for length in lengths])
    tokens = Tokens(
        ids=np.ones(n, np.int64), starts=np.cumsum([0, *lengths]), document=document, position=position,
        span=np.stack([position, position + 1], axis=1), is_special=np.zeros(n, bool) if is_special is None else is_special,
        is_row=np.ones(n, bool), documents=[Document("x" * length, f"d{i}") for i, length in enumerate(lengths)],
    )  # fmt: skip
    return TensorRows(x, tokens=tokens)


# ---------------------------------------------------------------- closed forms


def test_perfect_reconstruction() -> None:
    report = measure(identity_fit(rows := TensorRows(normal(500, 5) + 3)), rows)
    for name, expected in {"fvu": 0, "explained_variance": 1, "cosine": 1, "l2_ratio": 1, "relative_bias": 1, "nmse": 0}.items():
        assert value(report, name) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 3.0, 300.0])
@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("massive", [1.0, 1000.0])
def test_predicting_the_mean_explains_nothing(shift: float, scale: float, massive: float) -> None:
    # The formula that squared before averaging gave 0.896 for a mean of 3 sd, 1.034 for that times 10 and 1.007 with one massive dimension.
    x = (normal(700, 6) + shift) * scale
    x[:, 2] = x[:, 2] * massive
    report = measure(constant_fit(rows := TensorRows(x), x.mean(0)), rows)
    assert value(report, "fvu") == pytest.approx(1, abs=1e-12)
    assert value(report, "explained_variance") == pytest.approx(0, abs=1e-12)
    assert value(report, "fvu_base") == value(report, "fvu")
    assert value(report, "cosine") == pytest.approx(report["cosine"].null, abs=1e-12)
    assert value(report, "relative_bias") == pytest.approx(1, abs=1e-9)


def test_predicting_zero_on_shifted_rows_is_worse_than_the_mean() -> None:
    x = normal(900, 4) + 2
    report = measure(constant_fit(rows := TensorRows(x), torch.zeros(4)), rows)
    expected = x.square().sum() / (x - x.mean(0)).square().sum()  # about 1 + 2^2
    assert value(report, "fvu") == pytest.approx(float(expected), rel=1e-12)
    assert value(report, "fvu") > 4
    assert any("worse than predicting the mean" in warning for warning in report.warnings)
    assert report["relative_bias"].value is None
    assert "no component" in report["relative_bias"].reason


def test_shrinkage_has_its_closed_form() -> None:
    # x_hat = x / 2 at zero mean: half the length, a quarter of the variance lost, E|x_hat|^2 = E[x . x_hat] / 2.
    x = normal(400, 5)
    x -= x.mean(0)
    half = fit_of(Dictionary.of_directions(torch.eye(5).double()), LinearEncoder(torch.eye(5).double() / 2, torch.zeros(5)), TensorRows(x))
    report = measure(half, TensorRows(x))
    for name, expected in {"fvu": 0.25, "nmse": 0.25, "l2_ratio": 0.5, "relative_bias": 0.5, "cosine": 1.0}.items():
        assert value(report, name) == pytest.approx(expected, rel=1e-12)


def test_lognormal_norms_do_not_move_the_headline() -> None:
    """Good on long rows, hopeless on short ones: the ratio of totals stays high where the mean of ratios says worse than nothing."""
    generator = np.random.default_rng(0)
    norm = torch.from_numpy(generator.lognormal(0, 1.5, 3000))
    x = torch.nn.functional.normalize(normal(3000, 8), dim=1) * norm[:, None]
    bias = torch.zeros(8).double()
    bias[0] = 0.5
    fit = fit_of(Dictionary.of_directions(torch.eye(8).double(), bias), LinearEncoder(torch.eye(8).double(), torch.zeros(8)), TensorRows(x))
    report = measure(fit, TensorRows(x))
    # The error is the bias on every row, so both have closed forms.
    assert value(report, "fvu") == pytest.approx(0.25 * 3000 / float((x - x.mean(0)).square().sum()), rel=1e-12)
    assert value(report, "nmse") == pytest.approx(float((0.25 / norm.square()).mean()), rel=1e-9)
    assert value(report, "explained_variance") > 0.9
    assert value(report, "nmse") > 1


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_scale_of_rows_and_fit_together_changes_nothing(scale: float) -> None:
    x = normal(600, 6) + 1
    plain = measure(random_sae(TensorRows(x)), TensorRows(x))
    fit = random_sae(TensorRows(x))
    scaled = replace(
        fit,
        dictionary=fit.dictionary.with_atoms(fit.dictionary.atoms, fit.dictionary.base * scale),
        encoder=replace(fit.encoder, bias=fit.encoder.bias * scale),
    )
    other = measure(scaled, TensorRows(x * scale))
    for name in ("fvu", "l0", "dead", "cosine", "l2_ratio", "relative_bias", "fvu_base", "nmse"):
        assert value(other, name) == pytest.approx(value(plain, name), rel=1e-9)


# ---------------------------------------------------------------- firing


@pytest.mark.parametrize("k", [0, 3])
def test_firing_equals_brute_force(k: int) -> None:
    rows = TensorRows(x := normal(513, 6))
    report = measure(fit := random_sae(rows, k=k), rows, Config(batch_size=100, n_bootstrap=100))
    dense = fit.encode(x).dense()
    on = dense > 0
    table = report.tables["features"]
    assert value(report, "l0") == pytest.approx(float(on.sum(1).double().mean()))
    assert value(report, "density") == pytest.approx(float(on.double().mean()))
    assert value(report, "dead") == 1 / 16
    assert table["is_dead"] == [False] * 15 + [True]
    np.testing.assert_allclose(table["density"], on.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(table["max_activation"], dense.amax(0), rtol=1e-12)
    np.testing.assert_allclose(table["mean_activation"], dense.sum(0) / on.sum(0).clamp_min(1), rtol=1e-12)


def test_a_region_counts_once() -> None:
    x = normal(300, 4)
    regions = Dictionary.of_regions(normal(5, 4, seed=1))
    report = measure(fit_of(regions, NearestEncoder(regions.atoms), TensorRows(x)), TensorRows(x))
    assert value(report, "l0") == 1
    assert sum(report.tables["features"]["density"]) == pytest.approx(1)


def test_no_feature_fires_in_a_constant_fit() -> None:
    report = measure(constant_fit(rows := TensorRows(normal(100, 4)), torch.zeros(4)), rows)
    assert value(report, "l0") == 0
    assert value(report, "dead") == 1
    assert "density" not in report.figures


def test_firing_does_not_apply_to_dense_coefficients() -> None:
    report = measure(identity_fit(rows := TensorRows(normal(100, 4))), rows)
    assert report["l0"].value is None
    assert "every coefficient is used" in report["l0"].reason
    assert report.tables["features"]["density"] == [None] * 4
    np.testing.assert_allclose(report.tables["features"]["mean_activation"], rows.x.abs().mean(0))


def test_dead_interval_counts_features_that_a_resample_loses() -> None:
    # 16 documents; feature 0 fires everywhere, 1 in a single document, 2 never.
    x = torch.ones(160, 3).double() * torch.tensor([1.0, 0, 0])
    x[:10, 1] = 1
    eye = torch.eye(3).double()
    fit = fit_of(Dictionary.of_directions(eye), ReluEncoder(eye, torch.zeros(3)), TensorRows(x))
    report = measure(fit, in_documents(x, [10] * 16))
    dead = report["dead"]
    assert dead.value == pytest.approx(1 / 3)
    assert (dead.low, dead.high) == (pytest.approx(0), dead.value)  # a resample loses feature 1 in about (1 - 1/16)^16 = 36 % of cases


# ---------------------------------------------------------------- invariances


NUMBERS = ("value", "low", "high", "null")


def numbers(report: Report) -> dict[str, list[float]]:
    return {name: [getattr(one, key) for key in NUMBERS if getattr(one, key) is not None] for name, one in report.estimates.items()}


def test_batch_size_changes_nothing() -> None:
    rows = in_documents(normal(997, 6) * 3 + 50, [*[10] * 99, 7])
    fit = random_sae(rows)
    whole = numbers(measure(fit, rows, Config(batch_size=997, n_bootstrap=100)))
    for size in (1, 64, 300):
        for name, seen in numbers(measure(fit, rows, Config(batch_size=size, n_bootstrap=100))).items():
            assert seen == pytest.approx(whole[name], rel=1e-12, abs=1e-13), name


def test_order_of_documents_changes_no_value() -> None:
    x, lengths = normal(300, 6) + 9, [30] * 10
    order = np.random.default_rng(1).permutation(10)
    shuffled = torch.cat([x.split(30)[i] for i in order])
    plain, other = (measure(random_sae(TensorRows(x)), in_documents(data, lengths)) for data in (x, shuffled))
    for name, one in plain.estimates.items():
        if one.value is not None:
            assert value(other, name) == pytest.approx(one.value, rel=1e-12, abs=1e-13), name


def test_max_rows_reads_exactly_so_many() -> None:
    rows = TensorRows(normal(1000, 6))
    fit = random_sae(rows)
    limited = measure(fit, rows, Config(max_rows=333, batch_size=100, n_bootstrap=100))
    exact = measure(fit, TensorRows(rows.x[:333]))
    assert value(limited, "fvu") == pytest.approx(value(exact, "fvu"), rel=1e-12)
    assert limited["fvu"].n == 333


def test_bf16_rows_equal_the_rounded_ones() -> None:
    rounded = normal(400, 6).bfloat16()
    fit = random_sae(TensorRows(rounded))
    low, wide = (measure(fit, TensorRows(x)) for x in (rounded, rounded.double()))
    assert numbers(low) == numbers(wide)


def test_a_large_offset_does_not_cancel() -> None:
    x = normal(2000, 4) + 1e6
    report = measure(constant_fit(rows := TensorRows(x), x.mean(0)), rows, Config(batch_size=64, n_bootstrap=100))
    assert value(report, "fvu") == pytest.approx(1, abs=1e-9)


def test_special_tokens_are_left_out() -> None:
    x = normal(200, 5)
    is_special = np.arange(200) % 20 == 0
    x[torch.from_numpy(is_special)] *= 1e4
    rows = in_documents(x, [20] * 10, is_special)
    report = measure(fit := random_sae(rows), rows)
    plain = TensorRows(x[torch.from_numpy(~is_special)])
    assert value(report, "fvu") == pytest.approx(value(measure(fit, plain), "fvu"), rel=1e-12)
    assert report["fvu"].n == 190


# ---------------------------------------------------------------- intervals


def test_intervals_cover_the_truth() -> None:
    """Documents with a common shift of their rows: resampling rows would give intervals half as wide."""
    rng = np.random.default_rng(0)
    eye = torch.eye(4).double()
    fit = fit_of(Dictionary.of_directions(eye[:1]), LinearEncoder(eye[:1], torch.zeros(4)), TensorRows(torch.zeros(1, 4).double()))
    # The first of four equal dimensions is kept, so the fvu is 3/4 whatever the mixture of shift and noise.
    hits = 0
    for _ in range(60):
        shift = rng.standard_normal((100, 1, 4)) * 2
        x = torch.from_numpy((shift + rng.standard_normal((100, 5, 4))).reshape(-1, 4))
        fvu = measure(fit, in_documents(x, [5] * 100))["fvu"]
        hits += fvu.low <= 0.75 <= fvu.high
    assert 52 <= hits <= 60  # 95 % of 60 is 57, with a standard deviation of 1.7


def test_few_documents_become_blocks_of_rows() -> None:
    rows = in_documents(normal(600, 6), [200, 200, 200])
    report = measure(random_sae(rows), rows)
    assert report["fvu"].units is not None
    assert report["fvu"].units.kind == "block"
    assert any("blocks of 256" in note for note in report.notes)
    assert measure(random_sae(rows), TensorRows(normal(100, 6)))["fvu"].low is None


def test_more_documents_than_units_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = in_documents(normal(300, 6), [10] * 30)
    plain = measure(random_sae(rows), rows)
    monkeypatch.setattr("armillary.studies.units.MAX_UNITS", 9)
    grouped = measure(random_sae(rows), rows)
    assert len(grouped["fvu"].units) == 9
    assert value(grouped, "fvu") == pytest.approx(value(plain, "fvu"), rel=1e-12)
    assert any("groups of whole documents" in note for note in grouped.notes)


# ---------------------------------------------------------------- subjects and reports


def test_several_subjects_share_one_reading() -> None:
    model = ToyLM()
    tokens = model.tokenize(toy_texts(12))
    rows = SideBySide(toy_rows(model, tokens, "mlp_in.0"))
    fits = [random_sae(rows, seed=seed) for seed in (0, 1)]
    report = fidelity.run([Subject(fit, rows=rows, name="sae") for fit in fits], config=QUICK)
    assert rows.n_reads == 1
    assert report.tables["subjects"]["subject"] == ["sae", "sae #2"]
    for name, fit in zip(("sae", "sae #2"), fits, strict=True):
        assert report[f"{name}: fvu"] == fidelity.run(Subject(fit, rows=rows), config=QUICK)["fvu"]
    assert "fvu" in report.tables["differences"]["estimate"]
    assert [trace["name"] for trace in report.figures["fvu"]["data"]] == ["sae", "sae #2"]


def test_a_transcoder_is_measured_on_its_target() -> None:
    model = ToyLM()
    tokens = model.tokenize(toy_texts(12))
    read, write = toy_rows(model, tokens, "mlp_act.0"), toy_rows(model, tokens, "mlp_out.0")
    # Reads the neurons and writes through the true down-projection: perfect.
    eye = torch.eye(6).double()
    perfect = fit_of(Dictionary.of_directions(model.down), LinearEncoder(eye, torch.zeros(6)), read, targets=write.layout)
    for rows in (SideBySide(read, write), SideBySide(write, read)):
        assert value(fidelity.run(Subject(perfect, rows=rows), config=QUICK), "fvu") == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match=r"reconstructs mlp_out\.0, which the rows do not hold"):
        fidelity.run(Subject(perfect, rows=read), config=QUICK)


def test_many_columns_that_differ_in_their_middle_alone_are_not_taken_for_one_another() -> None:
    width = 400
    sources = [Source("m", "r", Site("mlp_out", i)) for i in range(4)]
    rows = SideBySide(*(TensorRows(normal(60, width, i) * (20 if i == 2 else 1), source=source) for i, source in enumerate(sources)))
    fits = []
    for middle in (1, 2):
        own = tuple((sources[i], width) for i in (0, middle, 3))
        eye = torch.eye(3 * width)[:8]
        fits.append(Decomposition(Dictionary.of_directions(eye), LinearEncoder(eye, torch.zeros(3 * width)), own, own))
    report = fidelity.run([Subject(fit, rows=rows, name=name) for fit, name in zip(fits, "ab", strict=True)], config=QUICK)
    for fit, name in zip(fits, "ab", strict=True):
        assert report[f"{name}: fvu"] == fidelity.run(Subject(fit, rows=rows), config=QUICK)["fvu"]


def test_the_report_is_plain_json() -> None:
    report = measure(random_sae(rows := TensorRows(normal(300, 6))), rows)
    text = json.dumps(report.to_json(), allow_nan=False)
    assert json.loads(text)["estimates"]["fvu"]["null"] == 1.0
    assert list(report.estimates)[:2] == ["fvu", "explained_variance"]
    assert report.provenance["settings"]["n_bootstrap"] == 100


# ---------------------------------------------------------------- what cannot be measured


def test_what_is_missing_is_said() -> None:
    rows = TensorRows(normal(50, 4))
    fit = identity_fit(rows)
    with pytest.raises(InputError, match="pass Subject"):
        fidelity.run(fit)
    with pytest.raises(InputError, match="bare"):
        fidelity.run(Subject(fit.dictionary, rows=rows))
    with pytest.raises(ShapeError, match="reads 4 columns"):
        measure(fit, TensorRows(normal(50, 5)))
    assert measure(fit, rows)["ce_increase"].reason == "no model was given"


def test_constant_rows_have_no_variance_to_explain() -> None:
    report = measure(identity_fit(rows := TensorRows(torch.ones(40, 3).double())), rows)
    assert report["fvu"].value is None
    assert "all rows are equal" in report["fvu"].reason
    assert value(report, "cosine") == pytest.approx(1)


def test_rows_of_special_tokens_only() -> None:
    rows = in_documents(normal(20, 4), [20], np.ones(20, bool))
    with pytest.raises(TooFewRowsError, match="special token"):
        measure(identity_fit(rows), rows)
