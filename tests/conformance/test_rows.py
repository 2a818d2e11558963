"""What every source of rows promises: in memory, in a store (small, or shuffled through a buffer), live from a model."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from armillary.core.activations import open as open_store
from armillary.core.rows import Rows, TensorRows, width
from armillary.core.site import Site
from armillary.lm.harvest import LiveRows, harvest
from armillary.methods.kmeans import KMeans
from armillary.methods.pca import PCA
from conformance.cases import Stream, same_bits, tensors
from fake_lm import FakeLM

SITE = Site("resid_post", 1)
TEXTS = ["abcdefghij" * (1 + i % 7) for i in range(24)]
SMALL: dict[str, Any] = {"shard_rows": 100, "batch_tokens": 64}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    """The same rows from everywhere."""
    folder = tmp_path_factory.mktemp("rows") / "store"
    stored = harvest(FakeLM(), TEXTS, [SITE], out=folder, dtype="fp32", **SMALL)[SITE]
    (whole,) = stored.batches(10_000)
    return {
        "tensor": TensorRows(whole.x),
        "store": stored,
        "large store": open_store(folder, memory_budget=4 * 40 * 8 * 4)[SITE],
        "live": LiveRows(FakeLM(), TEXTS, SITE, **SMALL),
        "live with a small buffer": LiveRows(FakeLM(), TEXTS, SITE, buffer_rows=150, **SMALL),
        "stream of the tests": Stream.of(whole.x),
    }


@pytest.fixture(params=["tensor", "store", "large store", "live", "live with a small buffer", "stream of the tests"])
def rows(request: pytest.FixtureRequest, sources: dict[str, Rows]) -> Rows:
    return sources[request.param]


@pytest.fixture
def x(sources: dict[str, Rows]) -> Tensor:
    """[N, D] all rows in stored order."""
    found = sources["tensor"]
    assert isinstance(found, TensorRows)
    return found.x


def test_it_is_rows(rows: Rows, x: Tensor) -> None:
    assert isinstance(rows, Rows) and rows.n_rows == len(x) and width(rows.layout) == x.shape[1]
    assert json.loads(json.dumps(dict(rows.record))) == dict(rows.record)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_stored_order_is_the_same_everywhere(rows: Rows, x: Tensor, size: int) -> None:
    batches = list(rows.batches(size))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1) and 0 < len(batches[-1]) <= size
    assert torch.equal(torch.cat([batch.x for batch in batches]), x)
    assert np.array_equal(np.concatenate([batch.row for batch in batches]), np.arange(len(x)))


@pytest.mark.parametrize("seed", [None, 0, 5])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_each_batch_and_every_row_comes_once(rows: Rows, x: Tensor, seed: int | None, world: int) -> None:
    shares = [list(rows.batches(50, seed=seed, epoch=1, rank=rank, world=world)) for rank in range(world)]
    whole = list(rows.batches(50, seed=seed, epoch=1))
    for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
        for rank, part in enumerate(parts):
            assert np.array_equal(part.row, batch.row[rank::world]) and torch.equal(part.x, batch.x[rank::world])
            assert torch.equal(part.x, x[torch.from_numpy(part.row)]), "a row's number and its values belong together"
    assert sorted(np.concatenate([batch.row for batch in whole])) == list(range(len(x)))


def test_a_share_may_be_empty_and_keeps_its_place(rows: Rows, x: Tensor) -> None:
    """The last batch holds one row, which belongs to rank 0; ranks must still agree on how many batches there are."""
    shares = [list(rows.batches(len(x) - 1, rank=rank, world=2)) for rank in range(2)]
    assert [len(part[-1]) for part in shares] == [1, 0]
    assert shares[1][-1].x.shape == (0, x.shape[1])


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("skip", [0, 1, 9, 1000])
def test_skipping_leaves_out_the_first_batches(rows: Rows, seed: int | None, skip: int) -> None:
    wanted, got = list(rows.batches(30, seed=seed, epoch=2))[skip:], list(rows.batches(30, seed=seed, epoch=2, skip=skip))
    assert len(got) == len(wanted)
    assert all(np.array_equal(one.row, other.row) and torch.equal(one.x, other.x) for one, other in zip(got, wanted, strict=True))


def test_orders_differ_by_seed_and_epoch_and_come_again(rows: Rows) -> None:
    def order(seed: int | None, epoch: int = 0) -> list[int]:
        return np.concatenate([batch.row for batch in rows.batches(64, seed=seed, epoch=epoch)]).tolist()

    orders = [order(0), order(0, 1), order(1), order(None)]
    assert len({tuple(one) for one in orders}) == 4
    assert order(0, 1) == orders[1]


def test_a_pass_that_is_left_early_leaves_no_thread(rows: Rows) -> None:
    before = threading.active_count()
    for seed in (None, 0):
        batches = rows.batches(10, seed=seed)
        assert isinstance(batches, Generator)
        with closing(batches):
            next(batches)
    assert threading.active_count() == before


@pytest.mark.parametrize("method", [PCA(n_components=3), KMeans(n_features=4, batch_size=30)], ids=repr)
def test_fits_are_the_same_from_everywhere(rows: Rows, x: Tensor, method: Any) -> None:
    """Passes in stored order, so no source's shuffling matters; batches of 30 rows begin at odd places of a shard."""
    assert same_bits(tensors(method.fit(rows)), tensors(method.fit(x)))
