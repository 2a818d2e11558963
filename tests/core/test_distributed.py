"""Ranks: harmless when alone; two gloo ranks add up, agree when to write, and resume together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from armillary.core import distributed

WORKER = Path(__file__).with_name("rank_worker.py")


def ranks(folder: Path, world: int = 2) -> list[dict[str, str]]:
    """What each gloo rank of the worker says of every check, in rank order."""
    commands = [[sys.executable, str(WORKER), str(folder), str(rank), str(world)] for rank in range(world)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands]
    done = [process.communicate(timeout=240) for process in running]
    for process, (_, error) in zip(running, done, strict=True):
        assert process.returncode == 0, error
    return [dict(line.split(": ", 1) for line in output.splitlines()) for output, _ in done]


# ---------------------------------------------------------------- alone


def test_alone_it_is_rank_0_of_1_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    distributed.start()
    assert not distributed.is_on()
    assert (distributed.rank(), distributed.world()) == (0, 1)
    x = torch.ones(3)
    distributed.sum_(x)
    assert torch.equal(x, torch.ones(3))
    assert distributed.gather({"a": 1}) == [{"a": 1}]
    assert distributed.largest(3) == 3


@pytest.mark.parametrize(("n", "world"), [(10, 3), (2, 2), (7, 1), (1, 3)])
def test_ranks_share_things_in_order_and_evenly(n: int, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(distributed.share(n))
    assert shares == [(int(part[0]), int(part[-1]) + 1) if len(part) else (n, n) for part in torch.arange(n).tensor_split(world)]


def test_what_ranks_share_is_put_together_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is where it has more entries than are sent at once, and where a rank's share begins in the middle of a part."""
    monkeypatch.setattr(distributed, "GATHERED", 12)
    whole = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(distributed.gather_shares(whole, 10), whole)
    monkeypatch.setattr(distributed, "world", lambda: 3)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    mine = distributed.gather_shares(whole[4:7], 10)  # of this rank alone: the others' shares stay 0
    assert torch.equal(mine[4:7], whole[4:7]) and not mine[:4].any() and not mine[7:].any()


# ---------------------------------------------------------------- two ranks


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    return ranks(tmp_path_factory.mktemp("ranks"))


CHECKS = {
    "world": "2",
    "started twice": "2",
    "sum": "[3.0, 30.0]",
    "gather": "['of 0', 'of 1']",
    "largest": "7",
    # every row is read by exactly one rank
    "rows": "[0, 1, 2, 3, 4, 5, 6]",
    "moments": "True",
    # rank 1 alone was interrupted; both stop after the same batch and go on from it
    "stopped after": "3",
    "kept": "['c.rank0', 'c.rank1']",
    "same bits": "True",
    "left behind": "[]",
    # a checkpoint that only one rank has
    "torn": "True",
    # only rank 1 finds that a checkpoint is due; both write it
    "written after": "[2, 4]",
}


@pytest.mark.slow
def test_every_check_is_made(seen: list[dict[str, str]]) -> None:
    assert [list(found) for found in seen] == [list(CHECKS)] * 2


@pytest.mark.parametrize("check", CHECKS)
def test_two_ranks_agree(seen: list[dict[str, str]], check: str) -> None:
    assert [found[check] for found in seen] == [CHECKS[check]] * 2
