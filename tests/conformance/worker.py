"""What the conformance tests do in other processes: run as a script with one of the functions below and its arguments."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from conformance.cases import CASES, Stream, tensors


def rank(folder: str, number: str, world: str) -> None:
    """Fit every case as one of several ranks."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=int(number), world_size=int(world))
    for case in CASES:
        case.fit().save(Path(folder, f"{case.name}.{number}"))
    dist.barrier()  # a rank that leaves while another still talks to it may bring it down
    dist.destroy_process_group()


def load(folder: str) -> None:
    """Load every case's fit and write down its tensors and what it does to rows."""
    from armillary import load as load_fit

    for case in CASES:
        fit = load_fit(Path(folder, case.name))
        seen = {**tensors(fit), "codes": fit.encode(case.x[:100]).dense(), "reconstruction": fit.reconstruct(case.x[:100])}
        save_file({name: tensor.contiguous().clone() for name, tensor in seen.items()}, Path(folder, f"{case.name}.safetensors"))


def memory() -> None:
    """Print, per case, by how many bytes the peak memory grew when 20 times the rows were read."""
    for case in CASES:
        _fit_made_up_rows(case.name, 10_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _fit_made_up_rows(case.name, MANY_ROWS)
        sys.stdout.write(f"{case.name} {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024}\n")


#: Rows and width of the memory test: 51 MB in float32.
MANY_ROWS, MANY_D = 200_000, 64


def _fit_made_up_rows(name: str, n: int) -> None:
    from conformance.cases import BY_NAME

    case = BY_NAME[name]
    short = {"n_epochs": 1} if "n_epochs" in type(case.method).model_fields else {}
    case = type(case)(name, case.method.model_copy(update=short), case.plant, case.score)
    case.fit(Stream(_made_up_sizes if name == "nmf" else _made_up, n, MANY_D))


def _made_up(row: NDArray[np.int64]) -> Tensor:
    """Rows that are a function of their index and not Gaussian."""
    phase = torch.from_numpy(row).float()[:, None] * torch.arange(1, MANY_D + 1).sqrt()
    return phase.sin() + (phase * 1.7).sin().sign()


def _made_up_sizes(row: NDArray[np.int64]) -> Tensor:
    return _made_up(row).abs()


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"rank": rank, "load": load, "memory": memory}[sys.argv[1]](*sys.argv[2:])
