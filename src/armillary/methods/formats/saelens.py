"""SAELens folders: cfg.json and sae_weights.safetensors, of version 6 and of the older ones.

Their W_enc is [D_in, M] and W_dec [M, D]; a training checkpoint of BatchTopK holds a single `topk_threshold` over codes that count the
norms of the decoder rows, as `rescale_acts_by_decoder_norm` says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from armillary.core.decomposition import Decomposition
from armillary.errors import CapabilityError, CorruptFileError, InputError, unknown
from armillary.methods.formats.checkpoint import Checkpoint, Kind, Normalisation, fold_scale
from armillary.methods.formats.files import Tensors, count, level, mapping, need, positive, read_json
from armillary.methods.sae.weights import Weights, unit_rows

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
#: The schema that is written.
VERSION = "6.54.12"
#: Architecture -> what is made of the pre-activations.
KINDS: dict[str, Kind] = {
    "standard": "relu", "topk": "topk", "abstopk": "abs_topk", "jumprelu": "jumprelu", "gated": "gated", "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu", "matching_pursuit": "matching_pursuit", "transcoder": "relu", "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu", "jumprelu_skip_transcoder": "jumprelu",
}  # fmt: skip
#: What the settings of versions before 6 were called.
OLD_NAMES = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
NORMALISATIONS: dict[str, Normalisation] = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "norm"}


def found_in(folder: Path) -> bool:
    """Whether a folder looks like one of SAELens'."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def load(folder: Path, *, scale: float | None = None) -> Decomposition:
    """Read a folder.

    Args:
        folder: with cfg.json and sae_weights.safetensors.
        scale: what rows are multiplied by before they are read, where the file says that they are scaled but not by how much.

    Raises:
        CorruptFileError: a file or tensor is missing, cut short or of another shape than the settings say.
        UnknownNameError: the architecture is not known.
        InputError: `scale` is needed.
    """
    path = folder / CONFIG
    config = _modern(read_json(path))
    architecture = str(need(config, "architecture", path))
    if architecture not in KINDS:
        raise unknown(f"architecture in {path}", architecture, KINDS)
    d_in, d_sae = (count(need(config, key, path), key, path) for key in ("d_in", "d_sae"))
    d_out = count(config.get("d_out") or d_in, "d_out", path)
    tensors = Tensors.read(folder / WEIGHTS)
    weights = _weights(tensors, architecture, d_in, d_out, d_sae)
    found = _checkpoint(config, architecture, weights, path)
    if config.get("rescale_acts_by_decoder_norm") and architecture in ("topk", "abstopk", "batchtopk", "matryoshka_batchtopk"):
        found = replace(found, weights=replace(unit_rows(found.weights), threshold=found.weights.threshold))
    return _scaled(found, config, tensors, scale, path).fit()


def _modern(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of any version in the words of version 6."""
    found = {OLD_NAMES.get(name, name): value for name, value in config.items()}
    found.setdefault("architecture", "standard")
    found.setdefault("apply_b_dec_to_input", True)
    if found.get("activation_fn") == "topk" and found["architecture"] == "standard":
        found["architecture"] = "topk"
    if found["architecture"] == "topk" and found.get("k") is None:
        found["k"] = mapping(found.get("activation_fn_kwargs")).get("k")
    normalise = found.get("normalize_activations") or "none"
    found["normalize_activations"] = "expected_average_only_in" if normalise is True else normalise
    if "metadata" not in config:  # of before version 6, which prepended a special token where not told otherwise
        found.setdefault("prepend_bos", True)
    found["metadata"] = {**{name: value for name, value in found.items() if name != "metadata"}, **mapping(found.get("metadata"))}
    return found


def _weights(tensors: Tensors, architecture: str, d_in: int, d: int, m: int) -> Weights:
    W_dec, b_dec = tensors.take("W_dec", m, d), tensors.take("b_dec", d)
    if architecture == "matching_pursuit":
        return Weights(W_dec, torch.zeros(m), W_dec, b_dec)
    W_enc = tensors.take("W_enc", d_in, m).T.contiguous()
    if architecture == "gated":
        own = {name: tensors.take(name, m) for name in ("r_mag", "b_mag")}
        return Weights(W_enc, tensors.take("b_gate", m), W_dec, b_dec, **own)
    found = Weights(W_enc, tensors.take("b_enc", m), W_dec, b_dec)
    if "skip" in architecture:
        found = found.given({"W_skip": tensors.take("W_skip", d, d_in).T.contiguous()})
    if KINDS[architecture] == "jumprelu":
        found = found.given({"threshold": _threshold(tensors, m)})
    return found


def _threshold(tensors: Tensors, m: int) -> torch.Tensor:
    """[M] from whichever of the three names there is."""
    if "topk_threshold" in tensors:
        return torch.full((m,), float(tensors.take("topk_threshold")))
    if "log_threshold" in tensors:
        return tensors.take("log_threshold", m).exp()
    return tensors.take("threshold", m)


def _checkpoint(config: Mapping[str, Any], architecture: str, weights: Weights, path: Path) -> Checkpoint:
    about = config["metadata"]
    is_transcoder = "transcoder" in architecture
    kept = ("prepend_bos", "context_size", "dataset_path", "neuronpedia_id", "exclude_special_tokens", "sae_lens_version")
    record = {name: about[name] for name in kept if about.get(name) is not None}
    widths = (about.get("training_architecture_details") or {}).get("matryoshka_widths") or config.get("matryoshka_widths")
    kind, k = KINDS[architecture], None
    if kind == "matching_pursuit":
        k = count(config.get("max_iterations") or config["d_in"], "max_iterations", path)
        _check_pursuit(config, weights, path)
    elif kind in ("topk", "abs_topk"):
        k = count(need(config, "k", path), "k", path, most=len(weights.W_enc))
    normalised = config["normalize_activations"] in ("layer_norm", "constant_norm_rescale")
    if is_transcoder and normalised:
        raise CapabilityError(f"{path}: a transcoder that normalises what it reads and not what it writes is not supported")
    return Checkpoint(
        kind,
        weights,
        is_centred=bool(config["apply_b_dec_to_input"]) and not is_transcoder,
        k=k,
        normalisation=NORMALISATIONS.get(str(config["normalize_activations"]), "none"),
        model=str(about.get("model_name") or ""),
        read=_with_head(about.get("hook_name"), about.get("hook_head_index")),
        built=about.get("hook_name_out") or "" if is_transcoder else None,
        residual=level(config.get("residual_threshold", 1e-2), "residual_threshold", path) if kind == "matching_pursuit" else 0.0,
        stops_on_repeat=bool(config.get("stop_on_duplicate_support", True)),
        record={"format": "saelens", "architecture": architecture, **record, **({"widths": widths} if widths else {})},
    )


def _with_head(hook: Any, head: Any) -> str | None:
    """A hook of one attention head as `Site` spells it."""
    return hook if hook is None or head is None else f"{hook}.{int(head)}"


def _check_pursuit(config: Mapping[str, Any], weights: Weights, path: Path) -> None:
    """Refuse matching pursuit in forms that have another meaning there.

    Raises:
        CapabilityError: rows of W_dec are not of norm 1, which they do not divide by; or rows are normalised or not centred.
    """
    is_unit = bool(((weights.W_dec.norm(dim=1) - 1).abs() < 1e-3).all())
    if not (is_unit and config["apply_b_dec_to_input"] and config["normalize_activations"] == "none"):
        raise CapabilityError(f"{path}: matching pursuit is read only with W_dec of norm 1, b_dec subtracted, and rows as they are")


def _scaled(found: Checkpoint, config: Mapping[str, Any], tensors: Tensors, scale: float | None, path: Path) -> Checkpoint:
    """Scales that the file mentions, folded into the weights."""
    kept = tensors.maybe("scaling_factor", found.weights.W_enc.shape[0])
    if kept is not None and not torch.equal(kept, torch.ones_like(kept)):
        raise CorruptFileError(f"{tensors.path}: 'scaling_factor' is not all ones; such fine-tuned autoencoders are not supported")
    wanted = config["normalize_activations"]
    if wanted == "expected_average_only_in":
        beside = path.parent / "activation_scaler.json"
        kept_scale = read_json(beside).get("scaling_factor") if beside.is_file() else None
        scale = scale if scale is not None else kept_scale
        if scale is None:
            raise InputError(
                f"{path} was trained on rows scaled to one mean norm, but does not say by what; pass scale=sqrt(d_in) / that norm"
            )
        return replace(found, weights=fold_scale(found.weights, positive(scale, "scale", path)))
    if wanted not in NORMALISATIONS:
        raise unknown(f"normalize_activations in {path}", str(wanted), [*NORMALISATIONS, "expected_average_only_in"])
    return found


# ---------------------------------------------------------------- writing


def save(fit: Decomposition, folder: Path) -> Decomposition:
    """Write cfg.json and sae_weights.safetensors that SAELens 6 reads.

    Raises:
        CapabilityError: the fit is no autoencoder of a kind that SAELens has.
    """
    found = Checkpoint.of(fit, "SAELens")
    architecture = _architecture(found)
    save_file(_tensors(found, architecture), folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(_config(found, architecture), indent=1))
    return fit


def _architecture(found: Checkpoint) -> str:
    skip = "skip_" if found.weights.W_skip is not None else ""
    if found.is_transcoder and found.kind in ("relu", "jumprelu"):
        return f"{'jumprelu_' if found.kind == 'jumprelu' else ''}{skip}transcoder"
    names = {"relu": "standard", "topk": "topk", "abs_topk": "abstopk", "jumprelu": "jumprelu", "gated": "gated"}
    if found.is_transcoder:
        raise CapabilityError(f"SAELens has no transcoder of kind {found.kind!r}; it has those with rectified codes and with thresholds")
    return names[found.kind]


def _tensors(found: Checkpoint, architecture: str) -> dict[str, torch.Tensor]:
    w = found.weights
    tensors = {"W_enc": w.W_enc.T, "W_dec": w.W_dec, "b_dec": w.b_dec, "b_gate" if architecture == "gated" else "b_enc": w.b_enc}
    own = {"r_mag": w.r_mag, "b_mag": w.b_mag, "W_skip": None if w.W_skip is None else w.W_skip.T}
    own["threshold"] = w.threshold if found.kind == "jumprelu" else None
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in {**tensors, **own}.items() if tensor is not None}


def _config(found: Checkpoint, architecture: str) -> dict[str, Any]:
    w = found.weights
    about: dict[str, Any] = {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": found.model,
        "hook_name": found.read if found.read is None or found.head is None else found.read.removesuffix(f".{found.head}"),
    }
    if found.head is not None:
        about["hook_head_index"] = found.head
    about |= {"hook_name_out": found.built or None} if "transcoder" in architecture else {}
    about |= {"prepend_bos": _prepends_bos(found.record)}
    config = {
        "architecture": architecture,
        "d_in": w.W_enc.shape[1],
        "d_sae": w.W_enc.shape[0],
        "dtype": str(w.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": found.is_centred,
        "normalize_activations": {"none": "none", "layer_norm": "layer_norm", "norm": "constant_norm_rescale"}[found.normalisation],
        "reshape_activations": "none",
        "metadata": about,
    }
    if found.k is not None:
        config["k"] = found.k
    if architecture == "topk":
        config["rescale_acts_by_decoder_norm"] = False
    if "transcoder" in architecture:
        config["d_out"] = w.W_dec.shape[1]
    return config


def _prepends_bos(record: Mapping[str, Any]) -> bool | None:
    """Whether texts began with a special token, where that is known."""
    if record.get("prepend_bos") is not None:
        return bool(record["prepend_bos"])
    policy = record.get("policy") or {}
    return policy.get("prepend_bos", policy.get("bos"))
