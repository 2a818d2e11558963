"""Gemma Scope (params.npz) and Gemma Scope 2 (params.safetensors, config.json): JumpReLU autoencoders of Google DeepMind.

Nothing is subtracted from what is read. Places stand in the names of the repository and its folders, which are looked at where the
settings do not say: gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82/params.npz.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from armillary.core.decomposition import Decomposition
from armillary.errors import CorruptFileError, InputError
from armillary.methods.formats.checkpoint import Checkpoint
from armillary.methods.formats.files import Tensors, only, read_json
from armillary.methods.sae.weights import Weights

FILES = ("params.npz", "params.safetensors")
#: Ending of a repository of the first Gemma Scope, or a folder of the second -> kinds of site read and built.
PLACES = {
    "res": ("resid_post", None), "resid_post": ("resid_post", None), "mlp": ("mlp_out", None), "mlp_out": ("mlp_out", None),
    "att": ("attn_z", None), "attn_out": ("attn_z", None), "transcoders": ("mlp_in", "mlp_out"), "transcoder": ("mlp_in", "mlp_out"),
}  # fmt: skip
_LAYER = re.compile(r"layer_(\d+)")


def found_in(place: Path) -> bool:
    """Whether a path looks like one of theirs."""
    return place.name in FILES or place.suffix == ".npz" or (place.is_dir() and only(place, FILES) is not None)


def load(place: Path, *, site: str | None = None, target: str | None = None) -> Decomposition:
    """Read a folder or its params file.

    Args:
        place: the folder, or params.npz or params.safetensors in it.
        site, target: what is read, and rebuilt where that is another place, if the folders' names do not say.

    Raises:
        CorruptFileError: a tensor is missing, cut short or of another shape.
        InputError: a cross-layer transcoder, whose decoder writes to every later layer.
    """
    path = place if place.is_file() else only(place, FILES)
    if path is None:
        raise InputError(f"'{place}' holds none of {', '.join(FILES)}")
    found = Tensors.read(path)
    tensors = found.named({name: f"W{name[1:]}" for name in found if name.startswith("w_")})
    if "W_dec" in tensors and tensors["W_dec"].ndim == 3:
        raise InputError(f"{path} is one layer of a cross-layer transcoder; only transcoders to one layer are read here")
    weights = _weights(tensors)
    settings = _settings(path.parent)
    if target and not site:
        raise InputError(f"target={target!r} says what is rebuilt; pass site= too, for what is read")
    read, built = (site, target) if site else _hooks(path, settings, is_skip=weights.W_skip is not None)
    return Checkpoint(
        "jumprelu",
        weights if read != "embed" else _embedded(weights),
        is_centred=False,
        model=_spelled(str(settings.get("model_name") or "")) or _model(path),
        read=read,
        built=built,
        record={"format": "gemma_scope", "folder": path.parent.name, "prepend_bos": True},
    ).fit()


def _weights(tensors: Tensors) -> Weights:
    W_enc = tensors.take("W_enc", None, None).T.contiguous()  # [M, D_in]
    m, d_in = W_enc.shape
    W_dec = tensors.take("W_dec", m, None)
    found = Weights(W_enc, tensors.take("b_enc", m), W_dec, tensors.take("b_dec", W_dec.shape[1]), tensors.take("threshold", m))
    skip = tensors.maybe("affine_skip_connection", d_in, W_dec.shape[1])
    return found if skip is None else found.given({"W_skip": skip})


def _settings(folder: Path) -> dict[str, Any]:
    found = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    kind = str(found.get("architecture", "jump_relu"))
    if kind != "jump_relu":
        raise CorruptFileError(f"{folder / 'config.json'} has architecture {kind!r}; Gemma Scope's is jump_relu")
    return found


def _hooks(path: Path, settings: dict[str, Any], *, is_skip: bool) -> tuple[str | None, str | None]:
    """What is read, and what is built where that is another place: by the folders' names, else by the settings."""
    names = [part for part in path.parts[:-1] for part in (part, part.rsplit("-", 1)[-1], part.removesuffix("_all"))]
    layer = next((match[1] for part in reversed(path.parts) if (match := _LAYER.search(part))), None)
    if "embedding" in names:
        return "embed", None
    places = next((PLACES[name] for name in reversed(names) if name in PLACES), None)
    if places is None or layer is None:
        read, built = settings.get("hf_hook_point_in"), settings.get("hf_hook_point_out")
        return read, None if built == read and not is_skip else built
    return f"{places[0]}.{layer}", None if places[1] is None else f"{places[1]}.{layer}"


def _model(path: Path) -> str:
    """The language model, from the name of a repository such as gemma-scope-2b-pt-res."""
    for part in reversed(path.parts):
        if match := re.search(r"gemma-scope-(?P<two>2-)?(?P<size>\d+m|\d+b)-(?P<kind>pt|it)", part):
            family = "gemma-3" if match["two"] else "gemma-2"
            base = "" if match["kind"] == "pt" and family == "gemma-2" else f"-{match['kind']}"
            return _spelled(f"{family}-{match['size']}{base}")
    return ""


def _spelled(model: str) -> str:
    """A model of the settings, such as gemma-v3-270m-pt, as the Hub spells it."""
    if not model:
        return ""
    name = model.removeprefix("google/").replace("-v3-", "-3-")
    return f"google/{name.removesuffix('-pt') if '270m' in name else name}"


def _embedded(w: Weights) -> Weights:
    """Autoencoders of the embedding read rows times sqrt(d), as the model goes on with them."""
    root = w.W_enc.shape[1] ** 0.5
    return replace(w, W_enc=w.W_enc / root, W_dec=w.W_dec * root)
