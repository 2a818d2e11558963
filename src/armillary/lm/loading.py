"""Loading a model and its tokenizer by name: a shipped model, a local folder, or a Hub name."""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from armillary.core.devices import device_of
from armillary.errors import CapabilityError, InputError, UnknownNameError, nearest
from armillary.lm import reference

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "merges.txt")

_ONE_HALF = "pass one half as a module: LanguageModel(module, tokenizer)"


@dataclass(frozen=True)
class Request:
    """What is to be loaded and how; see `LanguageModel` for the fields. A tokenizer that is given is not looked for."""

    name: str
    tokenizer: Any = None
    dtype: torch.dtype | str | None = None
    device: str | torch.device | None = None
    device_map: Any = None
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def target_device(self) -> torch.device:
        """Where the model goes when there is no device map: the given device, else the first GPU, else the CPU."""
        return device_of(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

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
        CapabilityError: an encoder-decoder model, one that comes with code of its own, or a device map without accelerate.
    """
    import transformers

    if request.revision is not None and request.name in reference.NAMES:
        raise InputError(f"{request.name!r} ships with the package in one revision; leave out revision {request.revision!r}")
    if request.device_map is None:
        request.target_device  # noqa: B018  refused before anything is loaded
    where = _resolve(request.name)
    is_local = Path(where).is_dir() or not _reaches_hub()
    options = {"revision": request.revision, "trust_remote_code": request.trust_remote_code, "local_files_only": is_local}
    # What the checkpoint lacks (an encoder's pooler, say) is drawn anew by transformers: always the same, or no two loads were equal.
    with _readable(request.name), _quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.AutoConfig.from_pretrained(where, **options)
        kind = _model_class(config, request.name)
        placed = {} if request.device_map is None else {"device_map": request.device_map}
        model = kind.from_pretrained(where, config=config, dtype=request.target_dtype, **placed, **options)
        tokenizer = request.tokenizer or _tokenizer(where, options)
    if request.device_map is None:
        model.to(request.target_device)
    return model.eval(), tokenizer


def _tokenizer(where: str, options: dict[str, Any]) -> Any:
    """The tokenizer beside the weights; None for a folder that has none."""
    import transformers

    if Path(where).is_dir() and not any(any(Path(where).glob(pattern)) for pattern in _TOKENIZER_FILES):
        return None
    return transformers.AutoTokenizer.from_pretrained(where, **options)


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


def refuse_encoder_decoder(module: nn.Module, name: str) -> None:
    """Raise `CapabilityError` for a module with both halves, of which one reads shifted ids."""
    parts = {path.rpartition(".")[2] for path, _ in module.named_modules() if path.count(".") < 2}
    if getattr(getattr(module, "config", None), "is_encoder_decoder", False) and {"encoder", "decoder"} <= parts:
        raise CapabilityError(f"{name!r} is an encoder-decoder model; {_ONE_HALF}")


def _model_class(config: Any, name: str) -> Any:
    """The auto class for an architecture: causal where it has a causal head, else the bare model."""
    import transformers

    if getattr(config, "is_encoder_decoder", False):
        raise CapabilityError(f"{name!r} is an encoder-decoder model; {_ONE_HALF}")
    architectures = config.architectures or []
    is_causal = any(one.endswith(("ForCausalLM", "LMHeadModel")) for one in architectures)
    # Models of text and images, such as Gemma-3, are called after neither.
    is_causal |= any(one.endswith("ForConditionalGeneration") for one in architectures) and type(config) in _causal_configs()
    return transformers.AutoModelForCausalLM if is_causal else transformers.AutoModel


def _causal_configs() -> Any:
    import transformers

    return transformers.MODEL_FOR_CAUSAL_LM_MAPPING


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turns the many ways in which a name cannot be loaded into one error that says what to do."""
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        raise CapabilityError(f"cannot load the model {name!r}: {_first_line(error)}") from None
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise CapabilityError(
                f"the model {name!r} comes with code of its own, which is not run unasked; read it, then pass trust_remote_code=True"
            ) from None
        if "accelerate" in str(error):
            raise CapabilityError(f"cannot load the model {name!r}: {_first_line(error)}") from None
        raise _unknown(name, _first_line(error) if Path(name).exists() else _why_missing(error)) from None


def _why_missing(error: BaseException) -> str:
    if not isinstance(error, OSError) or (not _is_offline() and _reaches_hub()):
        return _first_line(error)
    return f"it is neither shipped, nor a folder, nor cached, and the Hub {'is switched off' if _is_offline() else 'cannot be reached'}"


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def _reaches_hub() -> bool:
    """Whether the Hub may be asked and answers; without a network its own client tries for half a minute."""
    if _is_offline() or urllib.request.getproxies():
        return not _is_offline()
    host = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        with socket.create_connection((host.hostname, host.port or 443), timeout=5):
            return True
    except OSError:
        return False


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200].rstrip(".") if text else type(error).__name__


def _unknown(name: str, reason: str) -> UnknownNameError:
    close = nearest(name, {*reference.NAMES, *_folders(Path(name).parent)} - {str(Path(name))})
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return UnknownNameError(
        f"cannot load the model {name!r}: {reason}.{hint} "
        f"Known: {', '.join(reference.NAMES)}, any folder with a config.json, or a Hub name (with HF_HUB_OFFLINE unset)."
    )


def _folders(beside: Path) -> list[str]:
    """Model folders where one was looked for."""
    return [str(path.parent) for path in beside.expanduser().glob("*/config.json")]


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
