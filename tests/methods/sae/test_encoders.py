"""TopKEncoder: k codes per row, the same whatever rows come along."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from armillary.core.artifact import load
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.methods.sae import kernels
from armillary.methods.sae.encoders import TopKEncoder


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def encoder() -> TopKEncoder:
    return TopKEncoder(draw(1024, 16, seed=1), 0.1 * draw(1024, seed=2), draw(16, seed=3), k=12)


def test_the_k_largest_positive_codes_are_kept(encoder: TopKEncoder) -> None:
    x = draw(50, 16, seed=0)
    p = (x - encoder.center) @ encoder.W_enc.T + encoder.b_enc
    wanted = torch.zeros_like(p).scatter(1, p.topk(12).indices, p.topk(12).values.relu())
    codes = encoder.encode(x)
    assert codes.value.shape == (50, 12) and codes.index is not None and codes.n_atoms == 1024
    torch.testing.assert_close(codes.dense(), wanted, rtol=1e-5, atol=1e-5)


def test_negative_winners_are_unused_slots() -> None:
    encoder = TopKEncoder(torch.eye(4), torch.zeros(4), torch.zeros(4), k=3)
    codes = encoder.encode(torch.tensor([[2.0, -1, -2, 1], [-1, -1, -1, -1]]))
    assert codes.index is not None
    assert codes.l0().tolist() == [2, 0]
    assert codes.index[codes.value == 0].eq(0).all()
    assert encoder.encode(torch.ones(1, 4, dtype=torch.float64)).value.dtype == torch.float32


@pytest.mark.parametrize("chunk", [1, 7, 64, 10_000])
def test_codes_do_not_depend_on_the_chunk(encoder: TopKEncoder, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(600, 16, seed=0)
    whole = encoder.encode(x).dense()
    monkeypatch.setattr(kernels, "CPU_ROWS", chunk)
    torch.testing.assert_close(encoder.encode(x).dense(), whole, rtol=1e-5, atol=1e-5)


def test_codes_pass_gradients_back_to_rows(encoder: TopKEncoder) -> None:
    x = draw(5, 16, seed=0).requires_grad_()
    encoder.encode(x).value.sum().backward()
    codes = encoder.encode(x)
    assert codes.index is not None and x.grad is not None
    wanted = torch.stack([encoder.W_enc[index[value > 0]].sum(0) for value, index in zip(codes.value, codes.index, strict=True)])
    torch.testing.assert_close(x.grad, wanted, rtol=1e-5, atol=1e-5)


def test_saved_and_loaded(encoder: TopKEncoder, tmp_path: Path) -> None:
    layout = ((None, 16),)
    fit = Decomposition(Dictionary.of_directions(draw(1024, 16, seed=4), encoder.center), encoder, layout, layout)
    fit.save(tmp_path / "fit")
    x = draw(20, 16, seed=0)
    again = load(tmp_path / "fit")
    assert torch.equal(again.encode(x).dense(), fit.encode(x).dense())
    assert torch.equal(again.reconstruct(x), fit.reconstruct(x))
