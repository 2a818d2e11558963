"""What each shipped model is: architecture, tokenizer, mixture and schedule, as frozen values.

`train.py` takes a recipe and changes of single fields from the command line, so other seeds and sizes are the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training run, apart from the machine.

    Attributes:
        shares: parts of (real, world, reading) rows in a batch; they sum to 1. Reading rows hold multiple-choice questions and
            the exercises that lead to them (in-context copying is learnt suddenly, and late without them).
        bare_rows: whether every second row starts without BOS, as texts do behind a tokenizer that adds none.
        learning_rate: peak; warmed up over `warmup` steps, constant, then linear to zero over the last `decay` of the steps.
    """

    name: str
    architecture: Literal["llama", "gpt2"]
    layers: int
    width: int
    heads: int
    mlp_width: int
    vocabulary: int
    steps: int
    context: int = 256
    rows: int = 16
    learning_rate: float = 2e-3
    warmup: int = 200
    decay: float = 0.2
    weight_decay: float = 0.1
    shares: tuple[float, float, float] = (0.375, 0.4375, 0.1875)
    bare_rows: bool = False
    seed: int = 0


RECIPES = {
    "arm-small": Recipe("arm-small", "llama", 6, 192, 6, 512, 4096, steps=8_100),
    "arm-tiny": Recipe("arm-tiny", "gpt2", 4, 128, 4, 512, 2048, steps=5_000, shares=(0.3125, 0.4375, 0.25), bare_rows=True),
}
