"""How many regions, of which rank, and what that takes: planted numbers are found, and plans are near what is held."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import armillary as arm
from armillary.core.dictionary import Dictionary
from armillary.errors import InputError, NonFiniteError, ShapeError
from armillary.inspect import region_agreement
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.regions import mixture_of
from armillary.methods.mfa.rotation import strengths
from armillary.methods.mfa.spectrum import of_own_rank, worth_keeping
from mixtures import draw, log_likelihood

DATA = draw(4000, k=6, d=20, r=3, seed=1)


def of_ranks(ranks: list[int], d: int = 30, n: int = 6000) -> tuple[Tensor, Mixture]:
    """Rows of a mixture whose regions have these ranks."""
    m = draw(1, k=len(ranks), d=d, r=max(ranks), apart=6.0, noise=0.3).mixture
    keep = torch.arange(max(ranks)) < torch.tensor(ranks)[:, None]
    m = Mixture(torch.zeros(len(ranks)).double() - np.log(len(ranks)), m.centroids, m.loadings * keep[:, :, None], m.noise)
    g = torch.Generator().manual_seed(0)
    k = torch.arange(n) % len(ranks)
    z = torch.randn(n, max(ranks), generator=g, dtype=torch.float64)
    noise = m.noise.sqrt() * torch.randn(n, d, generator=g, dtype=torch.float64)
    return m.centroids[k] + torch.einsum("nr,nrd->nd", z, m.loadings[k]) + noise, m


# ---------------------------------------------------------------- ranks


def test_strengths_are_variances_in_units_of_the_noise() -> None:
    m = draw(1, k=3, d=12, r=2).mixture
    for k in range(3):
        whole = torch.linalg.eigvalsh((m.loadings[k].T @ m.loadings[k]) / m.noise[0].sqrt() / m.noise[0].sqrt()[:, None])
        torch.testing.assert_close(strengths(m)[k], whole.flip(0)[:2])


def test_an_axis_of_pure_noise_is_given_up_and_a_strong_one_kept() -> None:
    m = draw(1, k=2, d=50, r=2).mixture
    edge = (1 + (50 / 500) ** 0.5) ** 2 - 1  # of a region that holds half of 1,000 rows
    unit = torch.linalg.qr(torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0].T.view(2, 2, 50)
    sizes = torch.tensor([[4.0, 1.1 * edge], [2.0, 0.9 * edge]]).double()
    even = Mixture(torch.zeros(2).double() - np.log(2), m.centroids, unit * sizes[:, :, None].sqrt() * m.noise.sqrt(), m.noise)
    assert worth_keeping(even, 1000, "spectrum").tolist() == [[True, True], [True, False]]
    gains = 500 * (sizes - torch.log1p(sizes))
    assert torch.equal(worth_keeping(even, 1000, "bic"), gains > torch.tensor([50.0, 49]) * np.log(1000))
    assert not worth_keeping(even, 20, "bic").any()


@pytest.mark.parametrize("how", ["spectrum", "bic"])
def test_planted_ranks_are_found(how: str) -> None:
    """Experiment 5, smaller: within one for all, and exactly for most."""
    planted = [1, 2, 3, 4, 1, 3]
    x, truth = of_ranks(planted)
    fit = arm.MFA(n_regions=6, rank=5, rank_selection=how).fit(x, seed=0)  # type: ignore[arg-type]
    of = torch.cdist(mixture_of(fit).centroids.double(), truth.centroids).argmin(1)
    away = (arm.mfa.ranks(fit) - torch.tensor(planted)[of]).abs()
    assert int(away.max()) <= 1 and (how == "spectrum" or int(away.sum()) == 0)
    assert fit.provenance["mean_rank"] == pytest.approx(float(arm.mfa.ranks(fit).double().mean()))
    full = arm.MFA(n_regions=6, rank=5).fit(x, seed=0)
    assert arm.mfa.n_parameters(fit) < arm.mfa.n_parameters(full)
    assert arm.mfa.criteria(fit, x).bic.value < arm.mfa.criteria(full, x).bic.value  # type: ignore[operator]


def test_given_up_axes_stay_so_while_more_rows_stream_by() -> None:
    x, _ = of_ranks([1, 2, 2], n=4000)
    fit = arm.MFA(n_regions=3, rank=4, rank_selection="bic", max_rows=1500, batch_size=500, n_passes=2).fit(x, seed=0)
    assert sorted(arm.mfa.ranks(fit).tolist()) == [1, 2, 2]
    assert fit.encoder.posterior(x[:5].float(), fit.encoder.regions(x[:5].float())).isfinite().all()  # type: ignore[attr-defined]


def test_an_axis_that_is_not_there_explains_nothing() -> None:
    """Neither in the additive reading, which would choose such a region, nor where two fits' subspaces are compared."""
    x, _ = of_ranks([1, 1, 1, 1], n=3000)
    seeds = [arm.MFA(n_regions=4, rank=4, rank_selection="bic").fit(x, seed=seed) for seed in (0, 1)]
    assert all(arm.mfa.ranks(fit).tolist() == [1] * 4 for fit in seeds)
    found = region_agreement(*seeds, x.float())["subspace_overlap"]
    assert found.value > 0.99 and found.null < 0.3  # type: ignore[operator]
    centroids = torch.tensor([[3.0, 0, 0, 0], [0, 0, 0, 1.0]])
    mixture = Mixture(torch.zeros(2) - np.log(2), centroids, torch.tensor([[[0, 1.0, 0, 0]], [[0.0] * 4]]), torch.ones(1, 4))
    layout = ((None, 4),)
    fit = arm.Decomposition(
        Dictionary.of_regions(centroids, mixture.loadings), MFAEncoder(mixture, how="additive", n_top=1), layout, layout
    )
    for row, wanted in (([0.0, 0, 2, 1.5], 1), ([0.0, 2, 0, 1.5], 0)):
        assert fit.activations(torch.tensor([row])).dense().abs().argmax() == wanted


def test_nothing_is_given_up_twice() -> None:
    found = of_own_rank(DATA.mixture, 4000, "bic")
    again = of_own_rank(found, 4000, "bic")
    torch.testing.assert_close(again.loadings, found.loadings)


# ---------------------------------------------------------------- starts


def test_a_grown_fit_has_the_same_rows_in_more_regions() -> None:
    fit = arm.MFA(n_regions=3, rank=3).fit(DATA.x.float(), seed=0)
    grown = arm.mfa.grow(fit, 7)
    m = mixture_of(grown)
    assert m.n_regions == 7 and float(m.log_weight.logsumexp(0)) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(m.log_weight.exp() @ m.centroids, mixture_of(fit).log_weight.exp() @ mixture_of(fit).centroids)
    assert log_likelihood(m, DATA.x.float()) > log_likelihood(mixture_of(fit), DATA.x.float()) - 2
    with pytest.raises(InputError, match="2 regions are fewer than the fit's 3"):
        arm.mfa.grow(fit, 2)


@pytest.mark.parametrize("with_loadings", [False, True])
def test_a_fit_begins_where_it_is_told(with_loadings: bool) -> None:
    truth = DATA.mixture
    start = arm.mfa.regions_at(truth.centroids.numpy(), truth.loadings if with_loadings else None)
    fit = arm.MFA(n_regions=6, rank=3, split_merge=False).fit(DATA.x.float(), start=start)
    if with_loadings:
        at_once = arm.MFA(n_regions=6, rank=3, split_merge=False, n_iter=0).fit(DATA.x.float(), start=start)
        assert at_once.provenance["curve"][0]["log_likelihood"] > DATA.oracle - 1  # the truth's axes, and noise of the rows
        wrong = arm.mfa.regions_at(truth.centroids, 100 * truth.loadings)
        astray = arm.MFA(n_regions=6, rank=3, n_iter=0).fit(DATA.x.float(), start=wrong).provenance["curve"]
        assert astray[0]["log_likelihood"] < DATA.oracle - 5
    assert float(fit.encoder.log_likelihood(DATA.held_out.float()).double().mean()) > DATA.oracle - 0.5  # type: ignore[attr-defined]


def test_places_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"centroids must be \[K, D\]"):
        arm.mfa.regions_at(torch.zeros(3))
    with pytest.raises(NonFiniteError, match="must be finite"):
        arm.mfa.regions_at(torch.full((3, 4), torch.nan))
    with pytest.raises(ShapeError, match=r"\[3, 4\] and \[3, 2, 5\]"):
        arm.mfa.regions_at(torch.zeros(3, 4), torch.zeros(3, 2, 5))


# ---------------------------------------------------------------- how many


@pytest.fixture(scope="module")
def chosen() -> arm.mfa.Selection:
    return arm.mfa.select(arm.MFA(n_regions=1), DATA.x.float(), DATA.held_out.float(), n_regions=[9, 4, 6], ranks=[1, 3], seed=0)


def test_the_planted_size_is_the_elbow(chosen: arm.mfa.Selection) -> None:
    """Experiment 6, smaller."""
    assert (chosen.elbow.n_regions, chosen.elbow.rank) == (6, 3)
    assert chosen.best.value - chosen.elbow.value < 0.5 and chosen.elbow.value > DATA.oracle - 0.5
    assert [(one.n_regions, one.rank) for one in chosen.candidates] == [(4, 1), (6, 1), (9, 1), (4, 3), (6, 3), (9, 3)]


def test_a_selection_reports_all_it_tried(chosen: arm.mfa.Selection) -> None:
    report = chosen.report()
    table = report.tables["fits"]
    at = table["behind"].index(0.0)
    assert (table["regions"][at], table["rank"][at]) == (chosen.best.n_regions, chosen.best.rank)
    assert all(value <= 0 for value in table["behind"]) and table["behind_high"][0] < 0
    assert table["bic"][4] == min(table["bic"])
    assert [len(trace["x"]) for trace in report.figures["held-out log-likelihood"]["data"]] == [3, 3]
    assert any("the highest rank" in line for line in report.warnings)


def test_a_larger_fit_is_no_worse_than_from_a_start_of_its_own(chosen: arm.mfa.Selection) -> None:
    alone = arm.MFA(n_regions=9, rank=3).fit(DATA.x.float(), seed=0)
    assert chosen.candidates[-1].fit.provenance["log_likelihood"] >= alone.provenance["log_likelihood"] - 1e-9


def test_nothing_to_try_is_refused() -> None:
    with pytest.raises(InputError, match="n_regions is empty"):
        arm.mfa.select(arm.MFA(n_regions=1), DATA.x, DATA.held_out, n_regions=[])


# ---------------------------------------------------------------- memory


def test_a_shared_mixture_needs_less_of_every_rank() -> None:
    method = arm.MFA(n_regions=32768, rank=10, shard=True, max_rows=100_000)
    alone, shared = (sum(method.memory(4096, 10**8, world=world).values()) for world in (1, 8))
    assert shared < alone / 4
    assert method.memory(4096, 10)["rows"] < method.memory(4096, 10**8)["rows"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux reports it")
def test_what_is_held_is_what_was_planned() -> None:
    code = (
        "import re, torch, armillary as arm\n"
        "def peak(): return 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "torch.set_num_threads(1)\n"
        "x = torch.randn(60_000, 256)\n"
        "m = arm.MFA(n_regions=600, rank=8, max_rows=20_000, n_passes=1, split_merge=False)\n"
        "before = peak()\n"
        "m.fit(x)\n"
        "print(peak() - before, sum(m.memory(256, 60_000).values()))\n"
    )
    held, planned = map(int, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert 0.3 * planned < held < 1.3 * planned
