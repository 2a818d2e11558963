"""Llama Scope and its successors (Language-Model-SAEs, Llamascopium): JumpReLU and TopK autoencoders of OpenMOSS.

Three layouts: hyperparams.json with checkpoints/final.safetensors; config.json with sae_weights.safetensors and log_jumprelu_threshold;
and the library's own of version 2, whose tensors are W_E, b_E, W_D, b_D. Rows are read times sqrt(d) / (their mean norm in training).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from armillary.core.decomposition import Decomposition
from armillary.errors import CapabilityError, InputError, unknown
from armillary.methods.formats.checkpoint import Checkpoint, Kind
from armillary.methods.formats.files import Tensors, count, level, mapping, need, positive, read_json
from armillary.methods.sae.weights import Weights, unit_rows

#: What their activation functions are called -> ours.
ACTIVATIONS: dict[str, Kind] = {"jumprelu": "jumprelu", "batchtopk": "jumprelu", "topk": "topk", "relu": "relu"}
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
    d, m = (count(need(config, key, path), key, path) for key in ("d_model", "d_sae"))
    tensors = Tensors.read(place / "checkpoints" / "final.safetensors")
    _refuse_others(config, tensors, path)
    weights = _weights(tensors, d, m)
    norms = need(config, "dataset_average_activation_norm", path)
    scale = d**0.5 / positive(need(norms, "in", path), "dataset_average_activation_norm", path)
    threshold = level(need(config, "jump_relu_threshold", path), "jump_relu_threshold", path) * scale
    found = weights.given({"threshold": torch.full((m,), threshold)})
    return _checkpoint("jumprelu", found, config, scale, _scale_out(config, d, scale, path)).fit()


def _load_later(place: Path, norm: float | None) -> Decomposition:
    path = place / "config.json"
    config = read_json(path)
    d = count(need(config, "d_model", path), "d_model", path)
    m = count(config.get("d_sae") or d * count(need(config, "expansion_factor", path), "expansion_factor", path), "d_sae", path)
    tensors = Tensors.read(place / "sae_weights.safetensors")
    _refuse_others(config, tensors, path)
    weights = _weights(tensors, d, m)
    act = str(config.get("act_fn", "jumprelu")).lower()
    if act not in ACTIVATIONS:
        raise unknown(f"act_fn in {path}", act, ACTIVATIONS)
    kind = ACTIVATIONS[act]
    if kind == "jumprelu":
        weights = weights.given({"threshold": _threshold(tensors, config, m)})
    if config.get("sparsity_include_decoder_norm"):  # codes are compared by what they add
        weights = replace(unit_rows(weights), threshold=weights.threshold)
    scale = _scale(config, tensors, d, norm, path)
    found = _checkpoint(kind, weights, config, scale, _scale_out(config, d, scale, path))
    if kind == "topk":
        found = replace(found, k=count(need(config, "top_k", path), "top_k", path, most=m))
    return found.fit()


def _refuse_others(config: Mapping[str, Any], tensors: Tensors, path: Path) -> None:
    """Refuse what is more than an encoder, a threshold and a decoder.

    Raises:
        CapabilityError: a gated linear encoder, a bias subtracted from scaled rows, or a scale of each batch.
    """
    wrong = [key for key in ("use_glu_encoder", "apply_decoder_bias_to_pre_encoder") if config.get(key)]
    if wrong or config.get("norm_activation") == "batch-wise" or any("glu" in name for name in tensors):
        raise CapabilityError(f"{path}: {' and '.join(wrong) or 'batch-wise scaling or a gated linear encoder'} is not supported")


def _checkpoint(kind: Kind, weights: Weights, config: Mapping[str, Any], scale: float, scale_out: float) -> Checkpoint:
    """Rows are read times `scale`; what is rebuilt comes times `scale_out`."""
    read, built = config.get("hook_point_in"), config.get("hook_point_out")
    folded = weights.given({"W_enc": weights.W_enc * scale, "W_dec": weights.W_dec / scale_out, "b_dec": weights.b_dec / scale_out})
    return Checkpoint(
        kind,
        folded,
        is_centred=False,
        normalisation="norm" if config.get("norm_activation") == "token-wise" else "none",
        model=str(config.get("model_name") or ""),
        read=read,
        built=None if built == read else built,
        record={"format": "llama_scope", "sae_type": config.get("sae_type")},
    )


def _scale(config: Mapping[str, Any], tensors: Tensors, d: int, norm: float | None, path: Path) -> float:
    """What rows are multiplied by before they are read."""
    named = f"dataset_average_activation_norm.{config.get('hook_point_in')}"
    kept = tensors.number(named) if named in tensors else mapping(config.get("dataset_average_activation_norm")).get("in", norm)
    if kept is not None:
        return float(d**0.5 / positive(kept, "dataset_average_activation_norm", path))
    if config.get("norm_activation") in ("dataset-wise", "dataset_wise"):
        raise InputError(f"{path} scales rows by their mean norm in training, but does not hold it; pass norm=")
    return 1.0


def _scale_out(config: Mapping[str, Any], d: int, scale: float, path: Path) -> float:
    """What the rows to be rebuilt were multiplied by, which is the same where they are the rows that are read."""
    kept = mapping(config.get("dataset_average_activation_norm")).get("out")
    is_own = config.get("hook_point_out") in (None, config.get("hook_point_in"))
    return scale if is_own or kept is None else float(d**0.5 / positive(kept, "dataset_average_activation_norm", path))


def _threshold(tensors: Tensors, config: Mapping[str, Any], m: int) -> torch.Tensor:
    for name in ("log_jumprelu_threshold", "activation_function.log_jumprelu_threshold"):
        if name in tensors:
            return tensors.take(name, m).exp()
    if "jump_relu_threshold" in config:
        return torch.full((m,), level(config["jump_relu_threshold"], "jump_relu_threshold", tensors.path))
    return tensors.take("threshold", m)


def _weights(tensors: Tensors, d: int, m: int) -> Weights:
    renamed = tensors.named(LINEAR)
    if "W_E" in tensors:
        W_enc, W_dec = tensors.take("W_E", d, m).T.contiguous(), tensors.take("W_D", m, d)
    else:
        W_enc, W_dec = tensors.take("encoder.weight", m, d), tensors.take("decoder.weight", d, m).T.contiguous()
    b_dec = renamed.maybe("b_dec", d)
    return Weights(W_enc, renamed.take("b_enc", m), W_dec, torch.zeros(d) if b_dec is None else b_dec)
