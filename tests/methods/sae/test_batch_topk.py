"""BatchTopK: the batch's largest codes whatever is searched first, autograd's gradients, and a threshold that takes the batch's place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import armillary as arm
from armillary.errors import InputError
from armillary.methods.sae.batch_topk import BatchTopK
from armillary.methods.sae.encoders import ThresholdEncoder
from armillary.methods.sae.step import Active
from armillary.methods.sae.weights import Weights

N, D, K = 300, 10, 3


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(m: int) -> Weights:
    W_dec = torch.nn.functional.normalize(draw(m, D, seed=1), dim=1)
    return Weights(0.7 * W_dec + 0.2 * draw(m, D, seed=2), 0.3 * draw(m, seed=3), W_dec, 0.2 * draw(D, seed=4))


def largest(p: Tensor, n: int) -> Tensor:
    """The n largest entries of the whole of p that are above zero, as a dense matrix that autograd follows."""
    value, index = p.flatten().topk(n)
    return torch.zeros_like(p.flatten()).scatter(0, index, value.relu()).view_as(p)


def dense(active: Active, n: int, m: int) -> Tensor:
    return torch.zeros(n, m, dtype=torch.float64).index_put_((active.row, active.latent), active.value)


@pytest.mark.parametrize("m", [48, 37])
@pytest.mark.parametrize("bound", [None, 0.0, 0.3, 50.0])
def test_the_batchs_largest_codes_are_kept_wherever_the_search_begins(m: int, bound: float | None) -> None:
    x, w = draw(N, D, seed=0), weights(m)
    selection = BatchTopK(K)
    selection._bound = bound
    active = selection.active(x, w)
    wanted = largest(x @ w.W_enc.T + w.b_enc, N * K)
    torch.testing.assert_close(dense(active, N, m), wanted)
    assert active.cut == pytest.approx(float(wanted[wanted > 0].min()))
    assert torch.equal(active.row, active.row.sort().values)
    count = torch.bincount(active.row, minlength=N)
    assert torch.equal(active.start, count.cumsum(0) - count)


def test_fewer_positive_codes_than_are_wanted_are_all_kept() -> None:
    x, w = draw(N, D, seed=0), weights(8)
    low = Weights(w.W_enc, w.b_enc - 2, w.W_dec, w.b_dec)
    p = x @ low.W_enc.T + low.b_enc
    active = BatchTopK(8).active(x, low)
    assert 0 < len(active.value) == int((p > 0).sum()) < N * 8
    none = BatchTopK(8).active(x, Weights(w.W_enc, w.b_enc - 100, w.W_dec, w.b_dec))
    assert len(none.value) == 0 and none.cut == 0


def test_a_threshold_encoder_keeps_what_exceeds_it() -> None:
    x, w = draw(N, D, seed=0), weights(48)
    threshold = draw(48, seed=9).abs()
    p = (x - w.b_dec) @ w.W_enc.T + w.b_enc
    codes = ThresholdEncoder(w.W_enc, w.b_enc, w.b_dec, threshold).encode(x)
    torch.testing.assert_close(codes.dense(), p * (p > threshold))
    assert codes.value.shape[1] == int((p > threshold).sum(1).max())
    assert ThresholdEncoder(w.W_enc, w.b_enc, w.b_dec, threshold).encode(x[:0]).dense().shape == (0, 48)


def planted(n: int, seed: int) -> Tensor:
    """Rows with 2 of 24 directions on average, whose number differs from row to row."""
    atoms = torch.nn.functional.normalize(torch.randn(24, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    draw = torch.Generator().manual_seed(seed)
    return ((torch.rand(n, 24, generator=draw) < 2 / 24) * (1 + torch.rand(n, 24, generator=draw))) @ atoms


def test_the_threshold_gives_k_codes_on_average_and_a_number_per_row_that_differs() -> None:
    method = arm.BatchTopKSAE(n_features=24, k=2, n_steps=400, batch_size=512)
    fit = method.fit(planted(8192, 1), seed=0)
    held_out = planted(4096, 2)
    l0 = fit.encode(held_out).l0().double()
    assert float(l0.mean()) == pytest.approx(2, rel=0.03)
    assert float(l0.std()) > 0.5
    one_by_one = fit.encode(held_out[:5])
    torch.testing.assert_close(one_by_one.dense(), fit.encode(held_out).dense()[:5])


def test_it_beats_a_fixed_number_of_codes_where_rows_differ() -> None:
    sizes = {"n_features": 24, "k": 2, "n_steps": 400, "batch_size": 512}
    x, held_out = planted(8192, 1), planted(4096, 2)
    error = [
        float((held_out - method.fit(x, seed=0).reconstruct(held_out)).square().sum())
        for method in (arm.BatchTopKSAE(**sizes), arm.TopKSAE(**sizes))
    ]
    assert error[0] < 0.8 * error[1]


def test_a_fit_can_be_gone_on_with(tmp_path: object) -> None:
    method = arm.BatchTopKSAE(n_features=24, k=2, n_steps=20, batch_size=512)
    first = method.fit(planted(2048, 1), seed=0)
    again = method.fit(planted(2048, 1), seed=0, start=first)
    assert again.provenance["final"]["fvu"] < first.provenance["curve"][0]["fvu"]


def test_k_above_the_number_of_features_is_refused() -> None:
    with pytest.raises(InputError, match="must be at most n_features, 4"):
        arm.BatchTopKSAE(n_features=4, k=5)
