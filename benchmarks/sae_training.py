"""SAE training and inference against the peers: tokens per second in interleaved rounds, and loss after equal tokens.

python benchmarks/sae_training.py             # about 25 minutes on two cores, and 6 GB of environments the first time
python benchmarks/sae_training.py --smoke     # seconds: does every rig still run?
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import lab
import numpy as np
from numpy.typing import NDArray

#: Implementation -> environment.
PEERS = {
    "sae-lens": "sae-lens",
    "dictionary-learning": "dictionary-learning",
    "sparsify": "sparsify",
    "overcomplete": "overcomplete",
}
OURS = "armillary"
COLUMNS = ["implementation", "train tok/s", f"{OURS} is faster by", "CPU µs/token", "infer tok/s", "peak MB above weights and data"]
QUALITY = ["implementation", "FVU", "L0", "dead", "MMCS", "recovered > 0.9", "seconds"]


@dataclass(frozen=True)
class Shape:
    """What is trained: the same for every implementation."""

    d_in: int
    d_sae: int
    k: int
    batch: int
    n_steps: int
    lr: float
    n_warmup: int = 20
    variant: str = "topk"
    dead: float = 0.0  # share of the latents that are held dead, so that AuxK is at work


FULL = {
    "topk": [Shape(512, 8192, 32, 2048, n_steps=300, lr=4e-3), Shape(512, 8192, 32, 4096, n_steps=300, lr=4e-3)],
    "batch_topk": [Shape(512, 8192, 32, 2048, n_steps=300, lr=4e-3, variant="batch_topk")],
    # Codes per row: 2 % of the latents, the most at which these are promised to be fast.
    **{name: [Shape(512, 8192, 160, 2048, n_steps=300, lr=4e-3, variant=name)] for name in ("jumprelu", "matryoshka", "gated", "relu")},
}
FULL["topk"].append(Shape(768, 12288, 32, 2048, n_steps=300, lr=4e-3))
FULL["batch_topk"].append(Shape(768, 12288, 32, 2048, n_steps=300, lr=4e-3, variant="batch_topk"))
FULL["auxk"] = [Shape(512, 8192, 32, 2048, n_steps=300, lr=4e-3, dead=0.1)]
SMOKE = {name: [replace(shapes[0], d_in=32, d_sae=256, k=4, batch=64, n_steps=6, n_warmup=2)] for name, shapes in FULL.items()}
#: Which peers have which variant; all have TopK, all but sparsify BatchTopK.
HAS = {"jumprelu": ("sae-lens", "dictionary-learning", "overcomplete")}
HAS |= dict.fromkeys(("matryoshka", "gated", "relu"), ("sae-lens", "dictionary-learning"))
#: Steps that ours makes before steps are timed, where codes have to become sparse first.
BEFORE = {"jumprelu": 190, "gated": 130, "relu": 130}


def planted(shape: Shape, n: int, folder: Path) -> None:
    """Write rows [n, D], held-out rows and the directions they were made from.

    A row is a sum of about k * 3 / 4 of d_sae / 4 unit directions, some common and some rare, each times 1 + |N(0, 0.5)|, plus a
    constant offset and noise worth 5 % of the variance.
    """
    rng = np.random.default_rng(0)
    n_parts = shape.d_sae // 4
    parts = rng.standard_normal((n_parts, shape.d_in), dtype=np.float32)
    parts /= np.linalg.norm(parts, axis=1, keepdims=True)
    share = np.arange(1, n_parts + 1) ** -0.5
    share = np.minimum(0.5, share * (shape.k * 0.75 / share.sum()))
    offset = rng.standard_normal(shape.d_in, dtype=np.float32) * 0.5
    chunks = [_rows(rng, 4096, parts, share) for _ in range(-(-(n + 8192) // 4096))]
    x = np.concatenate(chunks)
    noise = float(np.sqrt(0.05 * x.var(0).mean()))
    x += offset + noise * rng.standard_normal(x.shape, dtype=np.float32)
    for name, value in (("held_out", x[:8192]), ("rows", x[8192 : 8192 + n]), ("parts", parts)):
        np.save(folder / f"{name}.npy", value)


def _rows(rng: np.random.Generator, n: int, parts: NDArray[np.float32], share: NDArray[np.float64]) -> NDArray[np.float32]:
    on = rng.random((n, len(parts)), dtype=np.float32) < share
    codes = on * (1 + np.abs(rng.standard_normal((n, len(parts)), dtype=np.float32)) / 2)
    return codes.astype(np.float32) @ parts


def peers(shape: Shape) -> dict[str, str]:
    """The peers that have the variant."""
    if shape.dead:  # the two whose counters can be set from outside
        return {name: place for name, place in PEERS.items() if name in ("sae-lens", "sparsify")}
    able = HAS.get(shape.variant, tuple(PEERS) if shape.variant == "topk" else tuple(name for name in PEERS if name != "sparsify"))
    return {name: place for name, place in PEERS.items() if name in able}


def start(names: dict[str, str], shape: Shape, data: Path, threads: int) -> list[lab.Worker]:
    settings = {"data": str(data), **asdict(shape)}
    return [lab.Worker(environment, "sae_rigs", name, threads=threads, settings=settings) for name, environment in names.items()]


def speed(shape: Shape, data: Path, *, threads: int, n_rounds: int, steps: int) -> str:
    """Interleaved rounds of a few steps of training, then of inference."""
    workers = start({OURS: OURS, **peers(shape)}, shape, data, threads)
    ours = [worker for worker in workers if worker.name == OURS]
    n_before = BEFORE.get(shape.variant, 0) if shape.n_steps > max(BEFORE.values()) else 0
    before = [worker("train", n=n_before) for worker in ours if n_before]  # the peers take the same time for any number of codes
    train = lab.rounds(workers, n_rounds, "train", n=steps)
    infer = lab.rounds(workers, n_rounds, "infer", n=steps)
    tokens = steps * shape.batch
    rows = []
    for worker in workers:
        trained, read = train[worker.name], infer[worker.name]
        cpu = sorted(answer.cpu for answer in trained)[len(trained) // 2] / tokens * 1e6
        faster = lab.ratio(train[OURS], trained)
        rates = tokens / lab.seconds(trained), tokens / lab.seconds(read)
        rows.append([f"{worker.name} {worker.version}", rates[0], f"{faster:.2f} x", cpu, rates[1], max(a.peak_mb for a in trained)])
        worker.close()
    held = f" with {shape.dead:.0%} of the latents held dead" if shape.dead else ""
    title = (
        f"## Speed of {shape.variant}{held}: {shape.d_in} -> {shape.d_sae}, k {shape.k}, batch {shape.batch}, "
        f"{threads} threads, {n_rounds} rounds of {steps} steps"
    )
    note = "".join(f"\n\nOurs until codes are sparse, {n_before} steps: {n_before * shape.batch / a.seconds:,.0f} tok/s." for a in before)
    return f"{title}\n\n{lab.table(COLUMNS, rows)}{note}"


def quality(shape: Shape, data: Path, *, threads: int) -> str:
    """Each trained alone on the same batches in the same order."""
    rows = []
    for name, environment in {OURS: OURS, f"{OURS}, its defaults": OURS, **peers(shape)}.items():
        (worker,) = start({name: environment}, shape, data, threads)
        trained = worker("train", n=shape.n_steps)
        found = worker("quality").value
        rows.append([name, *(found[key] for key in ("fvu", "l0", "dead", "mmcs", "recovered")), trained.seconds])
        worker.close()
        print(rows[-1], flush=True)
    tokens = shape.n_steps * shape.batch
    rate = f"Adam at {shape.lr} after {shape.n_warmup} steps of warm-up"
    title = f"## Loss of {shape.variant} after {tokens:,} tokens: {shape.d_in} -> {shape.d_sae}, {rate}"
    return f"{title}\n\nHeld-out rows; dead = never fires on 8,192 of them.\n\n{lab.table(QUALITY, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, nothing is written")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variant", choices=FULL, nargs="*", help="these only; by default all")
    parser.add_argument("--no-quality", action="store_true", help="speed only")
    parser.add_argument("--only", nargs="*", choices=PEERS, help="these peers only")
    parser.add_argument(
        "--shape", nargs=5, type=int, metavar=("D_IN", "D_SAE", "K", "BATCH", "STEPS"), help="another shape, nothing is written"
    )
    options = parser.parse_args()
    for name in [name for name in PEERS if options.only is not None and name not in options.only]:
        del PEERS[name]
    variants = options.variant or list(FULL)
    about, shapes = lab.machine(), [shape for variant in variants for shape in (SMOKE if options.smoke else FULL)[variant]]
    if options.shape:
        shapes = [Shape(*options.shape, lr=4e-3, variant=FULL[name][0].variant) for name in variants]
    sections = []
    for i, shape in enumerate(shapes):
        with tempfile.TemporaryDirectory() as folder:
            planted(shape, 2048 if options.smoke else 131_072, Path(folder))
            settings = {"n_rounds": 1, "steps": 2} if options.smoke else {"n_rounds": 7, "steps": 3}
            sections.append(speed(shape, Path(folder), threads=options.threads, **settings))
            print(sections[-1], flush=True)
            if not options.no_quality and not shape.dead and shape.variant not in {earlier.variant for earlier in shapes[:i]}:
                sections.append(quality(shape, Path(folder), threads=options.threads))
                print(sections[-1], flush=True)
    if not options.smoke and not options.shape:
        name = "-".join(["sae-training", *(options.variant or [])]).replace("_", "-")
        lab.write(name, "SAE training", sections, about)


if __name__ == "__main__":
    main()
