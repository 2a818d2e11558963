"""Encoders that come with core."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from armillary.core.encoders import Encoder, LinearEncoder, MappedEncoder, NearestEncoder, NullEncoder, SubsetEncoder, nearest_centroid
from core_fits import FITS, D, random, rows


def test_linear_encoder_centres_and_adds_its_bias() -> None:
    weight, center, bias, x = random(4, D), random(D, seed=1), random(4, seed=2), rows()
    assert torch.allclose(LinearEncoder(weight, center, bias).encode(x).value, (x - center) @ weight.T + bias)
    assert torch.allclose(LinearEncoder(weight, center).encode(x).value, (x - center) @ weight.T)
    assert LinearEncoder(weight, center).fires is None


def test_linear_encoder_takes_rows_of_another_dtype() -> None:
    encoder = LinearEncoder(random(4, D).float(), random(D).float())
    assert encoder.encode(rows().bfloat16()).value.dtype == torch.float32


@pytest.mark.parametrize("chunk", [3, 4096])
def test_nearest_centroid_is_the_nearest(chunk: int) -> None:
    x, centroids = rows(50), random(7, D) + 3
    assert torch.equal(nearest_centroid(x, centroids, chunk), torch.cdist(x, centroids).argmin(1))


def test_nearest_encoder_gives_one_code_of_1() -> None:
    centroids = random(7, D) + 3
    codes = NearestEncoder(centroids).encode(rows())
    assert torch.equal(codes.dense().sum(1), torch.ones(20, dtype=torch.float64))
    assert (codes.l0() == 1).all()
    assert len(NearestEncoder(centroids).encode(rows(0))) == 0


@pytest.mark.parametrize("name", ["linear", "sparse", "nearest", "soft_regions"])
@pytest.mark.parametrize("atoms", [[0], [2, 0, 1], [3, 2]])
def test_subset_keeps_the_codes_of_its_atoms(name: str, atoms: list[int]) -> None:
    inner = FITS[name]().encoder
    part = SubsetEncoder(inner, torch.tensor(atoms))
    whole, kept = inner.encode(rows()), part.encode(rows())
    assert torch.equal(kept.dense(), whole.dense()[:, atoms])
    assert kept.is_dense == whole.is_dense
    assert part.fires == inner.fires


def test_mapped_encoder_reads_rotated_rows() -> None:
    inner = FITS["sparse"]().encoder
    matrix = torch.linalg.qr(random(D, D))[0]
    mapped = MappedEncoder(inner, matrix)
    assert torch.equal(mapped.encode(rows()).dense(), inner.encode(rows() @ matrix).dense())
    target = rows(seed=4)
    assert torch.equal(mapped.encode(rows(), target=target).dense(), inner.encode(rows() @ matrix, target=target @ matrix).dense())
    assert mapped.fires == inner.fires


def test_null_encoder_says_nothing() -> None:
    codes = NullEncoder(12).encode(rows())
    assert codes.n_atoms == 12
    assert not codes.dense().any()
    assert (codes.l0() == 0).all()


def test_encoders_are_frozen() -> None:
    encoder = NullEncoder(3)
    with pytest.raises(AttributeError, match="cannot assign"):
        encoder.n_atoms = 4  # type: ignore[misc]


@pytest.mark.parametrize("name", FITS)
def test_a_row_is_encoded_by_itself_and_gradients_reach_it(name: str) -> None:
    encoder: Encoder = FITS[name]().encoder
    x = rows(12)
    whole = encoder.encode(x).dense()
    alone = torch.cat([encoder.encode(row[None]).dense() for row in x])
    assert torch.allclose(whole, alone, atol=1e-7)
    if name != "nearest":
        assert _gradient(encoder, x).abs().sum() > 0


def _gradient(encoder: Encoder, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    encoder.encode(leaf).value.square().sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def test_nearest_centroids_in_half_precision_do_not_overflow() -> None:
    centroids = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * 60
    assert nearest_centroid(centroids.half(), centroids.half()).tolist() == [0, 1, 2, 3, 4]
