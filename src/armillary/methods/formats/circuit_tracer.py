"""Sets of transcoders for circuit-tracer: config.yaml and layer_<i>.safetensors, or cross-layer ones, W_enc_<i> and W_dec_<i>.

Here W_enc is [M, D_in], other than in SAELens. A feature of a cross-layer transcoder writes to its own block and to every later one: its
atom is what it writes to all of them, side by side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from armillary.core.decomposition import Decomposition
from armillary.core.site import Site, Source
from armillary.errors import InputError
from armillary.methods.formats.checkpoint import Checkpoint
from armillary.methods.formats.files import Tensors, count, read_yaml
from armillary.methods.sae.weights import Weights

CONFIG = "config.yaml"


def found_in(place: Path) -> bool:
    """Whether a path looks like a set, or one file of a set."""
    if place.is_dir():
        return (place / CONFIG).is_file() and bool(_layers(place))
    return bool(re.match(r"(layer|W_enc)_\d+\.safetensors$", place.name))


def load(place: Path, *, layer: int | None = None) -> Decomposition:
    """Read one transcoder of a set.

    Args:
        place: the folder of the set, or one of its files.
        layer: which block's, where a folder was given.

    Raises:
        InputError: `layer` is needed, or there is no transcoder of that block.
        CorruptFileError: a file or tensor is missing, cut short or of another shape.
    """
    folder = place if place.is_dir() else place.parent
    known = _layers(folder)
    if not known:
        raise InputError(f"'{folder}' holds no layer_<i>.safetensors and no W_enc_<i>.safetensors")
    number = int(re.findall(r"\d+", place.stem)[-1]) if place.is_file() else layer
    if number is None or number not in known:
        raise InputError(f"'{folder}' holds transcoders of blocks {known[0]} to {known[-1]}; pass layer=, got {number}")
    config = read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    single = folder / f"layer_{number}.safetensors"
    return _single(single, number, config) if single.is_file() else _cross_layer(folder, number, config)


def _layers(folder: Path) -> list[int]:
    names = [re.match(r"(?:layer|W_enc)_(\d+)\.safetensors$", entry.name) for entry in folder.iterdir()]
    return sorted({int(match[1]) for match in names if match})


def _hook(config: Mapping[str, Any], key: str, default: str, layer: int) -> str:
    """The hooks of the settings are relative to the block."""
    return f"blocks.{layer}.{config.get(key) or default}"


def _single(path: Path, layer: int, config: Mapping[str, Any]) -> Decomposition:
    tensors = Tensors.read(path)
    W_enc = tensors.take("W_enc", None, None)
    m, d_in = W_enc.shape
    W_dec = tensors.take("W_dec", m, None)
    threshold, skip = tensors.maybe("activation_function.threshold", m), tensors.maybe("W_skip", W_dec.shape[1], d_in)
    weights = Weights(W_enc, tensors.take("b_enc", m), W_dec, tensors.take("b_dec", W_dec.shape[1]), threshold)
    if skip is not None:
        weights = weights.given({"W_skip": skip.T.contiguous()})
    told = tensors.number("k") if "k" in tensors else config.get("k")
    k = None if told is None else count(told, "k", path, most=m)
    return Checkpoint(
        "jumprelu" if threshold is not None else "topk" if k else "relu",
        weights,
        is_centred=False,
        k=k,
        model=str(config.get("model_name") or ""),
        read=_hook(config, "feature_input_hook", "ln2.hook_normalized", layer),
        built=_hook(config, "feature_output_hook", "hook_mlp_out", layer),
        record={"format": "circuit_tracer", "layer": layer},
    ).fit()


def _cross_layer(folder: Path, layer: int, config: Mapping[str, Any]) -> Decomposition:
    enc, dec = (Tensors.read(folder / f"{name}_{layer}.safetensors") for name in ("W_enc", "W_dec"))
    W_enc = enc.take(f"W_enc_{layer}", None, None)
    m = len(W_enc)
    W_dec = dec.take(f"W_dec_{layer}", m, None, None)  # [M, blocks from this one on, D]
    n, d = W_dec.shape[1:]
    b_dec = torch.cat([enc.take(f"b_dec_{layer}", d), torch.zeros((n - 1) * d)])  # each block's own bias is its own transcoder's
    threshold = enc.maybe(f"threshold_{layer}", m)
    weights = Weights(W_enc, enc.take(f"b_enc_{layer}", m), W_dec.reshape(m, n * d), b_dec, threshold)
    model = str(config.get("model_name") or "")
    found = Checkpoint(
        "relu" if threshold is None else "jumprelu",
        weights,
        is_centred=False,
        model=model,
        read=_hook(config, "feature_input_hook", "ln2.hook_normalized", layer),
        built="several",
        record={"format": "circuit_tracer", "layer": layer, "blocks": n},
    ).fit()
    return replace(found, targets=tuple((Source(model, "", Site.parse(f"mlp_out.{layer + i}")), d) for i in range(n)))
