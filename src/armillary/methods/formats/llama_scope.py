"""Llama Scope and its successors (Language-Model-SAEs, Llamascopium): JumpReLU and TopK autoencoders of OpenMOSS.

Three layouts: hyperparams.json with checkpoints/final.safetensors; config.json with sae_weights.safetensors and log_jumprelu_threshold;
and the library's own of version 2, whose tensors are W_E, b_E, W_D, b_D. Rows are read times sqrt(d) / (their mean norm in training).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from armillary.core.decomposition import Decomposition
from armillary.errors import InputError, unknown
from armillary.methods.formats.checkpoint import Checkpoint, fold_scale
from armillary.methods.formats.files import Tensors, need, read_json
from armillary.methods.sae.weights import Weights

LINEAR = {"encoder.bias": "b_enc", "decoder.bias": "b_dec", "b_E": "b_enc", "b_D": "b_dec"}


def found_in(place: Path) -> bool:
    """Whether a folder looks like one of theirs."""
    return (place / "hyperparams.json").is_file() or ((place / "config.json").is_file() and (place / "sae_weights.safetensors").is_file())


def load(place: Path, *, norm: float | None = None) -> Decomposition:
    """Read a folder.

    Args:
        place: the folder.
        norm: mean norm of the rows in training, where the settings do not hold it.

    Raises:
        CorruptFileError: a file or tensor is missing, cut short or of another shape.
        InputError: `norm` is needed.
    """
    if (place / "hyperparams.json").is_file():
        return _load_first(place)
    return _load_later(place, norm)


def _load_first(place: Path) -> Decomposition:
    path = place / "hyperparams.json"
    config = read_json(path)
    d, m = int(need(config, "d_model", path)), int(need(config, "d_sae", path))
    norm = float(need(need(config, "dataset_average_activation_norm", path), "in", path))
    scale = d**0.5 / norm
    weights = _weights(Tensors.read(place / "checkpoints" / "final.safetensors"), d, m)
    threshold = float(need(config, "jump_relu_threshold", path))
    scaled = fold_scale(weights.given({"threshold": torch.full((m,), threshold * scale)}), scale)
    return Checkpoint("jumprelu", scaled, is_centred=False, read=config.get("hook_point_in"), record={"format": "llama_scope"}).fit()


def _load_later(place: Path, norm: float | None) -> Decomposition:
    path = place / "config.json"
    config = read_json(path)
    d = int(need(config, "d_model", path))
    m = int(config.get("d_sae") or d * int(need(config, "expansion_factor", path)))
    tensors = Tensors.read(place / "sae_weights.safetensors")
    weights = _weights(tensors, d, m)
    kind = str(config.get("act_fn", "jumprelu")).lower()
    if kind not in ("jumprelu", "topk", "batchtopk", "relu"):
        raise unknown(f"act_fn in {path}", kind, ["jumprelu", "topk", "batchtopk", "relu"])
    if kind in ("jumprelu", "batchtopk"):
        weights = weights.given({"threshold": _threshold(tensors, config, m)})
    scaled = fold_scale(weights, _scale(config, d, norm, path))
    built = config.get("hook_point_out")
    return Checkpoint(
        "topk" if kind == "topk" else "relu" if kind == "relu" else "jumprelu",
        scaled,
        is_centred=False,
        k=int(need(config, "top_k", path)) if kind == "topk" else None,
        model=str(config.get("model_name") or ""),
        read=config.get("hook_point_in"),
        built=None if built == config.get("hook_point_in") else built,
        record={"format": "llama_scope", "sae_type": config.get("sae_type")},
    ).fit()


def _scale(config: Mapping[str, Any], d: int, norm: float | None, path: Path) -> float:
    """What rows are multiplied by before they are read."""
    kept = (config.get("dataset_average_activation_norm") or {}).get("in", norm)
    if kept is not None:
        return float(d**0.5 / kept)
    if config.get("norm_activation") in ("dataset-wise", "dataset_wise"):
        raise InputError(f"{path} scales rows by their mean norm in training, but does not hold it; pass norm=")
    return 1.0


def _threshold(tensors: Tensors, config: Mapping[str, Any], m: int) -> torch.Tensor:
    for name in ("log_jumprelu_threshold", "activation_function.log_jumprelu_threshold"):
        if name in tensors:
            return tensors.take(name, m).exp()
    if "jump_relu_threshold" in config:
        return torch.full((m,), float(config["jump_relu_threshold"]))
    return tensors.take("threshold", m)


def _weights(tensors: Tensors, d: int, m: int) -> Weights:
    renamed = tensors.named(LINEAR)
    if "W_E" in tensors:
        W_enc, W_dec = tensors.take("W_E", d, m).T.contiguous(), tensors.take("W_D", m, d)
    else:
        W_enc, W_dec = tensors.take("encoder.weight", m, d), tensors.take("decoder.weight", d, m).T.contiguous()
    b_dec = renamed.maybe("b_dec", d)
    return Weights(W_enc, renamed.take("b_enc", m), W_dec, torch.zeros(d) if b_dec is None else b_dec)
