"""The options that say how a model is loaded, shared by the commands that take one."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from armillary.lm.model import LanguageModel

_OPTIONS = (
    click.option("--revision", help="Branch, tag or commit of a model on the hub."),
    click.option("--model-dtype", help="Precision the model runs in: float32, float16, bfloat16 or auto.  [default: float32 on a CPU]"),
    click.option("--device", help="Where it runs, for instance cuda:0 or cpu.  [default: the first GPU, else the CPU]"),
    click.option("--device-map", help="Spread it over devices as accelerate does, for instance auto."),
    click.option("--fast", is_flag=True, help="Fewer, better kernels for a float32 model on a CPU; activations differ by about 1e-7."),
    click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model. Off unless asked."),
)


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def opened(name: str, settings: MutableMapping[str, Any]) -> LanguageModel:
    """The model, loaded as the options say; takes them out of `settings`."""
    from armillary.app.subjects import model_name
    from armillary.lm.model import LanguageModel

    how = {key: settings.pop(key) for key in ("revision", "device", "device_map", "trust_remote_code", "fast")}
    return LanguageModel(model_name(name), dtype=settings.pop("model_dtype"), **how)
