"""The regions study against distributions, scipy and scikit-learn; every number of it has an independent way to be computed here."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score
from torch import Tensor

import armillary as arm
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import NearestEncoder
from armillary.core.method import Pass
from armillary.core.report import Report
from armillary.core.rows import TensorRows
from armillary.core.run import drive
from armillary.core.study import Subject
from armillary.errors import InputError, TooFewRowsError, UnknownNameError
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.mixture import Mixture
from armillary.studies import regions
from armillary.studies.quality.region_baselines import RIDGES, Baselines
from armillary.studies.quality.region_counts import BASE, Members, SparseCounts
from armillary.studies.quality.region_labels import ranks_within
from armillary.studies.quality.region_sums import Draws, Reads, RegionSums
from armillary.studies.quality.regions import Config
from armillary.studies.units import RowUnits
from documents import LENGTH, in_documents
from mixtures import dense, draw
from toys import fit_of, random_sae

QUICK = Config(n_bootstrap=100, n_draws=20)
TRUTH = draw(k=5, d=8, r=2, apart=2.0, seed=3).mixture


def mixture_fit(mixture: Mixture = TRUTH) -> Decomposition:
    layout = ((None, mixture.d),)
    return Decomposition(Dictionary.of_regions(mixture.centroids, mixture.loadings), MFAEncoder(mixture), layout, layout)


def cluster_fit(mixture: Mixture = TRUTH) -> Decomposition:
    layout = ((None, mixture.d),)
    return Decomposition(Dictionary.of_regions(mixture.centroids), NearestEncoder(mixture.centroids), layout, layout)


def sampled(n: int = 2000, seed: int = 0) -> tuple[Tensor, NDArray[np.int64]]:
    """Rows of the mixture, and their regions."""
    x, region = arm.mfa.sample(mixture_fit(), n, seed=seed)
    return x, region.numpy()


def measure(fit: Decomposition, rows: TensorRows, config: Config = QUICK) -> Report:
    return regions.run(Subject(fit, rows=rows), config=config)


def value(report: Report, name: str) -> float:
    found = report[name].value
    assert found is not None, f"{name}: {report[name].reason}"
    return found


X, REGION = sampled()
PLAIN = TensorRows(X)


# ---------------------------------------------------------------- likelihood


def densities(x: Tensor) -> Tensor:
    """[n, K] log pi + log p(x | k), by torch."""
    return torch.stack([dense(TRUTH, k).log_prob(x) for k in range(TRUTH.n_regions)], 1) + TRUTH.log_weight


def test_likelihood_and_responsibilities_equal_torchs() -> None:
    report, joint = measure(mixture_fit(), PLAIN), densities(X)
    share = joint.softmax(1)
    assert value(report, "log_likelihood") == pytest.approx(float(joint.logsumexp(1).mean()), rel=1e-10)
    assert value(report, "entropy") == pytest.approx(float(torch.special.entr(share).sum(1).mean()), rel=1e-8)
    assert value(report, "largest_share") == pytest.approx(float(share.amax(1).mean()), rel=1e-10)
    assert report["entropy"].null == pytest.approx(float(torch.special.entr(TRUTH.log_weight.exp()).sum()), rel=1e-10)
    assert report.tables["likelihood"]["nats per dimension"][0] == pytest.approx(float(joint.logsumexp(1).mean()) / 8, rel=1e-10)


def test_likelihood_is_of_all_regions_though_few_are_looked_at() -> None:
    """Fifty regions at about the same place: the 32 most responsible ones do not hold all of a row."""
    g = torch.Generator().manual_seed(0)
    small = torch.randn(50, 8, generator=g, dtype=torch.float64) / 10, torch.randn(50, 2, 8, generator=g, dtype=torch.float64) / 10
    many = Mixture(torch.full((50,), 1 / 50).double().log(), *small, torch.full((1, 8), 9.0).double())
    report = measure(mixture_fit(many), PLAIN)
    joint = torch.stack([dense(many, k).log_prob(X) for k in range(50)], 1) + many.log_weight
    held = joint.softmax(1).topk(32).values
    assert held.sum(1).mean() < 0.99
    assert value(report, "log_likelihood") == pytest.approx(float(joint.logsumexp(1).mean()), rel=1e-10)
    assert value(report, "entropy") == pytest.approx(float(torch.special.entr(held).sum(1).mean()), rel=1e-8)


def halves(x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(learned from, scored) rows of the two folds: even and odd documents."""
    odd = (torch.arange(len(x)) // LENGTH) % 2 == 1
    return [(x[odd], x[~odd]), (x[~odd], x[odd])]


def test_one_gaussian_is_cross_fitted() -> None:
    report = measure(mixture_fit(), in_documents(X))
    total = 0.0
    for learned, scored in halves(X):
        covariance = torch.cov(learned.T, correction=0)
        ridged = [covariance + ridge * covariance.trace() / 8 * torch.eye(8).double() for ridge in RIDGES]
        total += max(float(torch.distributions.MultivariateNormal(learned.mean(0), one).log_prob(scored).sum()) for one in ridged)
    assert report["log_likelihood"].null == pytest.approx(total / len(X), rel=1e-10)
    assert value(report, "log_likelihood") > report["log_likelihood"].null + 1


def test_spheres_about_the_centroids_are_cross_fitted() -> None:
    report = measure(cluster_fit(), in_documents(X))
    total = 0.0
    for learned, scored in halves(X):
        gap = torch.cdist(learned, TRUTH.centroids)
        weight = (torch.bincount(gap.argmin(1), minlength=5).double() + 1) / (len(learned) + 5)
        scale = (gap.amin(1).square().mean() / 8).sqrt()
        spheres = torch.distributions.Normal(TRUTH.centroids, scale)
        total += float(torch.logsumexp(spheres.log_prob(scored[:, None]).sum(2) + weight.log(), 1).sum())
    assert value(report, "log_likelihood") == pytest.approx(total / len(X), rel=1e-10)


def test_a_ridge_keeps_a_gaussian_of_few_rows_sensible() -> None:
    """Eighty rows of width 100 have no covariance; the baseline is hardly worse than the spheres for that."""
    x = torch.randn(160, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fit = fit_of(Dictionary.of_regions(x[:1] * 0), NearestEncoder(x[:1] * 0), TensorRows(x))
    report = measure(fit, in_documents(x))
    assert value(report, "log_likelihood") - report["log_likelihood"].null < 20
    assert report["log_likelihood"].null < value(report, "log_likelihood")


# ---------------------------------------------------------------- occupancy


def test_occupancy_equals_a_count() -> None:
    report = measure(mixture_fit(), PLAIN)
    seen = densities(X).argmax(1)
    share = torch.bincount(seen, minlength=5).double() / len(X)
    assert value(report, "effective_regions") == pytest.approx(float(torch.special.entr(share).sum().exp()), rel=1e-12)
    table = report.tables["regions"]
    assert dict(zip(table["region"], table["share"], strict=True)) == pytest.approx(dict(enumerate(share.tolist())))
    assert table["rows"] == sorted(table["rows"], reverse=True)


def test_regions_far_from_all_rows_are_dead() -> None:
    far = TRUTH.centroids.clone()
    far[[1, 3]] += 1e4
    report = measure(cluster_fit(Mixture(TRUTH.log_weight, far, TRUTH.loadings, TRUTH.noise)), PLAIN)
    assert value(report, "dead") == 0.4
    assert any("2 of 5 regions" in warning for warning in report.warnings)


# ---------------------------------------------------------------- calibration


def test_rows_of_the_mixture_itself_are_calibrated() -> None:
    """Also where regions overlap: the distance to the most responsible region would be too small there."""
    near = Mixture(TRUTH.log_weight, TRUTH.centroids * 0.2, TRUTH.loadings, TRUTH.noise)
    x = arm.mfa.sample(mixture_fit(near), 20_000, seed=1)[0]
    report = measure(mixture_fit(near), TensorRows(x))
    assert value(report, "largest_share") < 0.9
    assert value(report, "calibration") < 1.36 / 20_000**0.5  # 95 % of samples of uniform numbers
    assert value(report, "beyond_95") == pytest.approx(0.05, abs=0.005)
    assert report["beyond_95"].low < 0.05 < report["beyond_95"].high
    assert not any("calibrated" in warning for warning in report.warnings)


def test_heavy_tails_are_not() -> None:
    heavy = X.mean(0) + (X - X.mean(0)) * torch.from_numpy(np.random.default_rng(0).standard_t(2, size=(len(X), 1)))
    report = measure(mixture_fit(), TensorRows(heavy))
    assert value(report, "calibration") > 0.1
    assert value(report, "beyond_95") > 0.15
    assert any("Badly calibrated" in warning for warning in report.warnings)


def test_distances_of_one_region_equal_scipys() -> None:
    one = Mixture(torch.zeros(1).double(), *(part[:1] for part in (TRUTH.centroids, TRUTH.loadings, TRUTH.noise)))
    report = measure(mixture_fit(one), PLAIN)
    gap = X - one.centroids
    place = stats.chi2.cdf((gap @ dense(one, 0).precision_matrix * gap).sum(1).numpy(), 8)
    assert value(report, "calibration") == pytest.approx(stats.kstest(place, "uniform").statistic, abs=1e-3)  # a thousand bins
    assert value(report, "beyond_95") == pytest.approx((place > 0.95).mean(), abs=1e-12)
    assert value(report, "entropy") == pytest.approx(0, abs=1e-12)
    assert value(report, "effective_regions") == pytest.approx(1)


# ---------------------------------------------------------------- broad and narrow


def test_entropies_equal_scipys() -> None:
    rng = np.random.default_rng(0)
    ids = np.where(REGION == 2, 7, rng.integers(30, size=len(X)))
    report = measure(mixture_fit(), in_documents(X, ids))
    region, document = densities(X).argmax(1).numpy(), np.arange(len(X)) // LENGTH
    for name, what in (("token_entropy", ids), ("document_entropy", document)):
        total = 0.0
        for k in range(5):
            counts = np.unique(what[region == k], return_counts=True)[1]
            total += counts.sum() * (stats.entropy(counts) + (len(counts) - 1) / (2 * counts.sum()))
        assert value(report, name) == pytest.approx(total / len(X), rel=1e-12)
    table = report.tables["regions"]
    assert table["kind"][table["region"].index(2)] == "narrow"
    assert table["commonest"][table["region"].index(2)] == f"'{'abcdefghijklmnopqrst'[int(np.argmax(ids == 7)) % LENGTH]}'"
    assert value(report, "narrow") == pytest.approx((region == 2).mean())
    assert report["narrow"].null == 0


def test_regions_that_do_not_care_for_tokens_are_as_broad_as_their_null() -> None:
    ids = np.random.default_rng(1).zipf(1.5, size=len(X)) % 200
    report = measure(mixture_fit(), in_documents(X, ids))
    for name in ("token_entropy", "document_entropy"):
        assert value(report, name) == pytest.approx(report[name].null, abs=0.1)
        assert report[name].low < value(report, name) < report[name].high


def test_too_few_rows_are_neither_narrow_nor_broad() -> None:
    report = measure(mixture_fit(), in_documents(X[:40]), Config(n_bootstrap=100, narrow_rows=1000))
    assert set(report.tables["regions"]["kind"]) == {"few rows"}
    assert value(report, "narrow") == 0


def test_sparse_counts_equal_numpys_however_they_come() -> None:
    key = np.random.default_rng(0).integers(500, size=300_000) * BASE + 3
    counts = SparseCounts()
    for part in np.array_split(key, 37):
        counts.add(part)
    counts.settle()
    found, times = np.unique(key, return_counts=True)
    assert (counts.key == found).all()
    assert (counts.count == times).all()
    members = Members.of(counts, 500)
    assert (members.shuffled(0).sizes() == members.sizes()).all()


# ---------------------------------------------------------------- readings


def test_errors_of_readings_equal_those_of_the_fits() -> None:
    fit = mixture_fit()
    report = measure(fit, PLAIN)
    variance = (X - X.mean(0)).square().sum()
    for how in ("centroid", "hard", "soft", "additive"):
        x_hat = fit.with_encoder(arm.mfa.Reading(how=how)).reconstruct(X)
        assert value(report, f"fvu_{how}") == pytest.approx(float((X - x_hat).square().sum() / variance), rel=1e-9), how
    assert value(measure(cluster_fit(), PLAIN), "fvu_centroid") == pytest.approx(
        float((X - cluster_fit().reconstruct(X)).square().sum() / variance), rel=1e-9
    )


def test_readings_of_some_rows_estimate_those_of_all() -> None:
    whole, part = (measure(mixture_fit(), PLAIN, Config(n_bootstrap=100, n_readings=n))["fvu_hard"] for n in (2000, 500))
    assert 400 < part.n < 600
    assert part.value == pytest.approx(whole.value, rel=0.15)


# ---------------------------------------------------------------- labels


def labelled(kinds: NDArray[Any], name: str = "kind") -> dict[int, dict[str, str]]:
    return {i: {name: str(kind)} for i, kind in enumerate(kinds)}


def test_a_label_that_follows_regions_is_found() -> None:
    """Documents of one region each, whose kind is that region; and a label at random."""
    x = X[np.argsort(REGION, kind="stable")]
    kinds = np.sort(REGION)[::LENGTH]
    by_chance = np.random.default_rng(0).integers(3, size=len(kinds))
    labels = {i: {"kind": f"k{kind}", "coin": str(by_chance[i])} for i, kind in enumerate(kinds)}
    report = measure(mixture_fit(), in_documents(x, labels=labels))
    seen = densities(x).argmax(1).numpy()
    table = report.tables["labels"]
    assert table["label"] == ["kind", "coin"]
    for name, of in (("kind", kinds), ("coin", by_chance)):
        expected = adjusted_mutual_info_score(np.repeat(of, LENGTH), seen)
        assert table["agreement"][table["label"].index(name)] == pytest.approx(expected, rel=1e-9)
    assert value(report, "label_agreement") > 0.8
    assert report["label_agreement"].p == pytest.approx(1 / 21)
    assert table["p"][1] > 0.05
    assert report["label_agreement"].low < value(report, "label_agreement") < report["label_agreement"].high


def test_rows_of_a_document_are_not_independent() -> None:
    """A label at random agrees with regions as far as documents differ; the null knows."""
    x = X[np.argsort(REGION, kind="stable")]
    values = [
        measure(mixture_fit(), in_documents(x[:400], labels=labelled(np.random.default_rng(seed).integers(2, size=20))))["label_agreement"]
        for seed in range(10)
    ]
    assert np.mean([one.null for one in values]) > 0.005
    assert sum(one.p < 0.05 for one in values) <= 2


def test_axes_that_follow_a_label_are_found() -> None:
    """Inside region 1, the sign of the first coordinate is the document's kind; its size goes with the document's number."""
    fit = mixture_fit()
    region = torch.full((2000,), 1)
    x = arm.mfa.sample(fit, 2000, region=1, seed=5)[0]
    z = fit.encoder.posterior(x, region)[:, 0].numpy()
    order = np.argsort(z)
    kinds, number = np.repeat([0, 1], 50), np.arange(100) + 0.5
    shuffled = np.random.default_rng(0).permutation(100)
    rows = in_documents(x[order].view(100, LENGTH, 8)[shuffled].flatten(0, 1), labels={
        i: {"kind": str(kinds[of]), "number": str(number[of])} for i, of in enumerate(shuffled)
    })  # fmt: skip
    report = measure(fit, rows, Config(n_bootstrap=100, n_draws=20, label="number"))
    seen = densities(rows.x).argmax(1).numpy() == 1
    found = fit.encoder.posterior(rows.x, region)[:, 0].numpy()
    expected = stats.spearmanr(found[seen], np.repeat(number[shuffled], LENGTH)[seen]).statistic
    table = report.tables["axes"]
    here = table["region"].index(1)
    assert table["measure"][here] == "spearman"
    assert table["axis"][here] == 0
    assert table["value"][here] == pytest.approx(expected, abs=1e-9)
    assert table["p"][here] == pytest.approx(1 / 21)
    classes = measure(fit, rows, Config(n_bootstrap=100, n_draws=20, label="kind")).tables["axes"]
    kind = np.repeat(kinds[shuffled], LENGTH)[seen]
    means = np.array([found[seen][kind == k].mean() for k in (0, 1)])
    eta2 = ((means[kind] - found[seen].mean()) ** 2).sum() / ((found[seen] - found[seen].mean()) ** 2).sum()
    assert classes["value"][classes["region"].index(1)] == pytest.approx(eta2, rel=1e-9)


def test_ranks_within_groups_are_scipys() -> None:
    rng = np.random.default_rng(0)
    x, group = rng.integers(6, size=300).astype(float), rng.integers(4, size=300)
    rank = ranks_within(x, group)
    for k in range(4):
        expected = stats.rankdata(x[group == k])
        np.testing.assert_allclose(rank[group == k] - rank[group == k].min(), expected - expected.min())


def test_labels_that_cannot_be_compared_are_refused() -> None:
    rows = in_documents(X, labels=labelled(np.zeros(100, int)))
    with pytest.raises(InputError, match="it is '0' in every document"):
        measure(mixture_fit(), rows, Config(label="kind"))
    with pytest.raises(UnknownNameError, match="unknown label 'kin'"):
        measure(mixture_fit(), rows, Config(label="kin"))
    with pytest.raises(InputError, match="no document has a label"):
        measure(mixture_fit(), in_documents(X), Config(label="kind"))
    with pytest.raises(InputError, match="no documents with labels"):
        measure(mixture_fit(), PLAIN, Config(label="kind"))
    with pytest.raises(InputError, match="100 values, more than 50"):
        measure(mixture_fit(), in_documents(X, labels=labelled(np.array([f"n{i}" for i in range(100)]))), Config(label="kind"))
    assert "no label that could differ" in measure(mixture_fit(), rows)["label_agreement"].reason


# ---------------------------------------------------------------- invariances, checkpoints, ranks


def plain(report: Report) -> dict[str, Any]:
    return {key: part for key, part in report.to_json().items() if key in ("estimates", "tables", "warnings")}


def close(one: Any, other: Any) -> None:
    """Equal but for rounding, all the way down."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            close(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            close(left, right)
    else:
        assert one == (pytest.approx(other, rel=1e-9, abs=1e-11) if isinstance(one, float) else other)


def test_batch_size_changes_nothing() -> None:
    ids = np.random.default_rng(0).integers(9, size=len(X))
    rows = in_documents(X, ids, labels=labelled(np.arange(100) % 4))
    whole = plain(measure(mixture_fit(), rows))
    for size in (64, 333):
        close(plain(measure(mixture_fit(), rows, QUICK.model_copy(update={"batch_size": size}))), whole)


def test_max_rows_reads_exactly_so_many() -> None:
    limited = measure(mixture_fit(), PLAIN, QUICK.model_copy(update={"batch_size": 100, "max_rows": 777}))
    exact = measure(mixture_fit(), TensorRows(X[:777]))
    for name, one in exact.estimates.items():
        assert limited[name].n == one.n, name
        assert limited[name].value == (one.value if one.value is None else pytest.approx(one.value, rel=1e-9, abs=1e-9)), name


def consumers(rows: TensorRows) -> list[Any]:
    fit, units = mixture_fit(), RowUnits.of(rows)
    reads = Reads(Pass(100), slice(None), units, rows)
    return [RegionSums(fit, reads, Draws(0, 300, 0.5)), Baselines(reads, 8, [TRUTH.centroids])]


def summed(found: Any) -> Any:
    """Plain numbers of what a consumer finished with."""
    if isinstance(found, SparseCounts):
        return [found.key.tolist(), found.count.tolist()]
    if isinstance(found, torch.Tensor | np.ndarray):
        return found.tolist()
    if isinstance(found, dict | tuple):
        return [summed(one) for one in (found.values() if isinstance(found, dict) else found)]
    return {name: summed(one) for name, one in vars(found).items()} if hasattr(found, "__dataclass_fields__") else found


def test_two_ranks_merge_to_one() -> None:
    rows = in_documents(X, np.random.default_rng(0).integers(9, size=len(X)))
    alone = consumers(rows)
    drive(alone, rows)
    ranks = [consumers(rows) for _ in range(2)]
    while ranks[0][0].next_pass() or ranks[0][1].next_pass():
        for rank, pair in enumerate(ranks):
            for batch in rows.batches(100, rank=rank, world=2):
                for one in (one for one in pair if one.next_pass()):
                    one.update(batch)
        for i in range(2):
            states = [dict(pair[i].state()) for pair in ranks]
            for pair in ranks:
                if pair[i].next_pass():
                    pair[i].merge(states)
                    pair[i].end_pass()
    for one, other in zip(alone, ranks[1], strict=True):
        close(summed(one.finish()), summed(other.finish()))


def test_a_state_is_taken_up_in_either_pass() -> None:
    rows = in_documents(X)
    expected = consumers(rows)
    drive(expected, rows)
    first = consumers(rows)
    for stage in range(2):
        for number, batch in enumerate(rows.batches(100)):
            if number == 7:  # another process goes on
                second = consumers(rows)
                for one, other in zip(first, second, strict=True):
                    other.load({**one.state()})
                first = second
            for one in first if stage == 0 else first[1:]:
                one.update(batch)
        for one in first if stage == 0 else first[1:]:
            one.end_pass()
    assert [one.next_pass() for one in first] == [None, None]
    for one, other in zip(expected, first, strict=True):
        close(summed(one.finish()), summed(other.finish()))


# ---------------------------------------------------------------- subjects


def test_clusters_have_all_that_makes_sense() -> None:
    report = measure(cluster_fit(), in_documents(X, np.arange(len(X)) % 5))
    for name in ("log_likelihood", "effective_regions", "dead", "token_entropy", "document_entropy", "narrow", "fvu_centroid"):
        assert report[name].value is not None, name
    for name in ("entropy", "largest_share", "calibration", "beyond_95", "fvu_hard", "fvu_soft", "fvu_additive"):
        assert report[name].reason, name
    assert list(report.figures) == ["breadth"]


def test_several_subjects_are_compared_pair_by_pair() -> None:
    rows = in_documents(X)
    fits = [mixture_fit(), cluster_fit(), mixture_fit()]
    report = regions.run([Subject(fit, rows=rows, name=name) for fit, name in zip(fits, ("a", "b", "c"), strict=True)], config=QUICK)
    table = report.tables["agreement"]
    assert list(zip(table["one"], table["other"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    expected = adjusted_rand_score(densities(X).argmax(1), torch.cdist(X, TRUTH.centroids).argmin(1))
    assert table["rand_index"] == pytest.approx([expected, 1, expected])
    assert table["subspace_overlap"] == [None, pytest.approx(1), None]
    likelihood = report.tables["likelihood"]
    assert likelihood["model"].count("one Gaussian") == 1
    assert {"a", "spheres about its centroids (b)"} <= set(likelihood["model"])
    assert likelihood["nats per row"] == sorted(likelihood["nats per row"], reverse=True)
    json.dumps(report.to_json(), allow_nan=False)


def test_a_fit_cut_down_to_some_regions_has_none_for_some_rows() -> None:
    rows = in_documents(X)
    kept = cluster_fit().subset([0, 2])
    report = measure(kept, rows)
    nearest = torch.cdist(X, TRUTH.centroids).argmin(1)
    assert report["effective_regions"].n == int(((nearest == 0) | (nearest == 2)).sum())
    both = regions.run([Subject(fit, rows=rows) for fit in (kept, cluster_fit())], config=QUICK)
    assert both.tables["agreement"]["rand_index"] == [pytest.approx(1)]


def test_rows_the_fit_was_made_from_are_told() -> None:
    fit = arm.KMeans(n_features=3, n_epochs=2).fit(PLAIN, seed=0)
    assert any("made from" in warning for warning in measure(fit, PLAIN).warnings)
    assert not any("made from" in warning for warning in measure(fit, TensorRows(X[:1000])).warnings)


def test_what_was_switched_off_is_missing() -> None:
    config = Config(n_bootstrap=100, baselines=False, n_readings=0)
    report = measure(cluster_fit(), PLAIN, config)
    assert "switched off" in report["log_likelihood"].reason
    assert report["fvu_centroid"].value is None
    assert measure(mixture_fit(), PLAIN, config)["log_likelihood"].null is None


def test_one_unit_cannot_be_cross_fitted() -> None:
    report = measure(mixture_fit(), TensorRows(X[:100]))
    assert report["log_likelihood"].null is None
    assert report["log_likelihood"].low is None
    assert report.tables["likelihood"]["model"] == ["this fit"]


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InputError, match="has no regions"):
        measure(random_sae(PLAIN), PLAIN)
    with pytest.raises(InputError, match="pass Subject"):
        regions.run(mixture_fit())
    with pytest.raises(InputError, match="bare"):
        regions.run(mixture_fit().dictionary)
    with pytest.raises(TooFewRowsError, match="special token"):
        measure(mixture_fit(), in_documents(X, special=True))
    with pytest.raises(TooFewRowsError):
        measure(mixture_fit(), TensorRows(X[:0]))
