"""Single files of torch, told apart by their tensors: OpenAI's GPT-2 autoencoders, Goodfire's, the DeepSeek-R1 ones, Qwen Scope."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from armillary.core.decomposition import Decomposition
from armillary.errors import CorruptFileError, InputError
from armillary.methods.formats.checkpoint import Checkpoint
from armillary.methods.formats.files import Tensors, count, mapping
from armillary.methods.sae.weights import Weights


def found_in(place: Path) -> bool:
    """Whether a path is such a file."""
    return place.is_file() and place.suffix in (".pt", ".pth")


def load(place: Path, *, k: int | None = None, layer: int | None = None, site: str | None = None, model: str = "") -> Decomposition:
    """Read a file.

    Args:
        place: the file.
        k: codes per row, where neither the file nor its folder's name says.
        layer: the block, where the file's name does not say.
        site: what is read; by default the residual stream after the block.
        model: name of the language model.

    Raises:
        CorruptFileError: a tensor is missing, cut short or of another shape, the file is of none of these tools, or it holds code.
        InputError: `k` is needed.
    """
    tensors = Tensors.read(place)
    if "pre_bias" in tensors:
        found = _openai(tensors, place, k)
    elif "W_enc" in tensors:
        found = _qwen(tensors, place, k)
    else:
        found = _plain(tensors)
    number = _number(place.name) if layer is None else layer
    if number is not None and (not isinstance(number, int) or number < 0):
        raise InputError(f"layer must be a whole number from 0, got {number!r}")
    kind = _kind(place)
    hook = site or (None if number is None or kind is None else f"{kind}.{number}")
    record = {**found.record, "prepend_bos": True} if found.record["format"] == "qwen_scope" else found.record
    return replace(found, read=hook, model=model or _model(place), record=record).fit()


#: Folders of OpenAI's autoencoders -> kinds of site.
OPENAI = {"mlp_post_act": "mlp_act", "resid_post_attn": "resid_mid", "resid_post_mlp": "resid_post"}


def _kind(place: Path) -> str | None:
    """The kind of site that the names of the folders tell; None for what is no site of its own, such as a block's share alone."""
    for part in place.parts:
        if "resid_delta" in part:
            return None
        for name, kind in OPENAI.items():
            if part.startswith(name):
                return kind
    return "resid_post"


def _model(place: Path) -> str:
    """The language model, from a folder such as SAE-Res-Qwen3-8B-W32K-L0_50."""
    found = (re.match(r"SAE-Res-(Qwen.+?)-W\d+K", part) for part in place.parts)
    return next((f"Qwen/{match[1]}" for match in found if match), "")


def _number(name: str) -> int | None:
    """The layer that a name such as 3.pt, layer12.sae.pt or their-sae-l19.pth means."""
    match = re.match(r"(?:layer_?)?(\d+)\.", name) or re.search(r"-l(?:ayer)?(\d+)\.", name)
    return int(match[1]) if match else None


def _openai(tensors: Tensors, place: Path, k: int | None) -> Checkpoint:
    m = len(tensors.take("latent_bias", None))
    d = len(tensors.take("pre_bias", None))
    W_dec = tensors.take("decoder.weight", d, m).T.contiguous()
    weights = Weights(tensors.take("encoder.weight", m, d), tensors.take("latent_bias", m), W_dec, tensors.take("pre_bias", d))
    settings = _plain_values(place)
    kind, kept = str(settings.get("activation", "ReLU")), mapping(settings.get("activation_state_dict")).get("k", k)
    kept = kept.item() if isinstance(kept, torch.Tensor) and kept.numel() == 1 else kept
    is_topk = kind == "TopK"
    if is_topk and kept is None:
        raise InputError(f"{place} is a TopK autoencoder that does not hold its k; pass k=")
    return Checkpoint(
        "topk" if is_topk else "relu",
        weights,
        is_centred=True,
        k=count(kept, "k", place, most=m) if is_topk and kept is not None else None,
        normalisation="layer_norm" if is_topk else "none",
        record={"format": "openai", "activation": kind},
    )


def _plain_values(place: Path) -> dict[str, Any]:
    """What the file holds beside tensors; it was read safely before."""
    found = torch.load(place, map_location="cpu", weights_only=True)
    return {name: value for name, value in found.items() if not isinstance(value, torch.Tensor)}


def _qwen(tensors: Tensors, place: Path, k: int | None) -> Checkpoint:
    W_enc = tensors.take("W_enc", None, None)  # [M, D]
    m, d = W_enc.shape
    weights = Weights(W_enc, tensors.take("b_enc", m), tensors.take("W_dec", d, m).T.contiguous(), tensors.take("b_dec", d))
    named = next((int(match[1]) for part in reversed(place.parts) if (match := re.search(r"-L0_(\d+)", part))), k)
    if named is None:
        raise InputError(f"{place} does not hold its k, which Qwen Scope keeps in the name of its folder (-L0_50); pass k=")
    return Checkpoint("topk", weights, is_centred=False, k=count(k or named, "k", place, most=m), record={"format": "qwen_scope"})


def _plain(tensors: Tensors) -> Checkpoint:
    """An encoder and a decoder as linear layers: Goodfire's and DeepSeek-R1's."""
    for encoder, decoder in (("encoder_linear", "decoder_linear"), ("encoder", "decoder")):
        if f"{encoder}.weight" in tensors:
            W_enc = tensors.take(f"{encoder}.weight", None, None)
            m, d = W_enc.shape
            W_dec = tensors.take(f"{decoder}.weight", d, m).T.contiguous()
            weights = Weights(W_enc, tensors.take(f"{encoder}.bias", m), W_dec, tensors.take(f"{decoder}.bias", d))
            return Checkpoint("relu", weights, is_centred=False, record={"format": "linear layers"})
    raise CorruptFileError(f"{tensors.path} is of no known tool; it holds {', '.join(sorted(tensors)) or 'no tensors'}")
