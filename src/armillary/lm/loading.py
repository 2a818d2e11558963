"""Loading a model and its tokenizer by name: a shipped model, a local folder, or a Hub name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from armillary.errors import CapabilityError, InputError, UnknownNameError, nearest
from armillary.lm import reference


@dataclass(frozen=True)
class Request:
    """What is to be loaded and how; see `LanguageModel` for the fields."""

    name: str
    dtype: torch.dtype | str | None = None
    device: str | torch.device | None = None
    device_map: Any = None
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def target_device(self) -> torch.device:
        """Where the model goes when there is no device map: the given device, else the first GPU, else the CPU."""
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def target_dtype(self) -> torch.dtype | str:
        """The given dtype, else the checkpoint's own on a GPU and float32 on a CPU."""
        if isinstance(self.dtype, str):
            return parse_dtype(self.dtype)
        if self.dtype is not None:
            return self.dtype
        return "auto" if self.device_map is not None or self.target_device.type != "cpu" else torch.float32


def parse_dtype(text: str) -> torch.dtype | str:
    """A torch dtype from "float32", "bf16", ...; "auto" stays.

    Raises:
        InputError: no such dtype.
    """
    short = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "half": "float16"}
    found = getattr(torch, short.get(text, text), None)
    if text != "auto" and not isinstance(found, torch.dtype):
        raise InputError(f"unknown dtype {text!r}; allowed: float32, float16, bfloat16, auto")
    return text if found is None else found


def load(request: Request) -> tuple[Any, Any]:
    """(model in eval mode, tokenizer) of a name.

    Raises:
        UnknownNameError: nothing is called so, here or (where the network is allowed) on the Hub.
        CapabilityError: an encoder-decoder model.
    """
    import transformers

    where = _resolve(request.name)
    options = {"revision": request.revision, "trust_remote_code": request.trust_remote_code}
    with _readable(request.name), _quiet():
        config = transformers.AutoConfig.from_pretrained(where, **options)
        kind = _model_class(config, request.name)
        placed = {} if request.device_map is None else {"device_map": request.device_map}
        model = kind.from_pretrained(where, config=config, dtype=request.target_dtype, **placed, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
    if request.device_map is None:
        model.to(request.target_device)
    return model.eval(), tokenizer


def _resolve(name: str) -> str:
    """A folder or a Hub name."""
    if name in reference.NAMES:
        return str(reference.path(name))
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise _unknown(name, "there is no such folder")
    return name


def _model_class(config: Any, name: str) -> Any:
    """The auto class for an architecture: causal where it has a causal head, else the bare model."""
    import transformers

    if getattr(config, "is_encoder_decoder", False):
        raise CapabilityError(f"{name!r} is an encoder-decoder model; pass its encoder or decoder as a module: LanguageModel(module, tokenizer)")
    architectures = config.architectures or []
    is_causal = any(one.endswith(("ForCausalLM", "LMHeadModel")) for one in architectures)
    return transformers.AutoModelForCausalLM if is_causal else transformers.AutoModel


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turns the many ways in which a name cannot be loaded into one error that says what to do."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        is_missing = isinstance(error, OSError)
        reason = "it is neither shipped, nor a folder, nor cached" if is_missing and _is_offline() else _first_line(error)
        raise _unknown(name, reason) from None


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _unknown(name: str, reason: str) -> UnknownNameError:
    close = nearest(Path(name).name, [*reference.NAMES, *_folders()])
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return UnknownNameError(
        f"cannot load the model {name!r}: {reason}.{hint} "
        f"Known: {', '.join(reference.NAMES)}, any folder with a config.json, or a Hub name (with HF_HUB_OFFLINE unset)."
    )


def _folders() -> list[str]:
    """Model folders in the working directory."""
    return [path.parent.name for path in Path().glob("*/config.json")]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the loading library's own progress bars and advice."""
    from transformers.utils import logging

    had_bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bar:
            logging.enable_progress_bar()
