"""The judge of a command: the options that name it, and its opening. `label` has them, and every study that asks a judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from armillary.core.model import Model
    from armillary.inspect.asking import Asking

#: The fit's own model as the judge.
OWN = "model"


def options() -> list[click.Parameter]:
    """What `opened` is told."""
    return [
        click.Option(
            ["--judge"],
            default="none",
            show_default=True,
            help="Who is asked: none, model (the fit's own), local:MODEL, replay:FILE, or a URL such as http://localhost:8000/v1.",
        ),
        click.Option(["--judge-model"], help="Which of the models behind the URL."),
        click.Option(
            ["--key-variable"], default="ARMILLARY_JUDGE_KEY", show_default=True, help="Environment variable with the key of the URL."
        ),
        click.Option(["--max-calls"], type=click.IntRange(0), help="Prompts to ask at most; what is left is missing.  [default: no limit]"),
        click.Option(
            ["--max-tokens"],
            type=click.IntRange(1),
            help="Tokens of an answer at most; some thousands for a judge that reasons first.  [default: a few dozen]",
        ),
        click.Option(["--logprobs"], is_flag=True, help="Ask the URL for the probabilities of yes and no, which not every server tells."),
        click.Option(
            ["--cache"], help="File (.jsonl) that keeps answers, so that none is asked for twice.  [default: judge.jsonl beside FIT]"
        ),
    ]


def opened(told: Mapping[str, Any], fit: str | Path, own: Callable[[], Model]) -> Asking | None:
    """The judge that was asked for.

    Args:
        told: the values of the options.
        fit: the folder beside which answers are kept.
        own: opens the fit's model.

    Raises:
        InputError: no such judge, or one that cannot be had.
    """
    from armillary.app.subjects import model_name
    from armillary.inspect.judges import judge_of
    from armillary.lm.model import LanguageModel

    is_own = told["judge"] == OWN

    def load(name: str) -> Model:
        return own() if is_own else LanguageModel(model_name(name))

    return judge_of(
        f"local:{OWN}" if is_own else told["judge"],
        load=load,
        model=told["judge_model"],
        key_variable=told["key_variable"],
        max_tokens=told["max_tokens"],
        logprobs=told["logprobs"],
        cache=kept_in(told, fit),
        max_calls=told["max_calls"],
    )


def kept_in(told: Mapping[str, Any], fit: str | Path) -> Path:
    """The file that keeps the judge's answers."""
    return Path(told["cache"] or Path(fit).parent / "judge.jsonl")
