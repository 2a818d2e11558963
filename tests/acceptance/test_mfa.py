"""The research note's experiments on mixtures of factor analyzers (section 11) at full size: `make acceptance`.

The numbers of its section 9 stand beside the thresholds where they were measured there.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import chisquare, t
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

import armillary as arm
from armillary.core.dictionary import Dictionary
from armillary.core.rows import Batch, TensorRows
from armillary.core.summary import Reservoir
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.regions import mixture_of
from armillary.studies.quality.region_baselines import Spheres
from mixtures import Drawn, dense_at_length, draw

pytestmark = pytest.mark.acceptance


def nll(fit: arm.Decomposition, x: Tensor) -> float:
    return -float(encoder_of(fit).log_likelihood(x.float()).double().mean())


def encoder_of(fit: arm.Decomposition) -> MFAEncoder:
    assert isinstance(fit.encoder, MFAEncoder)
    return fit.encoder


def matched(found: Mixture, truth: Mixture) -> list[tuple[int, int]]:
    """(region found, planted region), by centroids."""
    return list(zip(*linear_sum_assignment(torch.cdist(found.centroids.double(), truth.centroids)), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_5_planted_regions_are_recovered(seed: int) -> None:
    """The note: 83.8 where the truth has 83.2, after two moves; without moves 97.6 to 111."""
    data = draw(20_000, k=16, d=64, r=4, held_out=5000, seed=seed)
    fit = arm.MFA(n_regions=16, rank=4).fit(data.x.float(), seed=seed)
    found = mixture_of(fit)
    assert nll(fit, data.held_out) < -data.oracle + 1
    assert adjusted_rand_score(data.held_out_region, fit.encoder.regions(data.held_out.float())) >= 0.99  # type: ignore[attr-defined]
    assert (found.noise / data.mixture.noise - 1).abs().max() < 0.15
    for ours, theirs in matched(found, data.mixture):
        one, other = (torch.linalg.qr(w.double().T)[0] for w in (found.loadings[ours], data.mixture.loadings[theirs]))
        assert torch.linalg.svdvals(one.T @ other).min() >= 0.99
        away = found.centroids[ours].double() - data.mixture.centroids[theirs]
        along = torch.linalg.lstsq(data.mixture.loadings[theirs].T, away[:, None]).solution[:, 0]  # in standard deviations
        assert along.abs().max() < 0.2


def test_5_planted_ranks_are_found_within_one() -> None:
    data = _of_mixed_rank()
    fit = arm.MFA(n_regions=12, rank=6).fit(data.x.float(), seed=0)
    ranks = arm.mfa.effective_ranks(fit)
    pairs = matched(mixture_of(fit), data.mixture)
    planted = [1 + theirs % 6 for _, theirs in pairs]
    off = np.abs(np.array([int(ranks[ours]) for ours, _ in pairs]) - planted)
    assert (off <= 1).mean() >= 0.9
    for how, most in (("spectrum", 1), ("bic", 0)):
        own = arm.MFA(n_regions=12, rank=6, rank_selection=how).fit(data.x.float(), seed=0)  # type: ignore[arg-type]
        found = [(int(arm.mfa.ranks(own)[ours]), 1 + theirs % 6) for ours, theirs in matched(mixture_of(own), data.mixture)]
        assert max(abs(one - other) for one, other in found) <= most


def _of_mixed_rank() -> Drawn:
    """Twelve regions whose k-th has 1 + k mod 6 loadings."""
    data = draw(20_000, k=12, d=64, r=6)
    g = torch.Generator().manual_seed(1)
    loadings = data.mixture.loadings.clone()
    for k in range(12):
        loadings[k, 1 + k % 6 :] = 0
    z = torch.randn(len(data.x), 6, generator=g, dtype=torch.float64)
    inside = torch.einsum("nr,nrd->nd", z, loadings[data.region])
    x = (
        data.mixture.centroids[data.region]
        + inside
        + data.mixture.noise.sqrt() * torch.randn(data.x.shape, generator=g, dtype=torch.float64)
    )
    return Drawn(
        x, data.region, x[:0], data.region[:0], Mixture(data.mixture.log_weight, data.mixture.centroids, loadings, data.mixture.noise)
    )


def test_6_the_planted_number_of_regions_is_the_elbow() -> None:
    """The note: held-out 49.7, 44.6, 34.4, 34.2, 34.2 at 4, 6, 8, 10 and 14 regions, the truth 33.99."""
    data = draw(12_000, k=8, d=24, r=3)
    fits = {k: arm.MFA(n_regions=k, rank=3).fit(data.x.float(), seed=0) for k in (4, 6, 8, 10, 14)}
    held_out = {k: nll(fit, data.held_out) for k, fit in fits.items()}
    assert held_out[4] - held_out[6] > 1 and held_out[6] - held_out[8] > 1 and held_out[8] - min(held_out.values()) < 0.5
    bic = {k: arm.mfa.criteria(fit, data.x.float()).bic.value for k, fit in fits.items()}
    assert min(bic, key=lambda k: bic[k]) == 8  # type: ignore[arg-type, return-value]


def test_3_gated_fits_end_where_whole_ones_do() -> None:
    data = draw(30_000, k=32, d=48, r=4)
    told: dict[str, Any] = {"n_regions": 32, "rank": 4, "split_merge": False}
    scores = [nll(arm.MFA(**told, gating=gating).fit(data.x.float(), seed=0), data.held_out) for gating in (None, 12)]
    assert scores[1] < scores[0] + 0.05


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_7_more_likely_than_by_gradients_at_every_scale(scale: float) -> None:
    """The note: 97.6 after 5 passes where gradients had 246 after one and 118 after twenty; ten times the rows 243 and 4,047."""
    data = draw(20_000, k=16, d=64, r=4)
    x, held_out = scale * data.x.float(), scale * data.held_out
    told: dict[str, Any] = {"n_regions": 16, "rank": 4, "split_merge": False}
    em, plain = (arm.MFA(**told, n_iter=20).fit(rows, seed=0) for rows in (x, data.x.float()))
    adam = arm.MFA(**told, solver="adam", n_passes=20).fit(x, seed=0)
    assert nll(em, held_out) < nll(adam, held_out) + 0.5
    assert nll(em, held_out) - 64 * math.log(scale) == pytest.approx(nll(plain, data.held_out), abs=0.01)


MANIFOLDS = ["circle", "torus", "roll"]


@pytest.mark.parametrize("kind", MANIFOLDS)
def test_12_loadings_are_tangents_of_manifolds(kind: str) -> None:
    """A fork's Adam baseline leaves four fifths of the regions dead on such rows."""
    x, tangents = _manifold(kind, 20_000)
    n_regions, rank = (24, 1) if kind == "circle" else (100, 2)
    fit = arm.MFA(n_regions=n_regions, rank=rank, noise="isotropic").fit(x, seed=0)
    encoder = fit.encoder
    assert isinstance(encoder, MFAEncoder)
    region = encoder.regions(x)
    basis = torch.linalg.qr(encoder.mixture.loadings.mT)[0]  # [K, D, R]
    overlap = torch.einsum("ndr,nds->nrs", basis[region], tangents).square().sum((1, 2)) / rank  # mean cos^2 of principal angles
    assert float(overlap.mean()) >= 0.95
    assert len(region.unique()) > 0.9 * n_regions


def _manifold(kind: str, n: int) -> tuple[Tensor, Tensor]:
    """Rows in 128 dimensions and orthonormal tangents [n, 128, rank]."""
    g = torch.Generator().manual_seed(0)
    u, v = 2 * math.pi * torch.rand(n, generator=g), 2 * math.pi * torch.rand(n, generator=g)
    zero = torch.zeros(n)
    if kind == "circle":
        x, tangents = torch.stack([u.cos(), u.sin()], 1) * 3, [torch.stack([-u.sin(), u.cos()], 1)]
    elif kind == "torus":
        x = torch.stack([(3 + v.cos()) * u.cos(), (3 + v.cos()) * u.sin(), v.sin()], 1)
        tangents = [torch.stack([-u.sin(), u.cos(), zero], 1), torch.stack([-v.sin() * u.cos(), -v.sin() * u.sin(), v.cos()], 1)]
    else:
        t, h = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=g)), 10 * torch.rand(n, generator=g)
        x = torch.stack([t * t.cos(), h, t * t.sin()], 1)
        along = torch.stack([t.cos() - t * t.sin(), zero, t.sin() + t * t.cos()], 1)
        tangents = [torch.nn.functional.normalize(along, dim=1), torch.stack([zero, zero + 1, zero], 1)]
    frame = torch.linalg.qr(torch.randn(128, x.shape[1], generator=g))[0]
    rows = x @ frame.T + 0.02 * torch.randn(n, 128, generator=g)
    return rows, torch.stack([one @ frame.T for one in tangents], dim=2)


def test_13_additive_readings_hold_two_blocks_at_once() -> None:
    """The literature: R^2 0.38 as a mixture and 0.88 as a sum."""
    g = torch.Generator().manual_seed(0)
    blocks = torch.linalg.qr(torch.randn(32, 16, generator=g))[0].T.reshape(8, 2, 32)
    on = torch.rand(20_000, 8, generator=g).argsort(1)[:, :2]
    x = torch.einsum("ntr,ntrd->nd", 2 * torch.randn(20_000, 2, 2, generator=g), blocks[on]) + 0.05 * torch.randn(20_000, 32, generator=g)
    fit = arm.MFA(n_regions=8, rank=2, noise="isotropic").fit(x, seed=0)

    def explained(how: Any, n_top: int) -> float:
        return 1 - float((x - fit.with_encoder(arm.mfa.Reading(how=how, n_top=n_top)).reconstruct(x)).square().sum() / x.square().sum())

    assert explained("soft", 8) < 0.8 and explained("additive", 2) > 0.95


def purity(region: Tensor, token: Tensor) -> float:
    """Share of the rows that have the commonest token of their region."""
    found, count = torch.unique(torch.stack([region, token]), dim=1, return_counts=True)
    return float(torch.zeros(int(region.max()) + 1, dtype=count.dtype).scatter_reduce(0, found[0], count, "amax").sum()) / len(token)


def test_14_regions_of_a_language_model(tmp_path: Path) -> None:
    """arm-small, layer 3. The note's byte model: 0.191 of the squares left by centroids, 0.067 with offsets, entropy 0.05 nats.

    Diagonal noise is worth some 0.5 nats of 479 over one variance (PPCA), where starts differ by 0.3: the mean over six has to be better,
    and its 95 % interval to exclude 0.
    """
    lm = arm.LanguageModel("arm-small")
    rows = arm.harvest(lm, arm.reference_texts(160), ["resid_post.3"], out=tmp_path / "acts")["resid_post.3"]
    order = np.random.default_rng(0).permutation(rows.n_rows)
    train, held_out = rows.read(order[:20_000]).float(), rows.read(order[20_000:]).float()
    fits = [arm.MFA(n_regions=64, rank=8).fit(train, seed=seed) for seed in range(6)]
    share = encoder_of(fits[0]).responsibilities(held_out)
    assert float(torch.special.entr(share).sum(1).mean()) < 0.2
    region, total = encoder_of(fits[0]).regions(held_out), (held_out - held_out.mean(0)).square().sum()
    centroids = float((held_out - encoder_of(fits[0]).mixture.centroids[region]).square().sum() / total)
    whole = float((held_out - fits[0].reconstruct(held_out)).square().sum() / total)
    assert whole < 0.75 * centroids
    assert rows.tokens is not None
    token = torch.from_numpy(rows.tokens.ids[rows.tokens.rows[order[20_000:]]].astype(np.int64))
    generator = torch.Generator().manual_seed(1)
    assert purity(region, token) > max(purity(region, token[torch.randperm(len(token), generator=generator)]) for _ in range(20))
    found = [nll(fit, held_out) for fit in fits]
    one = nll(arm.MFA(n_regions=1, rank=8).fit(train, seed=0), held_out)
    clusters = spheres(arm.KMeans(n_features=64).fit(train, seed=0), train, held_out)
    assert max(found) < min(one, clusters)
    ppca_fits = [arm.MFA(n_regions=64, rank=8, noise="isotropic").fit(train, seed=seed) for seed in range(6)]
    ppca = [nll(fit, held_out) for fit in ppca_fits]
    few = slice(0, 4000)  # one start on so many rows as well, as this test first was
    assert nll(fits[0], held_out[few]) < nll(ppca_fits[0], held_out[few])
    gain = np.subtract(ppca, found)
    assert gain.mean() > t.ppf(0.975, 5) * gain.std(ddof=1) / 6**0.5


def spheres(fit: arm.Decomposition, train: Tensor, held_out: Tensor) -> float:
    """Held-out negative log-likelihood of clusters as Gaussians of one variance."""
    centroids = fit.dictionary.directions()
    distance = torch.cdist(train, centroids).square()
    weight = (torch.bincount(distance.argmin(1), minlength=len(centroids)).double() + 1) / (len(train) + len(centroids))
    model = Spheres(centroids, weight.log(), float(distance.amin(1).double().mean()) / train.shape[1])
    return -float(model.log_density(held_out).mean())


def test_1_densities_lose_nothing_to_large_means() -> None:
    """float64 against dense algebra to 1e-10; float32 at D = 2304 with entries near 30 within 0.01 nats (the paper's code: 14).

    The dense algebra is that of 80-bit numbers: that of 64 bits is itself 1.4e-10 off, as here a density is near -18,000 nats.
    """
    if np.finfo(np.longdouble).eps > 1e-18:
        pytest.skip("this machine's long double is no longer than float64, which is too short for an oracle of 1e-10")
    m = draw(1, k=3, d=200, r=8).mixture
    x = arm.mfa.sample(_fit_of(m), 300)[0]
    joint, white = m.log_joint(x)
    for k in range(3):
        log_prob, z = dense_at_length(m, k, x)
        assert np.abs((joint[:, k] - m.log_weight[k]).numpy() - log_prob).max() < 1e-10
        assert np.abs(m.coordinates(white[:, k], torch.full((300,), k)).numpy() - z).max() < 1e-10
    wide = draw(1, k=3, d=2304, r=10, noise=0.1).mixture
    wide = Mixture(wide.log_weight, wide.centroids + 30, wide.loadings, wide.noise)
    rows, region = arm.mfa.sample(_fit_of(wide), 200)
    single = wide.to(torch.float32)
    rounded = single.to(torch.float64)  # the same numbers, worked out in float64
    found, wanted = (one.log_joint_at(rows.float().to(one.centroids.dtype), region)[0].double() for one in (single, rounded))
    assert (found - wanted).abs().max() < 0.01


def _fit_of(mixture: Mixture) -> arm.Decomposition:
    layout = ((None, mixture.d),)
    return arm.Decomposition(Dictionary.of_regions(mixture.centroids, mixture.loadings), MFAEncoder(mixture), layout, layout)


def test_2_one_region_is_factor_analysis_and_one_variance_probabilistic_pca() -> None:
    x = draw(4000, k=1, d=20, r=3).x.numpy()
    told: dict[str, Any] = {"n_regions": 1, "rank": 3, "n_iter": 600, "tol": 0.0}
    for noise, oracle in (("diagonal", FactorAnalysis(3, tol=1e-10, max_iter=3000)), ("isotropic", PCA(3))):
        fit = arm.MFA(**told, noise=noise).fit(x, seed=0)
        assert -nll(fit, torch.from_numpy(x)) == pytest.approx(
            oracle.fit(x).score(x), abs=1e-4
        )  # float32; 1e-6 in float64 is tested elsewhere


@pytest.mark.parametrize("noise", ["diagonal", "isotropic"])
def test_4_scales_shifts_and_rotations(noise: Any) -> None:
    data = draw(8000, k=6, d=24, r=3)
    method = arm.MFA(n_regions=6, rank=3, noise=noise, n_iter=300, tol=1e-6)
    plain = nll(method.fit(data.x.float(), seed=0), data.held_out)
    scaled = nll(method.fit((7 * data.x + 100).float(), seed=0), 7 * data.held_out + 100)
    assert scaled - 24 * math.log(7) == pytest.approx(plain, abs=1e-3)
    if noise == "isotropic":
        turn = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
        assert nll(method.fit((data.x @ turn).float(), seed=0), data.held_out @ turn) == pytest.approx(plain, abs=2e-2)


@pytest.mark.parametrize("seed", range(3))
def test_8_one_stepwise_pass_is_as_good_as_four_whole_ones(seed: int) -> None:
    """From one start of few rows. The note: 208.93 after one pass of 2,048 rows a step, 209.89 after four whole passes."""
    data = draw(60_000, k=24, d=48, r=4, seed=seed)
    told: dict[str, Any] = {"n_regions": 24, "rank": 4, "max_rows": 1000, "n_iter": 0, "split_merge": False}
    stepwise = arm.MFA(**told, n_passes=0).fit(data.x.float(), seed=seed)
    whole = arm.MFA(**told, solver="em", n_passes=4, tol=0.0).fit(data.x.float(), seed=seed)
    assert nll(stepwise, data.held_out) <= nll(whole, data.held_out) + 0.01


def test_8_a_fit_that_was_killed_ends_in_the_same_bits(tmp_path: Path) -> None:
    data = draw(20_000, k=8, d=24, r=3)
    method = arm.MFA(n_regions=8, rank=3, max_rows=2000, batch_size=1000, n_passes=2, tol=0.0)
    whole = method.fit(data.x.float(), seed=0)

    class Stops(TensorRows):
        def batches(self, *args: Any, **kwargs: Any) -> Any:
            for i, batch in enumerate(super().batches(*args, **kwargs)):
                if kwargs.get("seed") is not None and i == 7:
                    raise KeyboardInterrupt
                yield batch

    with pytest.raises(KeyboardInterrupt):
        method.fit(Stops(data.x.float()), seed=0, checkpoint=tmp_path / "state")
    again = method.fit(data.x.float(), seed=0, checkpoint=tmp_path / "state")
    assert torch.equal(again.dictionary.atoms, whole.dictionary.atoms)
    assert again.provenance["curve"] == whole.provenance["curve"]


def test_9_a_sample_of_an_ordered_stream_is_uniform() -> None:
    """Batches larger than the sample: the paper's code takes four fifths of it from the last tenth."""
    n, counts = 100_000, np.zeros(10)
    for seed in range(20):
        sample = Reservoir(500, seed)
        for start in range(0, n, 8192):
            row = np.arange(start, min(start + 8192, n))
            sample.update(Batch(torch.from_numpy(row[:, None]).float(), row))
        counts += np.bincount(sample.sample()[1] * 10 // n, minlength=10)
    assert chisquare(counts).pvalue > 0.001


def test_10_eight_thousand_regions_of_768_columns_in_less_than_4_gb() -> None:
    """A fit whose sample and passes have few rows, so that the mixture is what is held; and what was planned beforehand."""
    code = """
import re, torch, armillary as arm
torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
centres = 5 * torch.randn(2000, 768, generator=g)
x = centres[torch.randint(2000, (20_000,), generator=g)] + torch.randn(20_000, 768, generator=g)
method = arm.MFA(n_regions=8192, rank=10, split_merge=False, n_iter=1, n_passes=1, solver="em", max_rows=10_000)
fit = method.fit(x, seed=0, start=arm.mfa.regions_at(x[:8192]))
assert fit.dictionary.atoms.isfinite().all()
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]), sum(method.memory(768, 20_000).values()))
"""
    told = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True).stdout
    held, planned = map(int, told.split())
    assert held < 4e9 and planned < 4e9
    assert sum(arm.MFA(n_regions=8192, rank=10).memory(768, 10**8).values()) < 4e9
    assert held < 1.5 * planned + 0.5e9


def test_15_steering_to_a_region(tmp_path: Path) -> None:
    """arm-small: no strength changes nothing, all of it forgets the prompt, what is between moves evenly, and text differs."""
    lm, site = arm.LanguageModel("arm-small"), "resid_post.3"
    rows = arm.harvest(lm, arm.reference_texts(100), [site], out=tmp_path / "acts")[site]
    fit = arm.MFA(n_regions=24, rank=4).fit(rows, seed=0)
    first, second = "The capital of France is", "The capital of Spain is"
    assert lm.tokenize([first]).n_rows == lm.tokenize([second]).n_rows
    plain = lm.logits([first])
    for k in (0, 5, 11):
        assert torch.equal(lm.logits([first], edits=[arm.mfa.toward(fit, k, 0.0)]), plain)
        one, other = (lm.logits([text], edits=[arm.mfa.toward(fit, k, 1.0)]) for text in (first, second))
        torch.testing.assert_close(one, other)
        before = plain[0, -1].log_softmax(0)
        after = [lm.logits([first], edits=[arm.mfa.toward(fit, k, a)])[0, -1].log_softmax(0) for a in np.linspace(0, 1, 11)]
        kl = [float((before.exp() * (before - one)).sum()) for one in after]
        until = next(i for i, value in enumerate(kl) if value > 5)  # beyond, the distribution is another one anyway
        assert all(later > earlier - 1e-6 for earlier, later in itertools.pairwise(kl[: until + 1]))
        assert isinstance(fit.encoder, MFAEncoder)
        for a in (0.8, 0.9, 1.0):
            x = lm.capture([first], [site], edits=[arm.mfa.toward(fit, k, a)])[site][0].detach()
            assert (fit.encoder.responsibilities(x)[:, k] >= 0.9).all()
        text, steered = (lm.generate(first, max_new_tokens=8, edits=edits)[0].text for edits in ([], [arm.mfa.toward(fit, k, 0.9)]))
        assert text != steered


def test_16_a_planted_variable_is_found_by_regions_and_not_by_as_many_principal_axes() -> None:
    """A network whose answer is one of six places, under louder columns that say nothing: codes of another row are swapped in, and the
    answer follows regions' centroids; as many principal axes hold the loud columns."""
    g = torch.Generator().manual_seed(0)
    places = 3 * torch.linalg.qr(torch.randn(40, 40, generator=g))[0][:6]
    loud = torch.linalg.qr(torch.randn(40, 40, generator=g))[0][:10]
    answer = torch.randint(6, (12_000,), generator=g)
    x = places[answer] + 4 * torch.randn(12_000, 10, generator=g) @ loud + 0.2 * torch.randn(12_000, 40, generator=g)
    inside = torch.eye(40) - torch.linalg.pinv(loud) @ loud  # the network looks past the loud columns

    def network(rows: Tensor) -> Tensor:
        return torch.cdist(rows @ inside, places @ inside).argmin(1)

    assert (network(x) == answer).double().mean() > 0.99
    base, source = x[:4000], x[4000:8000]
    regions = arm.MFA(n_regions=6, rank=10).fit(x, seed=0)
    swapped = regions.with_encoder(arm.mfa.Reading(how="centroid"))
    axes = arm.PCA(n_components=6).fit(x)

    def follows(fit: arm.Decomposition) -> float:
        """Share of rows whose answer becomes the source's as its codes take the place of the base's; what no code holds stays."""
        return float((network(base - fit.reconstruct(base) + fit.reconstruct(source)) == answer[4000:8000]).double().mean())

    assert follows(swapped) > 0.95 and follows(axes) < 0.5
