"""One environment per peer, so that none has to live with another's pins.

    python benchmarks/envs.py                # build all that are missing
    python benchmarks/envs.py sae-lens       # build one

Environments lie in benchmarks/.envs/<name>; deleting a folder is the way to build it afresh.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENVS = HERE / ".envs"
CONSTRAINTS = HERE.parent / "constraints.txt"

#: Environment -> what pip is given. Pins are what the last report was measured with.
PEERS: dict[str, list[str]] = {
    "sae-lens": ["sae-lens==6.54.12", "transformer-lens<4"],  # TransformerLens 4 removed what sae-lens imports
    "dictionary-learning": ["dictionary-learning==0.1.0"],
    "sparsify": ["eai-sparsify==1.3.3", "scipy"],
    "overcomplete": ["overcomplete==0.3.0"],
    "nnsight": ["nnsight==0.8.1", "transformers>=5,<6"],
}
#: Peers installed without what they declare, and what they are given instead: overcomplete asks for the packages of its vision models,
#: which the rig replaces by stubs, and calls a function that matplotlib 3.9 removed.
INSTEAD = {
    "overcomplete": [
        "einops",
        "matplotlib<3.9",
        "numpy",
        "opencv-python-headless",
        "pillow",
        "scikit-image",
        "scikit-learn",
        "scipy",
        "torch",
        "tqdm",
    ]
}
#: Packages that come along and have to go: the torchvision that pip finds is built for another torch, and breaks every import of
#: transformers where it is present.
REMOVED = {"dictionary-learning": ["torchvision"]}


def python(name: str) -> Path:
    """The interpreter of a peer's environment, built if it is missing. "armillary" is the one that runs this script."""
    if name == "armillary":
        return Path(sys.executable)
    folder = ENVS / name
    interpreter = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"building {folder} ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        _install(interpreter, name)
        (folder / "complete").touch()
    return interpreter


def _install(interpreter: Path, name: str) -> None:
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
    if name in INSTEAD:
        subprocess.run([*pip, *INSTEAD[name]], check=True)
        pip.append("--no-deps")
    subprocess.run([*pip, *PEERS[name]], check=True)
    if name in REMOVED:
        subprocess.run([str(interpreter), "-m", "pip", "uninstall", "--quiet", "--yes", *REMOVED[name]], check=True)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or PEERS:
        print(wanted, python(wanted))
