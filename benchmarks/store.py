"""Rows per second into and out of the activation store, in interleaved rounds; what was written is still in the page cache.

python benchmarks/store.py [--smoke]
"""

from __future__ import annotations

import argparse

import lab

RIGS = {
    "armillary bf16": "armillary",
    "armillary fp32": "armillary",
    "armillary int8": "armillary",
    "raw fp32 file": "armillary",
    "Arrow Array2D": "sae-lens",
}
COLUMNS = ["store", "write rows/s", "read rows/s in order", "read rows/s shuffled", "bytes per number"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few rows, nothing is written")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    about = lab.machine()
    size = {"n": 4096 if options.smoke else 131_072, "d": 64 if options.smoke else 512}
    n_rounds = 1 if options.smoke else 5
    workers = [lab.Worker(place, "store_rigs", name, threads=options.threads, settings=size) for name, place in RIGS.items()]
    written = lab.rounds(workers, n_rounds, "write")
    ordered = lab.rounds(workers, n_rounds, "read", seed=None)
    shuffled = lab.rounds(workers, n_rounds, "read", seed=0)
    rows = []
    for worker in workers:
        rates = [size["n"] / lab.seconds(found[worker.name]) for found in (written, ordered, shuffled)]
        rows.append([worker.name, *rates, worker("size").value / (size["n"] * size["d"])])
        worker("clear")
        worker.close()
    shown = lab.table(COLUMNS, rows)
    print(shown)
    if not options.smoke:
        note = "Reading ends with float32 rows in batches of 4,096. Arrow is shuffled by blocks of 128 rows, the others row by row."
        lab.write("store", f"Activation store, {size['n']:,} rows of {size['d']}", [note, shown], about)


if __name__ == "__main__":
    main()
