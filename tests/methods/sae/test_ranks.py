"""Ranks that share the rows, or the latents, train what one rank alone trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import armillary as arm
from armillary.core.decomposition import Decomposition
from armillary.errors import InputError

WORKER = Path(__file__).with_name("rank_fits.py")
sys.path.insert(0, str(WORKER.parent))

from rank_fits import data, methods  # noqa: E402


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fits of three ranks, by rows and by latents."""
    folder = tmp_path_factory.mktemp("ranks")
    workers = [
        subprocess.Popen([sys.executable, str(WORKER), str(folder), str(rank), "3"], stderr=subprocess.PIPE, text=True) for rank in range(3)
    ]
    for worker in workers:
        _, problems = worker.communicate(timeout=300)
        assert worker.returncode == 0, problems
    return folder


def close(one: Tensor, other: Tensor) -> bool:
    return float((one - other).norm()) < 1e-3 * float(other.norm())


@pytest.mark.slow
@pytest.mark.parametrize("way", ["rows", "latents"])
@pytest.mark.parametrize("name", methods())
def test_three_ranks_equal_one(name: str, way: str, ranks: Path) -> None:
    """Batches of 101 rows, the last of a pass of 7; 48 latents, shared 16 to a rank, with some of them dead."""
    method, is_transcoder = methods()[name]
    alone = method.fit(data(is_transcoder=is_transcoder), seed=3)
    fits: list[Decomposition] = [arm.load(ranks / f"{name}.{way}.{rank}") for rank in range(3)]
    x = data(is_transcoder=False).x[:100]
    for fit in fits:
        assert torch.equal(fit.dictionary.atoms, fits[0].dictionary.atoms)
    assert close(fits[0].dictionary.atoms, alone.dictionary.atoms)
    assert close(fits[0].reconstruct(x), alone.reconstruct(x))
    assert fits[0].provenance["final"] == pytest.approx(alone.provenance["final"], rel=1e-3)
    assert alone.provenance["final"]["dead"] > 0 or "auxk" not in name, "AuxK was at work"


def test_what_a_shared_dictionary_cannot_do_is_refused() -> None:
    with pytest.raises(InputError, match="shard and resample_every"):
        arm.TopKSAE(n_features=8, k=2, shard=True, resample_every=10)
    with pytest.raises(InputError, match="'shard' of ArchetypalSAE"):
        arm.ArchetypalSAE(n_features=8, k=2, shard=True)


def test_one_rank_that_shares_latents_has_them_all() -> None:
    x = data(is_transcoder=False).x
    one, other = (arm.BatchTopKSAE(n_features=24, k=2, n_steps=5, batch_size=64, shard=shard).fit(x) for shard in (False, True))
    assert torch.equal(one.dictionary.atoms, other.dictionary.atoms)
