"""Contexts of regions equal brute force over all rows, whatever the batches; neighbourhoods equal a comparison of all with all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import armillary as arm
from armillary.core.artifact import read_state, write_state
from armillary.core.codes import Codes, sparse_codes
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import Encoder, MixtureEncoder
from armillary.core.rows import PRIORITIES, Permutation, TensorRows
from armillary.errors import CapabilityError, InputError, UnknownNameError
from armillary.inspect import RegionContexts, direction_effects, logit_effects, neighborhoods, region_contexts, region_effects
from armillary.inspect.region_search import DRAWN, FEW, RegionSearch
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.mixture import Mixture
from mixtures import dense, draw
from toys import RESID, SideBySide, ToyLM, fit_of, identity_fit, toy_rows, toy_texts

AXES = 2


@dataclass(frozen=True)
class RoundMixture(MixtureEncoder):
    """Spheres about whole numbers, so that everything is exact and much is tied: log p(x | k) = -|x - c_k|^2 / 2, z = (x - c_k)[:2].

    Args:
        centroids: [F, D].
    """

    centroids: Tensor
    fires: float | None = 0.0

    def _joint(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.centroids).square().sum(2) / 2

    @property
    def weights(self) -> Tensor:
        return torch.full((len(self.centroids),), 1 / len(self.centroids), dtype=torch.float64)

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        share, region = self.top(x, 2)
        return sparse_codes(share, region * (1 + AXES), len(self.centroids) * (1 + AXES))

    def log_likelihood(self, x: Tensor) -> Tensor:
        return self._joint(x).logsumexp(1)

    def responsibilities(self, x: Tensor) -> Tensor:
        return self._joint(x).softmax(1)

    def top(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        order = self._joint(x).sort(dim=1, descending=True, stable=True).indices[:, :n]
        return self.responsibilities(x).gather(1, order), order

    def regions(self, x: Tensor) -> Tensor:
        return self.top(x, 1)[1][:, 0]

    def log_density(self, x: Tensor, region: Tensor) -> Tensor:
        return self._joint(x).gather(1, region[:, None])[:, 0]

    def distance(self, x: Tensor, region: Tensor) -> Tensor:
        return -2 * self.log_density(x, region)

    def posterior(self, x: Tensor, region: Tensor) -> Tensor:
        return (x - self.centroids[region])[:, :AXES]

    def readings(self) -> dict[str, Encoder]:
        return {}

    def overlap(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.exp(-(self.centroids[one] - self.centroids[other]).square().sum(1) / 8)


def round_fit(rows: TensorRows, n_regions: int = 7) -> Decomposition:
    """About rows, none twice; the last one is far from all."""
    centroids = torch.unique(rows.x, dim=0)[:: max(1, len(torch.unique(rows.x, dim=0)) // n_regions)][:n_regions].clone()
    centroids[-1] += 1000
    loadings = torch.eye(rows.x.shape[1], dtype=torch.float64)[:AXES].expand(n_regions, -1, -1)
    return fit_of(Dictionary.of_regions(centroids, loadings), RoundMixture(centroids), rows)


@pytest.fixture(scope="module")
def rows() -> TensorRows:
    model = ToyLM()
    rows = toy_rows(model, model.tokenize(toy_texts(60)), RESID)
    noise = torch.randint(-1, 2, rows.x.shape, generator=torch.Generator().manual_seed(0)) / 2
    return TensorRows((rows.x * 2).round() / 2 + noise, source=rows.layout[0][0], tokens=rows.tokens)


def ranked(score: np.ndarray, allowed: np.ndarray, n: int) -> list[int]:
    """The n allowed rows of largest score, ties by row."""
    row = np.flatnonzero(allowed)
    return row[np.lexsort((row, -score[row]))][:n].tolist()


@dataclass(frozen=True)
class Brute:
    """All there is to rank, from whole arrays: joint [N, F] and z [N, F, R]."""

    joint: np.ndarray
    z: np.ndarray
    log_weight: np.ndarray

    @property
    def order(self) -> np.ndarray:
        return np.argsort(-self.joint, axis=1, kind="stable")[:, :FEW]

    def odds(self, k: int) -> np.ndarray:
        """Against the others among the few."""
        others = np.where(np.arange(self.joint.shape[1]) == k, -np.inf, self.joint)
        kept = np.take_along_axis(others, self.order, axis=1)
        return self.joint[:, k] - np.logaddexp.reduce(kept, axis=1)

    def share(self, k: int) -> np.ndarray:
        return self.joint[:, k] - np.logaddexp.reduce(np.take_along_axis(self.joint, self.order, axis=1), axis=1)

    def check(self, found: RegionContexts, k: int, n: int, n_axis: int, *, seed: int = 0) -> None:
        """Every group of a region, rows and values."""
        n_rows, n_regions = self.joint.shape
        few, home = (self.order == k).any(1), self.order[:, 0] == k
        density, odds = self.joint[:, k] - self.log_weight[k], self.odds(k)
        first, second = self.order[:, 0], self.order[:, 1]
        smaller = np.minimum(*(np.take_along_axis(self.joint, self.order, axis=1)[:, :2].T))
        border = smaller - np.logaddexp.reduce(np.take_along_axis(self.joint, self.order, axis=1), axis=1)
        priority = Permutation(PRIORITIES, seed)(np.arange(n_rows) * n_regions + k).astype(float)
        place = found.place(k)
        groups = {
            "likelihood": (density, few, density, n),
            "responsibility": (odds, few, odds, n),
            "border": (border, (self.order[:, :2] == k).any(1), np.exp(border), n),
            "drawn": (-priority, home, np.exp(self.share(k)), max(n, DRAWN)),
        }
        for name, (score, allowed, value, count) in groups.items():
            pairs = getattr(found, name).of(place)
            wanted = ranked(score, allowed, count)
            assert [row for row, _ in pairs] == wanted, name
            np.testing.assert_allclose([shown for _, shown in pairs], value[wanted], rtol=1e-9, atol=1e-12)
            if name == "border":
                others = np.where(first == k, second, first)[wanted]
                assert found.other[place][: len(wanted)].tolist() == others.tolist()
        for j in range(self.z.shape[2]):
            for side, sign in (("low", -1.0), ("high", 1.0)):
                pairs = getattr(found, side).of(place, j)
                wanted = ranked(sign * self.z[:, k, j], home, n_axis)
                assert [row for row, _ in pairs] == wanted, (side, j)
                np.testing.assert_allclose([z for _, z in pairs], self.z[wanted, k, j], rtol=1e-9)
        assert int(found.n_members[place]) == home.sum()


def brute_of(fit: Decomposition, x: Tensor) -> Brute:
    encoder, every = fit.encoder, range(fit.n_features)
    assert isinstance(encoder, MixtureEncoder)
    log_weight = encoder.weights.double().log().numpy()
    density = [encoder.log_density(x, torch.full((len(x),), k)).numpy() for k in every]
    z = [encoder.posterior(x, torch.full((len(x),), k)).numpy() for k in every]
    return Brute(np.stack(density, 1) + log_weight, np.stack(z, 1), log_weight)


@pytest.mark.parametrize("batch_size", [7, 100, 4096])
def test_every_group_equals_brute_force_with_ties(rows: TensorRows, batch_size: int) -> None:
    fit = round_fit(rows)
    brute = brute_of(fit, rows.x)
    assert len(np.unique(brute.joint)) < brute.joint.size / 4  # much is tied
    found = region_contexts(fit, rows, n=12, n_axis=5, batch_size=batch_size)
    assert found.n_rows == rows.n_rows == int(found.n_members.sum())
    for k in range(fit.n_features):
        brute.check(found, k, n=12, n_axis=5)


def test_every_group_of_a_mixture_of_factor_analyzers_equals_dense_gaussians() -> None:
    data = draw(1500, k=6, d=10, r=3, apart=1.5, seed=3)
    m = data.mixture
    fit = Decomposition(Dictionary.of_regions(m.centroids, m.loadings), MFAEncoder(m), **layouts(data.x))
    covariance = [dense(m, k).covariance_matrix for k in range(6)]
    z = [(data.x - m.centroids[k]) @ torch.linalg.solve(covariance[k], m.loadings[k].T) for k in range(6)]  # W C^-1 (x - mu)
    log_weight = m.log_weight.numpy()
    joint = np.stack([dense(m, k).log_prob(data.x).numpy() for k in range(6)], 1) + log_weight
    brute = Brute(joint, torch.stack(z, 1).numpy(), log_weight)
    found = region_contexts(fit, data.x, n=8, n_axis=4, batch_size=128, seed=2)
    for k in range(6):
        brute.check(found, k, n=8, n_axis=4, seed=2)


def layouts(x: Tensor) -> dict[str, object]:
    return {"inputs": TensorRows(x).layout, "targets": TensorRows(x).layout}


def search(rows: TensorRows) -> RegionSearch:
    return RegionSearch(round_fit(rows), rows, n=6, n_axis=3, regions=None, window=(2, 2), batch_size=50, seed=1)


def test_killed_and_resumed_or_split_over_ranks_gives_the_same(rows: TensorRows, tmp_path: Path) -> None:
    whole, first, second = search(rows), search(rows), search(rows)
    for i, batch in enumerate(rows.batches(50)):
        whole.update(batch)
        (first if i % 2 else second).update(batch)
    write_state(tmp_path / "state", second.state())
    resumed = search(rows)
    resumed.load(read_state(tmp_path / "state"))
    np.testing.assert_array_equal(resumed.finish().border.row, second.finish().border.row)
    resumed.merge([read_state(tmp_path / "state"), dict(first.state())])
    one, other = whole.finish(), resumed.finish()
    for name in ("likelihood", "responsibility", "border", "drawn", "low", "high"):
        np.testing.assert_array_equal(getattr(one, name).row, getattr(other, name).row)
        np.testing.assert_array_equal(getattr(one, name).value, getattr(other, name).value)
    for name in ("other", "n_members", "n_rows"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_rows_in_another_order_give_the_same(rows: TensorRows) -> None:
    whole, shuffled = search(rows), search(rows)
    for batch in rows.batches(50):
        whole.update(batch)
    for batch in rows.batches(50, seed=4):
        shuffled.update(batch)
    for name in ("likelihood", "responsibility", "border", "drawn", "low", "high"):
        np.testing.assert_array_equal(getattr(whole.finish(), name).row, getattr(shuffled.finish(), name).row)


def test_only_some_regions_show_what_all_of_them_show(rows: TensorRows) -> None:
    fit = round_fit(rows)
    every, some = region_contexts(fit, rows), region_contexts(fit, rows, regions=[4, 1, 4])
    assert some.regions.tolist() == [4, 1]
    assert (some.n_rows, some.share(1)) == (every.n_rows, every.share(1))
    for k in (4, 1):
        assert some.windows(k) == every.windows(k)
        assert some.tokens(k) == every.tokens(k)
    with pytest.raises(UnknownNameError, match="unknown region among the contexts '3'"):
        some.windows(3)


def test_windows_show_text_responsibilities_and_neighbours(rows: TensorRows) -> None:
    fit = round_fit(rows)
    found = region_contexts(fit, rows, n=6, n_axis=3, window=(3, 2))
    share = fit.activations(rows.x).dense()
    shown = found.windows(2)
    place = found.place(2)
    assert [(window.row, window.value) for window in shown.likelihood] == found.likelihood.of(place)
    assert [(window.row, window.value) for window in shown.drawn] == found.drawn.of(place)[:6]
    assert [[window.row for window in axis] for axis in shown.high] == [[row for row, _ in found.high.of(place, j)] for j in range(AXES)]
    assert len(shown.neighbors) == len(shown.border) == 6
    for window in (*shown.responsibility, *shown.border, *shown.low[1]):
        assert window.text == rows.tokens.window(window.row, 3, 2)
        around = [float(share[window.row + i - window.centre, 2]) for i in range(len(window.tokens))]
        assert list(window.activations) == pytest.approx(around)


def test_tokens_are_those_of_the_drawn_members(rows: TensorRows) -> None:
    found = region_contexts(round_fit(rows), rows)
    drawn = [row for row, _ in found.drawn.of(0)]
    texts = [rows.tokens.text(rows.tokens.rows[row]) for row in drawn]
    counted = found.tokens(0, n=3)
    assert 0 < len(counted) <= 3
    assert all(texts.count(text) == count for text, count in counted)
    assert counted[0][1] == max(texts.count(text) for text in texts)


def test_rows_without_text_and_rows_that_cannot_be_fetched(rows: TensorRows) -> None:
    fit = round_fit(rows)
    bare = region_contexts(fit, TensorRows(rows.x), n=2)
    assert bare.tokens(1) == []
    window = bare.windows(1).likelihood[0]
    assert (window.tokens, window.document, len(window.activations)) == (("",), -1, 1)
    stream = SideBySide(rows)
    found = region_contexts(fit, stream, n=2, window=(3, 2))
    assert stream.n_reads == 1
    assert found.windows(1).border[0].text == rows.tokens.window(found.windows(1).border[0].row, 3, 2)
    assert set(found.windows(1).border[0].activations) == {None}


def test_special_tokens_are_left_out() -> None:
    model = ToyLM()
    plain = model.tokenize(toy_texts(8))
    rows = toy_rows(model, replace(plain, is_row=np.ones(len(plain), bool)), RESID)
    found = region_contexts(round_fit(rows, 3), rows, n=500)
    assert found.n_rows == plain.n_rows
    for kept in (found.likelihood, found.border, found.drawn, found.low):
        row = kept.row[kept.row >= 0]
        assert len(row) and not rows.tokens.is_special[row].any()


def test_one_region_has_no_border(rows: TensorRows) -> None:
    found = region_contexts(round_fit(rows, 1), rows, n=3)
    shown = found.windows(0)
    assert (shown.border, shown.neighbors, len(shown.likelihood), len(shown.drawn)) == ((), (), 3, 3)
    assert neighborhoods(round_fit(rows, 1)).of(0) == []


def test_a_region_without_rows_shows_whom_it_comes_near(rows: TensorRows) -> None:
    found = region_contexts(fit := round_fit(rows, 4), rows, n=3)
    assert int(found.n_members[3]) == 0
    shown = found.windows(3)
    assert (shown.drawn, *shown.low, *shown.high) == ((), *[()] * 2 * AXES)
    assert len(shown.likelihood) == 3  # with four regions all are among the few
    assert fit.n_features == FEW


def test_what_is_asked_must_make_sense(rows: TensorRows) -> None:
    fit = round_fit(rows)
    with pytest.raises(InputError, match="something to keep"):
        region_contexts(fit, rows, n=0, n_axis=0)
    with pytest.raises(InputError, match=r"region 7 is out of range: there are 7 \(0 to 6\)"):
        region_contexts(fit, rows, regions=[1, 7])
    for call in (lambda: region_contexts(identity_fit(rows), rows), lambda: neighborhoods(identity_fit(rows))):
        with pytest.raises(InputError, match=r"no mixture.*arm\.MFA"):
            call()


# ---------------------------------------------------------------- neighbourhoods


def test_neighborhoods_equal_a_comparison_of_all_with_all() -> None:
    data = draw(10, k=30, d=8, r=2, apart=1.0)
    m: Mixture = data.mixture
    fit = Decomposition(Dictionary.of_regions(m.centroids, m.loadings), MFAEncoder(m), **layouts(data.x))
    size = arm.mfa.overlap(fit).fill_diagonal_(-1)
    found = neighborhoods(fit, 4, n_candidates=29)
    for k in range(30):
        best = size[k].topk(4)
        assert [other for other, _ in found.of(k)] == best.indices.tolist()
        np.testing.assert_allclose([overlap for _, overlap in found.of(k)], best.values, rtol=1e-9)
    few = neighborhoods(fit, 4, regions=[5, 3], n_candidates=29)
    assert few.regions.tolist() == [5, 3]
    with pytest.raises(UnknownNameError, match="unknown region among the neighborhoods '4'"):
        few.of(4)
    assert dict(few.of(3)) == pytest.approx(dict(found.of(3)), rel=1e-9)


def test_candidates_are_the_nearest_centroids() -> None:
    centroids = torch.arange(12, dtype=torch.float64)[:, None] ** 2 / 10
    fit = Decomposition(Dictionary.of_regions(centroids, centroids[:, None]), RoundMixture(centroids), **layouts(centroids))
    assert [other for other, _ in neighborhoods(fit, 2, n_candidates=2).of(6)] == [5, 7]
    assert [other for other, _ in neighborhoods(fit, 5, n_candidates=1).of(6)] == [5, 7, 4, 3, 8]


# ---------------------------------------------------------------- promoted tokens


def test_effects_of_a_region_are_those_of_its_centroid_and_of_both_ends_of_its_axes(rows: TensorRows) -> None:
    model, fit = ToyLM(), round_fit(rows)
    found = region_effects(model, fit, 2, k=3)
    assert found.centroid == logit_effects(model, fit, [2], k=3)[0]
    assert len(found.axes) == AXES
    for j, effect in enumerate(found.axes):
        logits = model.unembedding[j]  # loadings are unit vectors, and this model's unembedding has no bias
        assert effect.feature == 2
        assert [token.id for token in effect.promoted] == logits.argsort(descending=True)[:3].tolist()
        assert [token.id for token in effect.suppressed] == (-logits).argsort(descending=True)[:3].tolist()  # what minus the axis promotes
        assert effect.suppressed[0].logit == pytest.approx(float(logits.min()))


def test_given_directions_are_scaled_to_length_one(rows: TensorRows) -> None:
    model, fit = ToyLM(), round_fit(rows)
    directions = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    short, long = direction_effects(model, fit, directions, k=2), direction_effects(model, fit, 50 * directions, k=2)
    assert [effect.feature for effect in short] == [0, 1, 2]
    for one, other, direction in zip(short, long, directions, strict=True):
        assert one.promoted[0].logit == pytest.approx(other.promoted[0].logit)
        assert one.promoted[0].logit == pytest.approx(float((direction / direction.norm() @ model.unembedding).max()))
    with pytest.raises(CapabilityError, match="no next-token logits"):
        direction_effects(ToyLM(has_logits=False), fit, directions)
