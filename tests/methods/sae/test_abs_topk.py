"""AbsTopK: signed codes, autograd's gradients, and half the features where concepts have two ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import armillary as arm
from armillary.errors import InputError
from armillary.methods.sae.encoders import AbsTopKEncoder
from armillary.methods.sae.step import Weights

N, D, M, K = 60, 10, 40, 3


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights() -> Weights:
    W_dec = torch.nn.functional.normalize(draw(M, D, seed=1), dim=1)
    return Weights(0.7 * W_dec + 0.2 * draw(M, D, seed=2), 0.3 * draw(M, seed=3), W_dec, 0.2 * draw(D, seed=4))


def largest(p: Tensor) -> Tensor:
    """The K entries of each row largest in magnitude, as a dense matrix that autograd follows."""
    index = p.abs().topk(K, dim=1).indices
    return torch.zeros_like(p).scatter(1, index, p.gather(1, index))


def test_the_encoder_keeps_the_largest_magnitudes_with_their_signs() -> None:
    x, w = draw(N, D, seed=0), weights()
    codes = AbsTopKEncoder(w.W_enc, w.b_enc, w.b_dec, K).encode(x)
    torch.testing.assert_close(codes.dense(), largest((x - w.b_dec) @ w.W_enc.T + w.b_enc))
    assert (codes.value < 0).any() and (codes.l0() == K).all()


def test_twelve_axes_with_two_ends_need_twelve_features() -> None:
    """Rows with 2 of 12 directions, each with either sign: TopK would need 24 latents for that."""
    atoms = torch.nn.functional.normalize(torch.randn(12, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    rng = torch.Generator().manual_seed(1)
    which = torch.rand(8192, 12, generator=rng).topk(2, dim=1).indices
    sign = torch.randint(0, 2, (8192, 12), generator=rng) * 2.0 - 1
    x = (torch.zeros(8192, 12).scatter(1, which, 1.0) * sign * (1 + torch.rand(8192, 12, generator=rng))) @ atoms
    sizes = {"n_features": 12, "k": 2, "n_steps": 400, "batch_size": 512}
    signed, rectified = (method(**sizes).fit(x, seed=0) for method in (arm.AbsTopKSAE, arm.TopKSAE))
    error = [float((x - fit.reconstruct(x)).square().sum() / x.square().sum()) for fit in (signed, rectified)]
    assert error[0] < 0.1
    assert error[1] > 0.2
    cosine = (torch.nn.functional.normalize(signed.dictionary.atoms, dim=1) @ atoms.T).abs()
    assert float(cosine.amax(0).mean()) > 0.97


def test_k_above_the_number_of_features_is_refused() -> None:
    with pytest.raises(InputError, match="must be at most n_features, 4"):
        arm.AbsTopKSAE(n_features=4, k=5)
