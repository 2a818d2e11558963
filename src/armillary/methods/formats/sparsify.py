"""sparsify folders: cfg.json and sae.safetensors, one folder per hookpoint, named after the module."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from armillary.core.decomposition import Decomposition
from armillary.core.rows import Layout
from armillary.errors import CapabilityError, CorruptFileError
from armillary.methods.formats.checkpoint import Checkpoint
from armillary.methods.formats.files import Tensors, count, need, only, read_json
from armillary.methods.sae.weights import Weights

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def found_in(folder: Path) -> bool:
    """Whether a folder looks like one of sparsify's."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def load(folder: Path) -> Decomposition:
    """Read the folder of one hookpoint.

    Raises:
        CorruptFileError: a file or tensor is missing, cut short or of another shape than the settings say; or its activation is not topk.
    """
    path = folder / CONFIG
    config = read_json(path)
    d = count(need(config, "d_in", path), "d_in", path)
    if config.get("activation", "topk") != "topk":
        raise CorruptFileError(f"{path} has activation {config['activation']!r}; only topk is read")
    m = count(config.get("num_latents") or d * count(need(config, "expansion_factor", path), "expansion_factor", path), "num_latents", path)
    k = count(need(config, "k", path), "k", path, most=m)
    tensors = Tensors.read(folder / WEIGHTS)
    weights = Weights(*(tensors.take(name, *shape) for name, shape in _shapes(d, m).items()))
    skip = tensors.maybe("W_skip", d, d)
    weights = weights if skip is None else weights.given({"W_skip": skip.T.contiguous()})
    is_transcoder = bool(config.get("transcode"))
    is_named = "." in folder.name or folder.name == "embed_tokens"  # or it is .../layers.3/seed0
    hook = config.get("hookpoint") or (folder.name if is_named else folder.parent.name)
    return Checkpoint(
        "abs_topk" if config.get("signed") else "topk",
        weights,
        is_centred=not is_transcoder,
        k=k,
        model=str(config.get("model") or _model_of(folder)),
        read=config.get("hookpoint_in") or (f"{hook}.input" if is_transcoder else hook),
        built=hook if is_transcoder else None,
        record={"format": "sparsify", "hookpoint": hook},
    ).fit()


def _model_of(folder: Path) -> str:
    """The language model, from the settings of the run beside the hookpoints' folders."""
    settings = only(folder.parent, ["config.json"]) or only(folder.parent.parent, ["config.json"])
    return "" if settings is None else str(read_json(settings).get("model") or "")


def _hookpoint(layout: Layout) -> str | None:
    """One site as it is spelled here."""
    source = layout[0][0]
    return None if source is None or len(layout) > 1 else str(source.site)


def _shapes(d: int, m: int) -> dict[str, tuple[int, ...]]:
    """Tensors in the order of `Weights`."""
    return {"encoder.weight": (m, d), "encoder.bias": (m,), "W_dec": (m, d), "b_dec": (d,)}


def save(fit: Decomposition, folder: Path) -> Decomposition:
    """Write cfg.json and sae.safetensors that sparsify reads.

    Raises:
        CapabilityError: the fit is no autoencoder or transcoder with TopK codes between places of one width.
    """
    found = Checkpoint.of(fit, "sparsify").centred()
    w = found.weights
    if found.kind != "topk" or found.normalisation != "none" or w.W_enc.shape != w.W_dec.shape:
        raise CapabilityError(f"sparsify has no place for {fit!r}: it holds topk codes between places of one width")
    tensors = {"encoder.weight": w.W_enc, "encoder.bias": w.b_enc, "W_dec": w.W_dec, "b_dec": w.b_dec}
    tensors |= {} if w.W_skip is None else {"W_skip": w.W_skip.T}
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    config = {"activation": "topk", "expansion_factor": 0, "normalize_decoder": False, "num_latents": len(w.W_enc), "k": found.k}
    config |= {"multi_topk": False, "skip_connection": w.W_skip is not None, "transcode": found.is_transcoder, "d_in": w.W_enc.shape[1]}
    # It leaves settings alone that it does not know.
    config |= {"model": found.model, "hookpoint_in": _hookpoint(fit.inputs), "hookpoint": _hookpoint(fit.targets)}
    (folder / CONFIG).write_text(json.dumps(config, indent=1))
    return fit
