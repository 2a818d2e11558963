"""One of several ranks of test_mixture_ranks.py: python rank_mixtures.py FOLDER RANK WORLD."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import armillary as arm
from mixtures import Drawn, draw

#: More rows than the sample, so that regions move on the sample and rows stream by; batches of 301, the last of a pass smaller.
SIZES: dict[str, Any] = {"n_regions": 13, "rank": 2, "max_rows": 900, "batch_size": 301, "n_passes": 2, "n_iter": 5, "tol": 0.0}


def methods() -> dict[str, arm.MFA]:
    return {
        "whole": arm.MFA(**SIZES),
        "gated": arm.MFA(gating=3, **SIZES),
        "random": arm.MFA(init="random", solver="em", **SIZES),
        "own noise": arm.MFA(noise="isotropic_per_region", solver="em", **SIZES),
    }


def data() -> Drawn:
    return draw(2000, k=13, d=16, r=2, seed=2)


def main(folder: str, rank: str, world: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=int(rank), world_size=int(world))
    for name, method in methods().items():
        for way in ("rows", "regions"):
            method.model_copy(update={"shard": way == "regions"}).fit(data().x.float(), seed=3).save(Path(folder, f"{name}.{way}.{rank}"))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
