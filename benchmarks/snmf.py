"""Semi-NMF: how soon the error at which others end is reached, and what is recovered, on the research note's generators.

python benchmarks/snmf.py              # some ten minutes on two cores
python benchmarks/snmf.py --smoke      # seconds: does every rig still run?

"The paper's loop" is `solver="multiplicative"`, its rule with our products, which make it about three times as fast as the authors' code
was in the note. All run on one thread, in turns; times are of whole fits, from rows in memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lab
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import neurons

OURS = "armillary"
COLUMNS = ("implementation", "iterations", "seconds", "share of the first", "error", "recovered")


@dataclass(frozen=True)
class Contest:
    """Implementations on one data set; the first is what the others are measured by.

    Args:
        title: of the section.
        data: what is taken apart.
        peer: the first: (name, environment, settings).
        ours: further ones. Where one has `until: True` it stops at the iteration at which it first has the peer's error.
    """

    title: str
    data: neurons.Neurons
    peer: tuple[str, str, dict[str, Any]]
    ours: tuple[tuple[str, str, dict[str, Any]], ...]

    def run(self, n_rounds: int, threads: int) -> str:
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder, "x.npy"), self.data.x.numpy())
            np.save(Path(folder, "atoms.npy"), self.data.atoms.numpy())
            common = {"folder": folder, "n_features": len(self.data.atoms), "n_neurons": self.data.n_neurons}
            peer = self._worker(self.peer, common, threads)
            peer("fit")
            error = peer("found").value["error"]
            workers = [peer, *(self._worker(one, common, threads, error) for one in self.ours)]
            found = lab.rounds(workers, n_rounds, "fit")
            rows = []
            for worker, (_, _, settings) in zip(workers, (self.peer, *self.ours), strict=True):
                told = worker("found").value
                share = 1 / lab.ratio(found[worker.name], found[peer.name])
                steps = settings.get("at", settings.get("n_iter", ""))
                rows.append(
                    [f"{worker.name} {worker.version}", steps, lab.seconds(found[worker.name]), share, told["error"], told["recovered"]]
                )
                worker.close()
        return f"## {self.title}\n\nThe truth's error: {self.data.error:.4g}.\n\n{lab.table(COLUMNS, rows)}"

    def _worker(self, one: tuple[str, str, dict[str, Any]], common: Mapping[str, Any], threads: int, error: float = 0.0) -> lab.Worker:
        name, environment, settings = one
        settings = {**common, **settings}
        if settings.pop("until", False):
            probe = lab.Worker(environment, "snmf_rigs", name, threads=threads, settings=settings)
            probe("fit")
            errors = probe("errors").value
            probe.close()
            settings["stop"] = one[2]["at"] = next((i for i, value in enumerate(errors, 1) if value <= error), len(errors))
        return lab.Worker(environment, "snmf_rigs", name, threads=threads, settings=settings)


def contests(*, is_smoke: bool) -> list[Contest]:
    small: dict[str, Any] = {"n": 300, "d": 200, "f": 10, "share": 0.05} if is_smoke else {}
    clean, noisy = neurons.planted(actives=5, **small), neurons.planted(actives=8, noise=0.5, **small)
    long = neurons.planted(*((600, 100, 10) if is_smoke else (16_000, 1024, 100)), share=0.02, actives=6, noise=0.3)
    unsigned = _unsigned(clean)
    steps = 10 if is_smoke else 100
    found: list[Contest] = []
    for name, data in (("clean", clean), ("noisy", noisy)):
        paper = (f"paper's loop, {steps} iterations", OURS, {"kind": "armillary", "solver": "multiplicative", "n_iter": steps, "tol": -1.0})
        until = ("armillary, until that error", OURS, {"kind": "armillary", "n_iter": 200, "until": True})
        whole = ("armillary, to its end", OURS, {"kind": "armillary", "n_iter": 200})
        found.append(Contest(f"1 % of the neurons per feature, {name} data", data, paper, (until, whole)))
        ended = (
            f"paper's loop, {5 * steps} iterations",
            OURS,
            {"kind": "armillary", "solver": "multiplicative", "n_iter": 5 * steps, "tol": -1.0},
        )
        found.append(
            Contest(
                f"1 % of the neurons per feature, {name} data, as many iterations of the paper's loop as its code makes by default",
                data,
                ended,
                (dict_copy(until), whole),
            )
        )
    dense = {"n_neurons": clean.x.shape[1]}
    theirs = (f"overcomplete, {2 * steps} iterations", "overcomplete", {"kind": "overcomplete", "n_iter": 2 * steps})
    until = ("armillary, until that error", OURS, {"kind": "armillary", "n_iter": 200, "until": True, **dense})
    found.append(Contest("any number of neurons per feature, clean data", clean, theirs, (until,)))
    sklearn = ("scikit-learn, nndsvda, 30 iterations", OURS, {"kind": "scikit-learn", "n_iter": 30, "init": "nndsvda"})
    ours = ("armillary, 30 iterations", OURS, {"kind": "armillary", "n_iter": 30, "is_signed": False, **dense})
    random = ("scikit-learn, random, 30 iterations", OURS, {"kind": "scikit-learn", "n_iter": 30, "init": "random"})
    found.append(Contest("NMF, non-negative data", unsigned, sklearn, (random, ours)))
    paper = (
        f"paper's loop, {steps // 2} iterations",
        OURS,
        {"kind": "armillary", "solver": "multiplicative", "n_iter": steps // 2, "tol": -1.0},
    )
    stream = ("armillary, streaming, with the codes of all rows", OURS, {"kind": "stream", "n_iter": 0})
    found.append(Contest(f"streaming, {len(long.x):,} rows", long, paper, (stream,)))
    return found


def dict_copy(one: tuple[str, str, dict[str, Any]]) -> tuple[str, str, dict[str, Any]]:
    return one[0], one[1], dict(one[2])


def _unsigned(data: neurons.Neurons) -> neurons.Neurons:
    """The same features and codes without signs, and noise that is cut at 0."""
    import torch

    atoms = data.atoms.abs()
    clean = data.codes @ atoms
    noise = 0.1 * clean.std() * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return neurons.Neurons((clean + noise).clamp_min(0), atoms, data.codes, data.group, data.cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, nothing is written")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    about = lab.machine()
    sections = []
    for contest in contests(is_smoke=options.smoke):
        sections.append(contest.run(1 if options.smoke else options.rounds, options.threads))
        print(sections[-1], flush=True)
    if not options.smoke:
        lab.write(
            "snmf",
            "Semi-NMF against its peers",
            sections,
            f"{about}\n\n{__doc__.strip().splitlines()[-2]} {__doc__.strip().splitlines()[-1]}",
        )


if __name__ == "__main__":
    main()
