"""Tokens per second from ids to the residual stream of one block of a random GPT-2, in interleaved rounds.

python benchmarks/harvest.py [--smoke]
"""

from __future__ import annotations

import argparse

import lab

RIGS = {
    "armillary": "armillary",
    "armillary, fast": "armillary",
    "transformers, whole model": "armillary",
    "transformers, stopped by hand": "armillary",
    "nnsight, stopped": "nnsight",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, nothing is written")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    about = lab.machine()
    size = {"d": 32, "n_layers": 3, "n": 2, "length": 16} if options.smoke else {"d": 256, "n_layers": 4, "n": 16, "length": 128}
    workers = [lab.Worker(place, "harvest_rigs", name, threads=options.threads, settings=size) for name, place in RIGS.items()]
    found = lab.rounds(workers, 1 if options.smoke else 7, "run", n=1 if options.smoke else 4)
    truth = workers[2]("checksum").value
    tokens = size["n"] * size["length"] * (1 if options.smoke else 4)
    rows = []
    for worker in workers:
        gap = max(abs(a - b) for a, b in zip(worker("checksum").value, truth, strict=True))
        answers = found[worker.name]
        faster = lab.ratio(found["armillary"], answers)
        rows.append([f"{worker.name} {worker.version}", tokens / lab.seconds(answers), f"{faster:.2f} x", f"{gap:.1e}"])
        worker.close()
    shown = lab.table(["implementation", "tok/s", "armillary is faster by", "largest difference"], rows)
    print(shown)
    if not options.smoke:
        title = f"## Residual stream after block 3 of 4, width 256, batches of 16 x 128 tokens, {options.threads} threads"
        lab.write("harvest", "Activation harvesting", [f"{title}\n\n{shown}"], about)


if __name__ == "__main__":
    main()
