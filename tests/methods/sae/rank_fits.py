"""One of several ranks of test_ranks.py: python rank_fits.py FOLDER RANK WORLD."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

import armillary as arm
from armillary.core.rows import TensorRows

SIZES: dict[str, Any] = {"n_features": 48, "n_steps": 12, "batch_size": 101, "dead_after_tokens": 100_000, "lr": 3e-3}


def methods() -> dict[str, tuple[Any, bool]]:
    """Settings by name, and whether they are given a target."""
    reviving = {**SIZES, "dead_after_tokens": 100, "n_features": 192}
    return {
        "topk": (arm.TopKSAE(k=3, **SIZES), False),
        "topk auxk": (arm.TopKSAE(k=2, auxk=4, **reviving), False),
        "topk clip free": (arm.TopKSAE(k=3, clip=0.1, decoder_norm="free", **SIZES), False),
        "topk skip": (arm.TopKSAE(k=3, skip=True, **SIZES), True),
        "abs_topk": (arm.AbsTopKSAE(k=3, **SIZES), False),
        "batch_topk": (arm.BatchTopKSAE(k=3, **SIZES), False),
        "matryoshka": (arm.MatryoshkaSAE(k=3, widths=(5, 20, 48), **SIZES), False),
        "jumprelu": (arm.JumpReLUSAE(l0=3, **SIZES), False),
        "relu annealed": (arm.ReLUSAE(l0=3, p_end=0.5, **SIZES), False),
        "gated": (arm.GatedSAE(l0=3, **SIZES), True),
    }


def data(*, is_transcoder: bool) -> Any:
    """Rows of sparse sums of directions, or these and a target of another width."""
    generator = torch.Generator().manual_seed(0)
    parts = torch.nn.functional.normalize(torch.randn(40, 12, generator=generator), dim=1)
    x = ((torch.rand(411, 40, generator=generator) < 0.06) * (1 + torch.rand(411, 40, generator=generator))) @ parts + 0.5
    return arm.Targeted.pair(x, (x @ parts[:12, :8]).relu()) if is_transcoder else TensorRows(x)


def main(folder: str, rank: str, world: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=int(rank), world_size=int(world))
    for name, (method, is_transcoder) in methods().items():
        for way in ("rows", "latents"):
            fit = method.model_copy(update={"shard": way == "latents"}).fit(data(is_transcoder=is_transcoder), seed=3)
            fit.save(Path(folder, f"{name}.{way}.{rank}"))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
