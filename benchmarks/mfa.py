"""Mixtures of factor analyzers: held-out likelihood by wall time against gradients on the likelihood, and gated against whole E-steps.

python benchmarks/mfa.py              # some eight minutes on two cores
python benchmarks/mfa.py --smoke      # seconds: does everything still run?

"Adam" is `solver="adam"` (1,024 rows a step, learning rate 5e-3), the paper's way, on rows at their own scale; it begins where EM begins.
"EM" is a sweep of stepwise EM and then whole steps with leaps. "with moves" is what `arm.MFA` does: moves that 16,384 rows propose come
between the sweep and the steps. Likelihoods are of held-out rows, in nats of the rows at scale 1; times are of the solver
alone, without the evaluations.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lab
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import armillary as arm
from armillary.methods.mfa.adam import Ascent
from armillary.methods.mfa.em import Shape, expect
from armillary.methods.mfa.gate import Gate, gap
from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.solver import Run, course, step_rows
from armillary.methods.mfa.start import first_mixture
from mixtures import draw

RATE, STEP = 5e-3, 1024
#: States are evaluated when so many times as much time has passed; nats within which a solver has arrived.
FURTHER, NEAR = 1.15, 2.0


@dataclass(frozen=True)
class Rows:
    """Rows to fit and to evaluate, centred, and how much they were scaled."""

    title: str
    x: Tensor
    held_out: Tensor
    n_regions: int
    rank: int
    scale: float = 1.0
    oracle: float | None = None

    def nll(self, mixture: Mixture) -> float:
        """Of the held-out rows at scale 1."""
        total = sum(float(torch.logsumexp(mixture.log_joint(part)[0], 1).double().sum()) for part in self.held_out.split(2048))
        return -total / len(self.held_out) - self.x.shape[1] * math.log(self.scale)

    @property
    def shape(self) -> Shape:
        return Shape(self.n_regions, self.rank, "diagonal", 1e-4 * float(self.x.var(0).median()))


def by_em(rows: Rows, start: Mixture) -> Iterator[Mixture]:
    run = Run(start, rows.shape)
    run.sweep(rows.x, step_rows(rows.n_regions), seed=0)
    yield run.mixture
    yield from on_by_em(rows, run)


def on_by_em(rows: Rows, run: Run) -> Iterator[Mixture]:
    while True:
        run.step(rows.x)
        yield run.mixture


def by_adam(rows: Rows, start: Mixture) -> Iterator[Mixture]:
    ascent, generator = Ascent(start, rows.shape, RATE), torch.Generator().manual_seed(0)
    while True:
        for part in torch.randperm(len(rows.x), generator=generator).split(STEP):
            ascent.step(rows.x[part])
            yield ascent.mixture().detach()


def with_moves(rows: Rows, start: Mixture) -> Iterator[Mixture]:
    run = Run(start, rows.shape)
    for _ in course(run, rows.x, n_steps=10_000, tol=0.0, moves=True, seed=0):
        yield run.mixture


SOLVERS: dict[str, Callable[[Rows, Mixture], Iterator[Mixture]]] = {"EM": by_em, "Adam": by_adam, "with moves": with_moves}


def race(rows: Rows, times: list[float]) -> str:
    """A row per solver: held-out NLL after each time, and when it was first within 2 nats of the best that any ended at."""
    began = time.perf_counter()
    start = first_mixture(rows.x[:16_384], rows.shape, seed=0)
    seconds = time.perf_counter() - began
    courses = {name: _course(rows, solver(rows, start), times[-1]) for name, solver in SOLVERS.items()}
    best = min(value for course in courses.values() for _, value in course)
    table = [[name, *(_told(course, t) for t in times), _first(course, best + NEAR)] for name, course in courses.items()]
    columns = ["solver", *(f"after {t:g} s" for t in times), f"within {NEAR:g} nats of the best"]
    oracle = "" if rows.oracle is None else f" The truth: {-rows.oracle:.4g}."
    about = f"The start took {seconds:.2f} s and stands at {rows.nll(start):.4g}; the best end is {best:.4g}.{oracle}"
    return f"## {rows.title}\n\n{about}\n\n{lab.table(columns, table)}"


def _course(rows: Rows, states: Iterator[Mixture], limit: float) -> list[tuple[float, float]]:
    """(seconds of the solver, held-out NLL) of states that lie further and further apart; the evaluations do not count."""
    spent, due, found = 0.0, 0.0, list[tuple[float, float]]()
    while spent < limit:
        began = time.perf_counter()
        mixture = next(states)
        spent += time.perf_counter() - began
        if spent >= due:
            found.append((spent, rows.nll(mixture)))
            due = FURTHER * spent
    return found


def _told(course: list[tuple[float, float]], t: float) -> str:
    """The last value by a time, or the first one later."""
    by = [value for spent, value in course if spent <= t]
    return f"{by[-1]:.4g}" if by else f"{course[0][1]:.4g} ({course[0][0]:.1f} s)"


def _first(course: list[tuple[float, float]], level: float) -> str:
    at = next((spent for spent, value in course if value <= level), None)
    return "never" if at is None else f"{at:.2f} s"


def planted(scale: float, *, is_smoke: bool) -> Rows:
    n, k, d, r = (2000, 8, 32, 3) if is_smoke else (50_000, 64, 256, 8)
    data = draw(n, k=k, d=d, r=r, held_out=min(n, 8192))
    mean = data.x.mean(0)
    x, held_out = (((rows - mean) * scale).float() for rows in (data.x, data.held_out))
    return Rows(f"planted, rows times {scale:g}: {n:,} rows of {d}, {k} regions of rank {r}", x, held_out, k, r, scale, data.oracle)


def activations(*, is_smoke: bool) -> Rows:
    n_texts, k = (8, 4) if is_smoke else (300, 128)
    with tempfile.TemporaryDirectory() as folder:
        lm = arm.LanguageModel("arm-small")
        rows = arm.harvest(lm, arm.reference_texts(n_texts), ["resid_post.3"], out=f"{folder}/acts")["resid_post.3"]
        x = next(iter(rows.batches(1 << 20, seed=0))).x.float()
    n = len(x) * 9 // 10
    x = (x - x[:n].mean(0)) / float(x[:n].std())
    return Rows(f"arm-small, resid_post.3: {n:,} rows of {x.shape[1]}, {k} regions of rank 8", x[:n], x[n:], k, 8)


def gated(k: int, *, is_smoke: bool) -> list[Any]:
    """Rows per second of a whole and of a gated E-step at K regions, one thread."""
    d, r, n = (64, 4, 1024) if is_smoke else (512, 10, 16_384)
    g = torch.Generator().manual_seed(0)
    centroids = 0.6 * torch.randn(k, d, generator=g)
    loadings = 0.7 * torch.randn(k, r, d, generator=g) * torch.linspace(1.2, 0.5, r)[:, None]
    mixture = Mixture(torch.full((k,), -math.log(k)), centroids, loadings, 0.25 + 0.5 * torch.rand(1, d, generator=g))
    region = torch.randint(k, (n,), generator=g)
    inside = torch.einsum("nr,nrd->nd", torch.randn(n, r, generator=g), loadings[region])
    x = centroids[region] + inside + mixture.noise.sqrt() * torch.randn(n, d, generator=g)
    gate, few = Gate.of(mixture, 16), x[: n // 16]
    for part, one in ((few, None), (x, gate)):  # what is worked out once
        expect(mixture, part[:256], one)
    whole = min(_timed(lambda: expect(mixture, few)) for _ in range(3)) / len(few)
    ours = min(_timed(lambda: expect(mixture, x, gate)) for _ in range(3)) / n
    return [k, round(1 / whole), round(1 / ours), round(whole / ours, 1), f"{float(gap(mixture, gate, few[:256]).mean()):.2g}"]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, nothing is written")
    smoke = parser.parse_args().smoke
    about, sections = lab.machine(), []
    times = [0.1, 0.2] if smoke else [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    torch.set_num_threads(2)
    for rows in (*(planted(scale, is_smoke=smoke) for scale in (0.1, 1.0, 10.0)), activations(is_smoke=smoke)):
        sections.append(race(rows, times[: len(times) - (rows.oracle is not None)]))
        print(sections[-1], flush=True)
    torch.set_num_threads(1)
    columns = ("regions", "whole, rows/s", "gated, rows/s", "ratio", "gap, nats")
    table = [gated(k, is_smoke=smoke) for k in ((64,) if smoke else (1024, 2048, 4096))]
    sections.append(f"## E-steps, whole and gated (16 candidates), one thread\n\n{lab.table(columns, table)}")
    print(sections[-1])
    if not smoke:
        lab.write("mfa", "Mixtures of factor analyzers", sections, f"{about}\n\n{' '.join(__doc__.strip().split(chr(10))[5:])}")


if __name__ == "__main__":
    main()
