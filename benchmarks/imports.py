"""Seconds, modules and memory of importing each package, the best of several fresh processes.

python benchmarks/imports.py [--smoke]
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from typing import Any

import envs
import lab

#: What is run -> environment.
STATEMENTS = {
    "import armillary": "armillary",
    "import armillary; armillary.TopKSAE": "armillary",
    "import armillary; armillary.LanguageModel": "armillary",
    "armillary --help": "armillary",
    "import torch": "armillary",
    "import sae_lens": "sae-lens",
    "import transformer_lens": "sae-lens",
    "import dictionary_learning": "dictionary-learning",
    "import sparsify": "sparsify",
    "import nnsight": "nnsight",
}
#: What a statement that is no Python stands for.
HELP = """import contextlib, armillary.app.cli
sys.argv[1:] = ["--help"]
with contextlib.suppress(SystemExit):
    armillary.app.cli.main()"""
CODE = {"armillary --help": HELP}
PROBE = """
import json, resource, sys, time
wall = time.perf_counter()
{statement}
used = resource.getrusage(resource.RUSAGE_SELF)
taken = [time.perf_counter() - wall, used.ru_utime + used.ru_stime, len(sys.modules), used.ru_maxrss / 1024]
sys.stderr.write(chr(10) + json.dumps(taken))
"""


def measure(statement: str, environment: str, n: int) -> Sequence[Any]:
    """[statement, best wall seconds, best CPU seconds of the process, modules, MB]."""
    command = [str(envs.python(environment)), "-c", PROBE.format(statement=CODE.get(statement, statement))]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(n)]
    taken = [json.loads(run.stderr.splitlines()[-1]) for run in runs]
    return [statement, min(run[0] for run in taken), min(run[1] for run in taken), taken[0][2], min(run[3] for run in taken)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one run each, nothing is written")
    options = parser.parse_args()
    about = lab.machine()
    rows = [measure(statement, place, 1 if options.smoke else 5) for statement, place in STATEMENTS.items()]
    shown = lab.table(["statement", "seconds", "CPU seconds", "modules", "MB resident"], rows)
    print(shown)
    if not options.smoke:
        lab.write("imports", "Import time", [shown], about)


if __name__ == "__main__":
    main()
