"""Ranks that share the rows, or the regions, find what one rank alone finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import armillary as arm
from armillary.errors import InputError
from armillary.methods.mfa.regions import mixture_of

WORKER = Path(__file__).with_name("rank_mixtures.py")
sys.path.insert(0, str(WORKER.parent))

from rank_mixtures import data, methods  # noqa: E402

WORLD = 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fits of two ranks, by rows and by regions (7 and 6 of 13)."""
    folder = tmp_path_factory.mktemp("ranks")
    commands = [[sys.executable, str(WORKER), str(folder), str(rank), str(WORLD)] for rank in range(WORLD)]
    for worker in [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]:
        _, problems = worker.communicate(timeout=300)
        assert worker.returncode == 0, problems
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("way", ["rows", "regions"])
@pytest.mark.parametrize("name", methods())
def test_two_ranks_equal_one(name: str, way: str, ranks: Path) -> None:
    alone = methods()[name].fit(data().x.float(), seed=3)
    fits = [arm.load(ranks / f"{name}.{way}.{rank}") for rank in range(WORLD)]
    assert torch.equal(fits[0].dictionary.atoms, fits[1].dictionary.atoms)
    curves = [[point["log_likelihood"] for point in fit.provenance["curve"]] for fit in (fits[0], alone)]
    if (name, way) == (
        "gated",
        "regions",
    ):  # each rank has candidates of its own, within what a gate may cost
        assert curves[0][-1] == pytest.approx(curves[1][-1], abs=0.02)
        return
    assert fits[0].provenance["n_moves"] == alone.provenance["n_moves"]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)  # EM from a poor start makes more of rounding than one pass does
    for one, other in zip(mixture_of(fits[0]).tensors, mixture_of(alone).tensors, strict=True):
        assert float((one - other).norm()) < 1e-3 * float(other.norm())


def test_regions_move_here_so_that_moves_between_ranks_are_tested() -> None:
    assert methods()["whole"].fit(data().x.float(), seed=3).provenance["n_moves"] > 1


def test_one_rank_that_shares_regions_has_them_all() -> None:
    x = data().x.float()
    one, other = (arm.MFA(n_regions=5, rank=2, max_rows=900, shard=shard).fit(x) for shard in (False, True))
    assert torch.equal(one.dictionary.atoms, other.dictionary.atoms)


def test_what_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="shard and solver='adam'"):
        arm.MFA(n_regions=8, rank=2, shard=True, solver="adam")
    monkeypatch.setattr("armillary.core.distributed.world", lambda: 3)
    with pytest.raises(InputError, match="3 ranks cannot share 5 regions"):
        arm.MFA(n_regions=5, rank=2, shard=True).fit(data().x.float())
