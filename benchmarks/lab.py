"""What every benchmark shares: workers in other environments, interleaved rounds, medians, and dated Markdown.

A worker is a process that builds one rig (an object of a `*_rigs.py`) and calls its methods when told; all workers of a comparison are
alive at once and take turns, so that a busy neighbour slows all of them alike.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import random
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envs

HERE = Path(__file__).parent
RESULTS = HERE / "results"


@dataclass(frozen=True)
class Answer:
    """What a call returned, and what it took.

    Args:
        value: JSON.
        seconds: wall time.
        cpu: processor time of all threads, in seconds.
        peak_mb: the process's largest resident memory since the rig was built, less that at this moment (with weights and data).
    """

    value: Any
    seconds: float
    cpu: float
    peak_mb: float


class Worker:
    """A process with one rig.

    Args:
        environment: a name in `envs.PEERS`, or "armillary".
        module: the rigs' module, such as "sae_rigs"; its `build(name, **settings)` is called.
        name: which rig.
        threads: that torch and the BLAS may use.
        settings: for `build`, JSON.
    """

    def __init__(self, environment: str, module: str, name: str, *, threads: int, settings: Mapping[str, Any]) -> None:
        self.name = name
        variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
        variables |= {"OMP_WAIT_POLICY": "PASSIVE", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}  # whoever waits its turn sleeps
        command = [str(envs.python(environment)), str(HERE / "worker.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | variables)
        self.version = self._ask({"module": module, "name": name, "threads": threads, "settings": dict(settings)}).value

    def __call__(self, method: str, **arguments: Any) -> Answer:
        return self._ask({"method": method, "arguments": arguments})

    def _ask(self, question: Mapping[str, Any]) -> Answer:
        pipe, answer = self._process.stdin, self._process.stdout
        assert pipe is not None and answer is not None
        pipe.write(json.dumps(question) + "\n")
        pipe.flush()
        line = answer.readline()
        if not line:
            raise RuntimeError(f"the worker of {self.name!r} ended with exit code {self._process.wait()}; its error is above")
        return Answer(**json.loads(line))

    def close(self) -> None:
        self._process.communicate()


def rounds(workers: Sequence[Worker], n_rounds: int, method: str, before: str = "", **arguments: Any) -> dict[str, list[Answer]]:
    """Call a method `n_rounds` times on every worker, in turns whose order is drawn anew; an untimed call of each comes first.

    Args:
        before: a method that is called before each call, untimed.
    """
    found: dict[str, list[Answer]] = {worker.name: [] for worker in workers}
    order = random.Random(0)
    for turn in range(n_rounds + 1):
        for worker in order.sample(workers, len(workers)):
            if before:
                worker(before)
            answer = worker(method, **arguments)
            if turn:
                found[worker.name].append(answer)
    return found


def ratio(ours: Sequence[Answer], theirs: Sequence[Answer]) -> float:
    """How many times as long theirs takes: the median over rounds of the ratio within a round."""
    return statistics.median(b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True))


def seconds(answers: Sequence[Answer]) -> float:
    """Median wall time."""
    return statistics.median(answer.seconds for answer in answers)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats are given three or four digits."""
    lines = [columns, ["---"] * len(columns), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def machine() -> str:
    """One paragraph on what this was measured on."""
    words = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in words if line.startswith("model name")), platform.processor())
    load = ", ".join(f"{part:.1f}" for part in os.getloadavg())
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores ({model}), {system}, load average before the first run {load}."


def write(name: str, title: str, sections: Sequence[str], about: str) -> Path:
    """results/<date>-<name>.md; an earlier report of the same day is kept under its own name."""
    RESULTS.mkdir(exist_ok=True)
    date = datetime.date.today().isoformat()
    stem = RESULTS / f"{date}-{name}"
    path = next(p for i in range(1, 100) if not (p := Path(f"{stem}{'' if i == 1 else f'-{i}'}.md")).exists())
    path.write_text("\n\n".join([f"# {title}, {date}", about, *sections]) + "\n")
    print(path)
    return path
