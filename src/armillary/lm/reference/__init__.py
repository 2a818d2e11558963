"""The small language models that ship with the package, and everything they were made from.

`path("arm-small")` is a Hugging Face folder that plain `AutoModelForCausalLM.from_pretrained` opens. What the models were
taught is in `world` (the facts), `templates` (the wordings) and `corpus` (the documents); `train` makes them, and further
seeds and sizes; `evaluate` says how well they know it. `MODEL_CARD.md` beside this file has the figures.
"""

from __future__ import annotations

from pathlib import Path

from armillary.errors import InputError

NAMES = ("arm-small", "arm-tiny")
_WEIGHTS = Path(__file__).with_name("weights")


def path(name: str) -> Path:
    """The folder of a shipped model.

    Raises:
        InputError: when no shipped model has this name, or the installation lacks its weights.
    """
    if name not in NAMES:
        raise InputError(f"no shipped model is called {name!r}; there are {', '.join(NAMES)}")
    folder = _WEIGHTS / name
    if not (folder / "config.json").exists():
        raise InputError(f"the weights of {name} are missing from {folder}: install the package again")
    return folder
