"""The fast kernels give what the plain operators give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from armillary.core import onednn
from armillary.core.onednn import linear
from armillary.methods.sae import kernels
from armillary.methods.sae.kernels import bag, column_order, entries_above, topk_linear, topk_rows


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WIDTHS = (1, 7, 64, 512, 520, 1000, 1024, 4096, 8192, 8200, 3 * 4096)


@pytest.mark.parametrize(("width", "k"), [(width, k) for width in WIDTHS for k in (1, 5, 32, 64, 128, 700) if k <= width])
def test_tournament_is_topk(width: int, k: int) -> None:
    p = draw(6, width, seed=width + k)
    value, index = topk_rows(p, k)
    wanted = torch.topk(p, k, dim=1)
    assert torch.equal(value.sort(dim=1, descending=True).values, wanted.values)
    assert torch.equal(index.sort(dim=1).values, wanted.indices.sort(dim=1).values)
    assert torch.equal(p.gather(1, index), value)


@pytest.mark.parametrize("g", [2, 4, 16])
def test_tournament_of_other_groups(g: int) -> None:
    p = draw(5, 4096, seed=g)
    assert torch.equal(topk_rows(p, 20, g)[0].sort(dim=1, descending=True).values, torch.topk(p, 20, dim=1).values)


def test_tournament_with_ties_takes_each_column_once() -> None:
    p = draw(20, 2048).mul(2).round()
    value, index = topk_rows(p, 50)
    assert all(len(set(row)) == 50 for row in index.tolist())
    assert torch.equal(value.sort(dim=1, descending=True).values, torch.topk(p, 50, dim=1).values)


def test_tournament_of_no_rows() -> None:
    assert topk_rows(torch.zeros(0, 8192), 32)[1].shape == (0, 32)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (257, 64, 130), (0, 8, 4), (4, 8, 0)])
def test_linear_is_linear(shape: tuple[int, int, int]) -> None:
    n, d, m = shape
    x, weight, bias = draw(n, d), draw(m, d, seed=1), draw(m, seed=2)
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)


def test_linear_of_a_transposed_operand() -> None:
    x, weight = draw(40, 30).T, draw(40, 20, seed=1).T
    torch.testing.assert_close(linear(x, weight), x @ weight.T, rtol=1e-5, atol=1e-5)


def test_linear_keeps_double_precision_and_the_graph() -> None:
    x, weight = draw(4, 6).double().requires_grad_(), draw(5, 6, seed=1).double()
    assert torch.autograd.gradcheck(lambda one: linear(one, weight), (x,))
    single = draw(4, 6).requires_grad_()
    linear(single, weight.float()).sum().backward()
    torch.testing.assert_close(single.grad, weight.float().sum(0).expand(4, 6))


@pytest.mark.parametrize("fault", [AttributeError, RuntimeError, None])
def test_a_onednn_that_is_missing_or_wrong_is_not_used(fault: type[Exception] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if fault is not None:
            raise fault("no such operator")
        return F.linear(x, weight, bias) + 1e-3

    monkeypatch.setattr(onednn, "_onednn", broken)
    onednn.agrees.cache_clear()
    try:
        assert not onednn.agrees()
        x, weight, bias = draw(300, 16), draw(70, 16, seed=1), draw(70, seed=2)
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    finally:
        onednn.agrees.cache_clear()


def test_topk_of_a_product_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = draw(100, 16), draw(1024, 16, seed=1), draw(1024, seed=2)
    whole_value, whole_index = topk_rows(F.linear(x, weight, bias), 8)
    monkeypatch.setattr(kernels, "CPU_ROWS", 7)
    value, index = topk_linear(x, weight, bias, 8)
    torch.testing.assert_close(value.sort().values, whole_value.sort().values, rtol=1e-5, atol=1e-5)
    assert torch.equal(index.sort().values, whole_index.sort().values)


def test_bags_over_the_column_order_are_the_transposed_product() -> None:
    n, m, k, d = 50, 40000, 6, 8  # more latents than 16 bits hold
    index = torch.randint(m, (n, k), generator=torch.Generator().manual_seed(0))
    index[:, 0] = 17  # one latent of every row
    value, table = draw(n, k), draw(n, d, seed=1)
    order, start = column_order(index.flatten(), m)
    found = bag(table, torch.arange(n).repeat_interleave(k)[order], start, value.flatten()[order])
    dense = torch.zeros(n, m).scatter_add(1, index, value)
    torch.testing.assert_close(found, dense.T @ table, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- bfloat16


@pytest.mark.parametrize("by_magnitude", [False, True])
def test_bfloat16_finds_the_same_entries_but_for_ties_and_scores_them_exactly(by_magnitude: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((300, 64), (1024, 64), (1024,)))
    exact = x @ weight.T + bias
    value, index = topk_linear(x, weight, bias, 16, by_magnitude=by_magnitude, bf16=True)
    torch.testing.assert_close(value, exact.gather(1, index), rtol=1e-5, atol=1e-4)
    wanted = (exact.abs() if by_magnitude else exact).topk(16, dim=1).indices
    same = (index[:, :, None] == wanted[:, None, :]).any(2).double().mean()
    assert same > 0.999
    assert all(len(row.unique()) == 16 for row in index)


def test_bfloat16_finds_what_is_above_a_bound_and_nothing_below() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((300, 64), (1024, 64), (1024,)))
    exact = x @ weight.T + bias
    value, row, column = entries_above(x, weight, bias, 12.0, bf16=True)
    torch.testing.assert_close(value, exact[row, column], rtol=1e-5, atol=1e-4)
    assert (value > 12).all() and torch.equal(row, row.sort().values)
    assert len(value) > 0.999 * int((exact > 12).sum())
    nothing = entries_above(x[:0], weight, bias, 12.0, bf16=True)
    assert [len(part) for part in nothing] == [0, 0, 0]


@pytest.mark.parametrize("kind, sparsity", [("TopKSAE", "k"), ("BatchTopKSAE", "k"), ("JumpReLUSAE", "l0"), ("AbsTopKSAE", "k")])
def test_training_in_bfloat16_ends_where_float32_does(kind: str, sparsity: str) -> None:
    import armillary as arm

    generator = torch.Generator().manual_seed(0)
    parts = torch.nn.functional.normalize(torch.randn(24, 16, generator=generator), dim=1)
    x = ((torch.rand(4096, 24, generator=generator) < 0.08) * (1 + torch.rand(4096, 24, generator=generator))) @ parts
    settings = {"n_features": 32, sparsity: 2, "n_steps": 200, "batch_size": 512}
    fvu = [getattr(arm, kind)(**settings, bf16=bf16).fit(x).provenance["final"]["fvu"] for bf16 in (False, True)]
    assert fvu[1] == pytest.approx(fvu[0], rel=0.15)
