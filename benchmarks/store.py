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
    "Arrow Array2D, flushed": "sae-lens",
}
COLUMNS = [
    "store",
    "write rows/s",
    "armillary bf16 is faster by",
    "read rows/s in order",
    "shuffled",
    "shuffled / in order",
    "bytes per number",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few rows, nothing is written")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    about = lab.machine()
    size = {"n": 4096 if options.smoke else 131_072, "d": 64 if options.smoke else 512}
    n_rounds = 1 if options.smoke else 15
    workers = [lab.Worker(place, "store_rigs", name, threads=options.threads, settings=size) for name, place in RIGS.items()]
    written = lab.rounds(workers, n_rounds, "write", before="remove")
    ordered = lab.rounds(workers, n_rounds, "read", seed=None)
    shuffled = lab.rounds(workers, n_rounds, "read", seed=0)
    rows = []
    for worker in workers:
        name = worker.name
        write, read, mixed = (size["n"] / lab.seconds(found[name]) for found in (written, ordered, shuffled))
        faster, share = lab.ratio(written["armillary bf16"], written[name]), lab.ratio(shuffled[name], ordered[name])
        rows.append([name, write, f"{faster:.2f} x", read, mixed, f"{share:.2f}", worker("size").value / (size["n"] * size["d"])])
        worker("clear")
        worker.close()
    shown = lab.table(COLUMNS, rows)
    print(shown)
    if not options.smoke:
        note = (
            "Writing: armillary hashes what it writes and flushes it to the disk. Reading ends with float32 rows in batches of 4,096; "
            "Arrow is shuffled by blocks of 128 rows, the others row by row."
        )
        lab.write("store", f"Activation store, {size['n']:,} rows of {size['d']}", [note, shown], about)


if __name__ == "__main__":
    main()
