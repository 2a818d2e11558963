"""Tokens per second from ids to the residual stream of one block of a random GPT-2, in interleaved rounds.

python benchmarks/harvest.py [--smoke]
"""

from __future__ import annotations

import argparse

import lab

RIGS = {
    "armillary": "armillary",
    "armillary, fast": "armillary",
    "armillary, into a store": "armillary",
    "armillary, fast, into a store": "armillary",
    "transformers, whole model": "armillary",
    "transformers, stopped by hand": "armillary",
    "nnsight, stopped": "nnsight",
    "SAELens's store": "sae-lens",
}
#: Forward passes per round.
N_PASSES = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, nothing is written")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    about, n = lab.machine(), 1 if options.smoke else N_PASSES
    size = {"d": 32, "n_layers": 3, "n": 2, "length": 16} if options.smoke else {"d": 256, "n_layers": 4, "n": 16, "length": 128}
    workers = [lab.Worker(place, "harvest_rigs", name, threads=options.threads, settings=size) for name, place in RIGS.items()]
    found = lab.rounds(workers, 1 if options.smoke else 5, "run", n=n)
    truth = workers[list(RIGS).index("transformers, whole model")]("checksum").value
    tokens = size["n"] * size["length"] * n
    rows = []
    for worker in workers:
        gap = max(abs(a - b) for a, b in zip(worker("checksum").value, truth, strict=True))
        answers = found[worker.name]
        faster = [f"{lab.ratio(found[ours], answers):.2f} x" for ours in ("armillary", "armillary, fast")]
        rows.append([f"{worker.name} {worker.version}", tokens / lab.seconds(answers), *faster, f"{gap:.1e}"])
        worker.close()
    shown = lab.table(["implementation", "tok/s", "time over armillary's", "over armillary, fast", "largest difference"], rows)
    print(shown)
    if not options.smoke:
        title = f"## Residual stream after block 3 of 4, width 256, batches of 16 x 128 tokens, {options.threads} threads"
        lab.write("harvest", "Activation harvesting", [f"{title}\n\n{shown}"], about)


if __name__ == "__main__":
    main()
