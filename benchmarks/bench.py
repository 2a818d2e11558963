"""Run benchmarks: all of them, or those named.

    python benchmarks/bench.py                          # make bench
    python benchmarks/bench.py sae_training --smoke     # make bench ARGS="sae_training --smoke"

What begins with "-" is passed on to each benchmark.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = ("imports", "store", "harvest", "sae_training", "sae_quality", "snmf", "mfa", "contexts")


def main(arguments: list[str]) -> int:
    """The number of benchmarks that failed."""
    wanted = [name for name in arguments if not name.startswith("-")] or list(NAMES)
    if unknown := [name for name in wanted if name not in NAMES]:
        print(f"unknown benchmark {unknown[0]!r}; known: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    options = [name for name in arguments if name.startswith("-")]
    failed = 0
    for name in wanted:
        print(f"== {name}", flush=True)
        failed += subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py")), *options], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
