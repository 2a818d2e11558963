"""make test-interop: our files in the real packages, and the real packages' files here, each package in an environment of its own.

python tests/interop/run.py            # builds the environments of benchmarks/envs.py that are missing
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "benchmarks"))

import envs  # noqa: E402 (the benchmarks' environments serve here too)

import armillary as arm  # noqa: E402
from armillary.core.decomposition import Decomposition  # noqa: E402
from armillary.errors import CapabilityError  # noqa: E402
from armillary.methods import formats  # noqa: E402

#: Tool -> environment of benchmarks/envs.py.
PLACES = {"saelens": "sae-lens", "dictionary_learning": "dictionary-learning", "sparsify": "sparsify"}
#: Largest difference that counts as the same, relative to the largest entry.
TOLERANCE = 1e-5


def rows(n: int, d: int = 16) -> Tensor:
    mixing = torch.randn(12, d, generator=torch.Generator().manual_seed(9))
    return torch.randn(n, 12, generator=torch.Generator().manual_seed(0)).relu() @ mixing + 0.5


def fits() -> dict[str, Decomposition]:
    """One small fit of every variant, and transcoders."""
    size = {"n_features": 64, "n_steps": 50, "batch_size": 512}
    x = rows(2000)
    y = (x @ torch.randn(16, 16, generator=torch.Generator().manual_seed(3))).relu()
    pair = arm.Targeted.pair(x, y)
    penalised = {"relu": arm.ReLUSAE, "gated": arm.GatedSAE, "jumprelu": arm.JumpReLUSAE}
    counted = {"topk": arm.TopKSAE, "abs_topk": arm.AbsTopKSAE, "batch_topk": arm.BatchTopKSAE, "matryoshka": arm.MatryoshkaSAE}
    counted |= {"archetypal": arm.ArchetypalSAE}
    found = {name: method(l0=6, **size).fit(x) for name, method in penalised.items()}
    found |= {name: method(k=6, **size).fit(x) for name, method in counted.items()}
    for skip in (False, True):
        name = "skip_transcoder" if skip else "transcoder"
        found[f"relu_{name}"] = arm.ReLUSAE(l0=6, skip=skip, **size).fit(pair)
        found[f"jumprelu_{name}"] = arm.JumpReLUSAE(l0=6, skip=skip, **size).fit(pair)
        found[f"topk_{name}"] = arm.TopKSAE(k=6, skip=skip, **size).fit(pair)
    return found


def ask(environment: str, script: str, *arguments: str) -> list[str]:
    """What a script prints in an environment."""
    variables = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "PYTHONWARNINGS": "ignore"}
    command = [str(envs.python(environment)), str(HERE / script), *arguments]
    ended = subprocess.run(command, check=False, env=os.environ | variables, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{script} failed in the environment {environment}:\n{ended.stderr}")
    return ended.stdout.splitlines()


def ours_there(folder: Path) -> list[tuple[str, str]]:
    """(what, problem or "") for every fit that a tool has a place for."""
    found = []
    made = fits()
    for tool, environment in PLACES.items():
        written = []
        for name, fit in made.items():
            try:
                written.append(str(formats.save(fit, folder / tool / name, tool)))
            except (CapabilityError, arm.errors.InputError):
                continue
        lines = ask(environment, "read_ours.py", tool, *written)
        answers = [json.loads(line.removeprefix("RESULT ")) for line in lines if line.startswith("RESULT ")]
        assert len(answers) == len(written)
        for answer in answers:
            far = [f"{name} off by {answer[name]:.1e}" for name in ("codes", "y") if not answer["error"] and answer[name] > TOLERANCE]
            found.append((f"{answer['folder']} written here, read by {tool}", answer["error"] or ", ".join(far)))
    return found


def theirs_here(folder: Path) -> list[tuple[str, str]]:
    """(what, problem or "") for every checkpoint that the packages write afresh."""
    for environment in PLACES.values():
        ask(environment, "make_golden.py", environment, str(folder))
    return [(f"{path.parent.relative_to(folder)} written there, read here", _problem(path)) for path in sorted(folder.rglob("expected.*"))]


def _problem(path: Path) -> str:
    expected = load_file(path)
    fit = formats.load(path.parent)
    codes = fit.encode(expected["x"])
    size = expected["x"].std(1, keepdim=True) if "layer_norm" in str(path) else 1.0  # ours are in the row's own size
    off = {"codes": codes.dense() - expected["codes"] * size, "y": fit.decode(codes) - expected["y"]}
    far = {name: float(gap.abs().max() / expected[name].abs().max()) for name, gap in off.items()}
    return ", ".join(f"{name} off by {value:.1e}" for name, value in far.items() if value > TOLERANCE)


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        found = [*ours_there(Path(scratch, "ours")), *theirs_here(Path(scratch, "theirs"))]
    for what, problem in found:
        sys.stdout.write(f"{'FAILED' if problem else 'ok    '}  {what}{f': {problem}' if problem else ''}\n")
    failed = sum(bool(problem) for _, problem in found)
    sys.stdout.write(f"{len(found) - failed} of {len(found)} agree to {TOLERANCE:g}\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
