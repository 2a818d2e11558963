"""dictionary_learning folders: ae.pt, a state dict, and config.json.

Linear layers hold [M, D_in] and [D, M], the classes with W_enc and W_dec hold [D_in, M] and [M, D].
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from armillary.core.decomposition import Decomposition
from armillary.errors import CapabilityError, CorruptFileError, unknown
from armillary.methods.formats.checkpoint import Checkpoint
from armillary.methods.formats.files import Tensors, count, need, read_json
from armillary.methods.sae.weights import Weights, unit_rows

CONFIG, WEIGHTS = "config.json", "ae.pt"


def found_in(folder: Path) -> bool:
    """Whether a folder looks like one of dictionary_learning's."""
    return (folder / WEIGHTS).is_file()


def load(folder: Path) -> Decomposition:
    """Read a folder.

    Raises:
        CorruptFileError: a file or tensor is missing, cut short, of another shape than the settings say, or the pickle holds code.
        UnknownNameError: the class is not known.
    """
    path = folder / CONFIG
    config = need(read_json(path), "trainer", path)
    kind = str(need(config, "dict_class", path))
    if kind not in READERS:
        raise unknown(f"dict_class in {path}", kind, READERS)
    d, m = (count(need(config, key, path), key, path) for key in ("activation_dim", "dict_size"))
    tensors = Tensors.read(folder / WEIGHTS)
    found = READERS[kind](tensors, d, m)
    if found["kind"] == "topk":  # files of before the tensor have it in the settings
        k = float(tensors.take("k")) if "k" in tensors else need(config, "k", path)
        found["k"] = count(k, "k", path, most=m)
    hook = {"read": _hook(config), "model": str(config.get("lm_name") or "")}
    record = {"format": "dictionary_learning", "dict_class": kind, **dict(found.get("record", {}))}
    return Checkpoint(**{**found, **hook, "record": record}).fit()


def _hook(config: Mapping[str, Any]) -> str | None:
    name, layer = config.get("submodule_name"), config.get("layer")
    return name or (None if layer is None else f"resid_post_layer_{layer}")


def _linear(tensors: Tensors, d: int, m: int, bias: str, **own: torch.Tensor) -> Weights:
    W_enc, W_dec = tensors.take("encoder.weight", m, d), tensors.take("decoder.weight", d, m).T.contiguous()
    b_enc = tensors.maybe("encoder.bias", m)
    return Weights(W_enc, torch.zeros(m) if b_enc is None else b_enc, W_dec, tensors.take(bias, d), **own)


def _matrices(tensors: Tensors, d: int, m: int, **own: torch.Tensor) -> Weights:
    W_enc = tensors.take("W_enc", d, m).T.contiguous()
    return Weights(W_enc, tensors.take("b_enc", m), tensors.take("W_dec", m, d), tensors.take("b_dec", d), **own)


def _relu(tensors: Tensors, d: int, m: int) -> dict[str, Any]:
    """Their `load_dictionary` gives decoder rows norm 1 and codes what that takes off."""
    return {"kind": "relu", "weights": unit_rows(_linear(tensors, d, m, "bias")), "is_centred": True}


def _relu_new(tensors: Tensors, d: int, m: int) -> dict[str, Any]:
    """The bias belongs to the decoder's layer, and is not subtracted from what is read."""
    return {"kind": "relu", "weights": _linear(tensors, d, m, "decoder.bias"), "is_centred": False}


def _gated(tensors: Tensors, d: int, m: int) -> dict[str, Any]:
    own = {"r_mag": tensors.take("r_mag", m), "b_mag": tensors.take("mag_bias", m)}
    weights = _linear(tensors, d, m, "decoder_bias", **own).given({"b_enc": tensors.take("gate_bias", m)})
    return {"kind": "gated", "weights": weights, "is_centred": True}


def _jumprelu(tensors: Tensors, d: int, m: int) -> dict[str, Any]:
    return {"kind": "jumprelu", "weights": _matrices(tensors, d, m, threshold=tensors.take("threshold", m)), "is_centred": False}


def _topk(tensors: Tensors, d: int, m: int) -> dict[str, Any]:
    return {"kind": "topk", "weights": _linear(tensors, d, m, "b_dec"), "is_centred": True}


def _batch_topk(tensors: Tensors, d: int, m: int) -> dict[str, Any]:
    weights = _linear(tensors, d, m, "b_dec", threshold=_one_threshold(tensors, m))
    return {"kind": "jumprelu", "weights": weights, "is_centred": True}


def _matryoshka(tensors: Tensors, d: int, m: int) -> dict[str, Any]:
    weights = _matrices(tensors, d, m, threshold=_one_threshold(tensors, m))
    sizes = tensors["group_sizes"].tolist() if "group_sizes" in tensors else []
    widths = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return {"kind": "jumprelu", "weights": weights, "is_centred": True, "record": {"widths": widths}}


def _one_threshold(tensors: Tensors, m: int) -> torch.Tensor:
    """[M] from a single number, which is negative until training has set it."""
    threshold = float(tensors.take("threshold"))
    if threshold < 0:
        raise CorruptFileError(f"{tensors.path}: 'threshold' is {threshold:g}, never set; the training was stopped too early to encode")
    return torch.full((m,), threshold)


#: Class of theirs -> what it holds.
READERS: dict[str, Callable[[Tensors, int, int], dict[str, Any]]] = {
    "AutoEncoder": _relu,
    "AutoEncoderNew": _relu_new,
    "AutoEncoderTopK": _topk,
    "BatchTopKSAE": _batch_topk,
    "GatedAutoEncoder": _gated,
    "JumpReluAutoEncoder": _jumprelu,
    "MatryoshkaBatchTopKSAE": _matryoshka,
}


# ---------------------------------------------------------------- writing


def save(fit: Decomposition, folder: Path) -> Decomposition:
    """Write ae.pt and config.json that dictionary_learning reads; the fit as written, of which a ReLU autoencoder's atoms have norm 1.

    Raises:
        CapabilityError: the fit is no autoencoder of a kind that dictionary_learning has.
    """
    found = Checkpoint.of(fit, "dictionary_learning")
    if found.kind not in WRITERS or found.normalisation != "none" or found.is_transcoder:
        raise CapabilityError(f"dictionary_learning has no place for {fit!r}: it holds autoencoders with {', '.join(WRITERS)} codes")
    if found.kind == "relu":
        fit = _unit(fit, found)
        found = Checkpoint.of(fit, "dictionary_learning")
    name, tensors = WRITERS[found.kind](found)
    torch.save({key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}, folder / WEIGHTS)
    w = found.weights
    trainer = {"dict_class": name, "trainer_class": None, "activation_dim": w.W_enc.shape[1], "dict_size": w.W_enc.shape[0]}
    trainer |= {"lm_name": found.model, "layer": _layer(fit), "submodule_name": found.read, "device": "cpu"}
    trainer |= {} if found.k is None else {"k": found.k}
    (folder / CONFIG).write_text(json.dumps({"trainer": trainer, "buffer": {}}, indent=1))
    return fit


def _unit(fit: Decomposition, found: Checkpoint) -> Decomposition:
    """The same function with atoms of norm 1."""
    same = replace(found, weights=unit_rows(found.weights)).fit()
    return replace(fit, dictionary=same.dictionary, encoder=same.encoder)


def _layer(fit: Decomposition) -> int | None:
    return None if fit.site is None else fit.site.layer


def _write_relu(found: Checkpoint) -> tuple[str, dict[str, torch.Tensor]]:
    w = found.centred().weights
    return "AutoEncoder", {"encoder.weight": w.W_enc, "encoder.bias": w.b_enc, "decoder.weight": w.W_dec.T, "bias": w.b_dec}


def _write_topk(found: Checkpoint) -> tuple[str, dict[str, torch.Tensor]]:
    w = found.centred().weights
    tensors = {"encoder.weight": w.W_enc, "encoder.bias": w.b_enc, "decoder.weight": w.W_dec.T, "b_dec": w.b_dec}
    return "AutoEncoderTopK", {**tensors, "k": torch.tensor(found.k, dtype=torch.int32), "threshold": torch.tensor(-1.0)}


def _write_jumprelu(found: Checkpoint) -> tuple[str, dict[str, torch.Tensor]]:
    w = found.uncentred().weights
    assert w.threshold is not None
    tensors = {"W_enc": w.W_enc.T, "b_enc": w.b_enc, "W_dec": w.W_dec, "b_dec": w.b_dec, "threshold": w.threshold}
    return "JumpReluAutoEncoder", tensors


def _write_gated(found: Checkpoint) -> tuple[str, dict[str, torch.Tensor]]:
    w = found.centred().weights
    assert w.r_mag is not None and w.b_mag is not None
    tensors = {"encoder.weight": w.W_enc, "decoder.weight": w.W_dec.T, "decoder_bias": w.b_dec}
    return "GatedAutoEncoder", {**tensors, "r_mag": w.r_mag, "gate_bias": w.b_enc, "mag_bias": w.b_mag}


WRITERS: dict[str, Callable[[Checkpoint], tuple[str, dict[str, torch.Tensor]]]] = {
    "relu": _write_relu,
    "topk": _write_topk,
    "jumprelu": _write_jumprelu,
    "gated": _write_gated,
}
