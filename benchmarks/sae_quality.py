"""What every variant recovers of planted data, beside the peers, on the same tokens: `planted.World`, several seeds, with intervals.

python benchmarks/sae_quality.py                       # about half an hour on two cores
python benchmarks/sae_quality.py --variant jumprelu    # one variant
python benchmarks/sae_quality.py --smoke               # seconds: does every rig still run?

All share one recipe: Adam, a short warm-up, no decay, no revival of dead latents; "its defaults" is ours with what it does when asked for
nothing. Every implementation trains with each learning rate of `RATES` once, on a seed of its own, and keeps the one with the lowest
error. Where sparsity is a penalty of a weight, that weight is found on the same seed by bisection, so that as many codes fire as the
others keep.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lab
import planted
from sae_training import OURS, PEERS, peers
from sae_training import Shape as _Shape

DEFAULTS = f"{OURS}, its defaults"
VARIANTS = ("topk", "batch_topk", "jumprelu", "matryoshka", "gated", "relu")
RATES = (2e-3, 5e-3, 1e-2)
#: Which peers are steered by a penalty whose weight has to be found; ours finds its own, as does SAELens's JumpReLU.
PENALISED = {
    "gated": ("sae-lens", "dictionary-learning"),
    "relu": ("sae-lens", "dictionary-learning"),
    "jumprelu": ("dictionary-learning", "overcomplete"),
}
#: Weights between which it is looked for, and how often the interval is halved.
WEIGHTS, HALVINGS = (1e-3, 1e2), 8
COLUMNS = ("fvu", "l0", "dead", "matched", "f1", "mmcs")
#: Columns in which more is better.
MORE = ("matched", "f1", "mmcs")
#: Student's t for a 95 % interval of the mean of n seeds.
STUDENT = {2: 12.7, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 8: 2.36, 10: 2.26}


@dataclass(frozen=True)
class Bench:
    """One implementation, in a process of its own, and the shape it trains.

    Args:
        name: of the implementation.
        shape: what is trained.
        worker: the process.
        tuning: the data on which learning rate and penalty are chosen.
    """

    name: str
    shape: _Shape
    worker: lab.Worker
    tuning: Path

    @staticmethod
    def of(name: str, shape: _Shape, tuning: Path, threads: int) -> Bench:
        settings = {**shape.__dict__, "data": str(tuning), "lr": RATES[0]}
        worker = lab.Worker({OURS: OURS, DEFAULTS: OURS, **PEERS}[name], "sae_rigs", name, threads=threads, settings=settings)
        return Bench(name, shape, worker, tuning)

    def run(self, data: Path, *, seed: int, lr: float, penalty: float) -> dict[str, float]:
        """One training, and what came of it."""
        self.worker("restart", data=str(data), seed=seed, lr=lr, penalty=penalty)
        self.worker("train", n=self.shape.n_steps)
        return dict(self.worker("quality").value)

    def weight(self, lr: float) -> float:
        """The penalty's weight at which about k codes fire."""
        if self.name not in PENALISED.get(self.shape.variant, ()):
            return 1.0
        low, high = WEIGHTS
        for _ in range(HALVINGS):
            middle = (low * high) ** 0.5
            l0 = self.run(self.tuning, seed=99, lr=lr, penalty=middle)["l0"]
            low, high = (middle, high) if l0 > self.shape.k else (low, middle)
        return (low * high) ** 0.5

    def tuned(self) -> tuple[float, float]:
        """The learning rate and the penalty's weight with the lowest error among those that were tried."""
        found = []
        for lr in RATES:
            penalty = self.weight(lr)
            found.append((self.run(self.tuning, seed=99, lr=lr, penalty=penalty)["fvu"], lr, penalty))
        _, lr, penalty = min(found)
        return lr, penalty


def compared(shape: _Shape, n_seeds: int, threads: int, folder: Path) -> str:
    """The table of one variant."""
    results: dict[str, list[dict[str, float]]] = {}
    rates: dict[str, float] = {}
    for name in (OURS, DEFAULTS, *peers(shape)):
        bench = Bench.of(name, shape, folder / "tuning", threads)
        lr, penalty = bench.tuned()
        rates[name] = lr
        results[name] = [bench.run(folder / str(seed), seed=seed, lr=lr, penalty=penalty) for seed in range(n_seeds)]
        bench.worker.close()
        print(name, shape.variant, lr, penalty, *(f"{key} {mean_of(results[name], key):.4f}" for key in COLUMNS), flush=True)
    rows = [[name, rates[name], *(_interval([one[key] for one in found]) for key in COLUMNS)] for name, found in results.items()]
    title = f"## {shape.variant}, k {shape.k}: {shape.d_in} -> {shape.d_sae}, {shape.n_steps * shape.batch:,} tokens, {n_seeds} seeds"
    return f"{title}\n\n{lab.table(['implementation', 'lr', *COLUMNS], rows)}\n\n{_verdict(results)}"


def mean_of(found: Sequence[Mapping[str, float]], key: str) -> float:
    return statistics.mean(one[key] for one in found)


def _interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval of the mean over seeds."""
    n = len(values)
    if n < 2:
        return f"{values[0]:.4g}"
    half = STUDENT.get(n, 2.0) * statistics.stdev(values) / n**0.5
    return f"{statistics.mean(values):.4g} ± {half:.2g}"


def _verdict(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Ours against the best peer's mean, in per cent."""
    words = []
    for key in ("fvu", "matched", "f1"):
        means = {name: mean_of(found, key) for name, found in results.items()}
        best = (max if key in MORE else min)(value for name, value in means.items() if name not in (OURS, DEFAULTS))
        words.append(f"{key} {100 * (means[OURS] / best - 1):+.1f} %")
    return f"Ours against the best peer's mean: {', '.join(words)}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, nothing is written")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variant", nargs="*", choices=VARIANTS, default=VARIANTS)
    options: Any = parser.parse_args()
    about = lab.machine()
    sizes = (
        {"d_in": 16, "d_sae": 64, "k": 4, "batch": 64, "n_steps": 6, "n_warmup": 2}
        if options.smoke
        else {"d_in": 96, "d_sae": 768, "k": 12}
    )
    shapes = [_Shape(**{"batch": 768, "n_steps": 500, **sizes, "lr": 0.0, "variant": variant}) for variant in options.variant]
    n_seeds = 2 if options.smoke else options.seeds
    with tempfile.TemporaryDirectory() as folder:
        world = planted.World.draw(shapes[0].d_sae // 4, shapes[0].d_in, mean=0.75 * shapes[0].k, seed=0)
        for place, seed in (*((str(seed), seed) for seed in range(n_seeds)), ("tuning", 99)):
            Path(folder, place).mkdir()
            world.write(Path(folder, place), 2048 if options.smoke else 131_072, seed=seed)
        sections = [compared(shape, n_seeds, options.threads, Path(folder)) for shape in shapes]
    legend = (
        "fvu, l0 and dead on 8,192 held-out rows; matched: mean cosine of each planted part with its partner in the best one-to-one "
        "matching; f1: of that partner's firing; mmcs: mean best cosine. Intervals: 95 % of the mean over seeds."
    )
    if options.smoke:
        print("\n\n".join(sections))
    else:
        lab.write("sae-quality", "What sparse autoencoders recover", [legend, *sections], f"{about}\n\n{planted.__doc__.strip()}")


if __name__ == "__main__":
    main()
