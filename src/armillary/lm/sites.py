"""Where a Site lies in a model: tables of the names that architectures use, and the structure they are looked up in.

A block is one element of the model's list of blocks. Its parts are found by their names, not by the model's class, so an architecture
nobody has heard of works as long as it names its parts like the others; what is not found is reached by `path:<module>`.

    attn_in    input of the attention module             attn_z   input of attention's output projection
    mlp_in     input of the MLP module                   mlp_act  input of the down-projection
    attn_out   output of that projection, or of the norm between it and the residual stream (Gemma-2); mlp_out likewise
    resid_mid  input of the norm before the MLP; in a post-norm block (BERT) the output of the norm after attention
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

from torch import nn

from armillary.core.site import KINDS, Site
from armillary.errors import CapabilityError, InputError, unknown

#: (module that reads the branch's input, the projection back to the residual stream), first match wins.
_ATTENTION = [
    ("attention.self", "attention.output.dense"),  # BERT, RoBERTa, ELECTRA
    ("attn", "attn.attention.out_proj"),  # GPT-Neo
    *((m, f"{m}.{p}") for m, p in product(
        ("self_attn", "attn", "attention", "self_attention"),
        ("o_proj", "c_proj", "out_proj", "dense", "out_lin", "Wo", "wo", "proj"),
    )),
]  # fmt: skip
_MLP = [
    ("intermediate.dense", "output.dense"),  # BERT, RoBERTa, ELECTRA
    ("fc1", "fc2"),  # OPT
    *((m, f"{m}.{p}") for m, p in product(
        ("mlp", "ffn", "feed_forward"),
        ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "lin2", "w2", "Wo", "wo", "proj"),
    )),
]  # fmt: skip
_ATTENTION_ALONE = ("self_attn", "attn", "attention", "self_attention")
_MLP_ALONE = ("mlp", "ffn", "feed_forward", "block_sparse_moe")
# Norms of a branch's output, before it is added (Gemma-2, OLMo-2, GLM-4). Only beside the first does "post_attention_layernorm" mean this.
_NORM_AFTER_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm")
_NORM_AFTER_ATTENTION = ("post_self_attn_layernorm", "post_attention_layernorm")
_NORM_BEFORE_MLP = (
    "pre_feedforward_layernorm", "ln_2", "norm_2", "mlp_norm", "ffn_norm", "post_attention_layernorm", "final_layer_norm",
    "feedforward_layernorm", "pre_ff_layernorm", "intermediate.LayerNorm",
)  # fmt: skip
# Norms of the sum of residual stream and attention: the block is post-norm.
_NORM_AFTER_SUM = ("attention.output.LayerNorm", "sa_layer_norm", "attention.LayerNorm")
# Model types whose blocks are post-norm under names that stand for the norm before a branch elsewhere.
_POST_NORM = {"openai-gpt": "ln_1", **dict.fromkeys(("bart", "blenderbot-small", "marian", "plbart", "trocr"), "self_attn_layer_norm")}
# Model types that weigh the residual stream itself at every sum, so that no branch's output is what is added.
_WEIGHED = {"minimax", "doge"}

# Model types whose attention and MLP always run in parallel; of others the config says so.
_SIDE_BY_SIDE = {"codegen", "cohere", "cohere2", "gptj", "phi"}
_ADDED = ("attn_out", "mlp_out")
_PARALLEL = "attention and MLP read the same residual stream side by side, so there is nothing between them"


@dataclass(frozen=True)
class Spot:
    """A tensor at the edge of a module.

    Args:
        module: the module's dotted path, "" for the model (or the block) itself.
        part: "input" (its first argument) or "output" (the first element where that is a tuple).
        shared: the same tensor goes on elsewhere too (the residual stream beside a norm), so an edit has to change it in place.
        scale: what the block multiplies it by before it goes on; the site's value is the product.
        head: (head, number of heads) where one head's columns are meant.
    """

    module: str
    part: str
    shared: bool = False
    scale: float = 1.0
    head: tuple[int, int] | None = None


def _child(module: nn.Module, path: str) -> nn.Module | None:
    """The submodule at a dotted path, or None."""
    here: nn.Module | None = module
    for name in path.split(".") if path else ():
        here = here._modules.get(name) if here is not None else None
    return here


def _first(block: nn.Module, names: Iterable[str], but: str | None = None) -> str | None:
    return next((name for name in names if name != but and _child(block, name) is not None), None)


def _branch(block: nn.Module, pairs: list[tuple[str, str]], alone: tuple[str, ...]) -> tuple[str | None, str | None]:
    """(module, projection) of attention or MLP; the projection is None where there is no single one (a mixture of experts)."""
    for module, projection in pairs:
        if _child(block, module) is not None and _child(block, projection) is not None:
            return module, projection
    return _first(block, alone), None


def _is_parallel(config: Any) -> bool:
    if getattr(config, "model_type", None) in _SIDE_BY_SIDE:
        return True
    return any(getattr(config, name, False) for name in ("use_parallel_residual", "parallel_attn", "new_decoder_architecture"))


def _middle(block: nn.Module, config: Any, mlp: str | None, after_attention: str | None, after_mlp: str | None) -> Spot | None:
    """Where the residual stream lies between attention and MLP, None in a parallel block."""
    post_norm = _first(block, _NORM_AFTER_SUM)
    if getattr(config, "do_layer_norm_before", True) is False:  # OPT-350m
        post_norm = _first(block, ("self_attn_layer_norm",))
    if getattr(config, "model_type", None) in _POST_NORM:
        post_norm = _first(block, (_POST_NORM[config.model_type],))
    if post_norm is not None:
        return Spot(post_norm, "output")
    if _is_parallel(config):
        return None
    before_mlp = _first(block, _NORM_BEFORE_MLP, but=after_attention)
    if before_mlp is None and after_mlp is not None:  # OLMo-2 normalises only what comes out of a branch
        before_mlp = mlp
    return None if before_mlp is None else Spot(before_mlp, "input", shared=True)


def block_spots(block: nn.Module, config: Any = None) -> dict[str, Spot]:
    """Kind of site -> its place, relative to the block, for every kind that the block has."""
    attn, attn_proj = _branch(block, _ATTENTION, _ATTENTION_ALONE)
    mlp, mlp_proj = _branch(block, _MLP, _MLP_ALONE)
    after_mlp = _first(block, _NORM_AFTER_MLP)
    after_attn = _first(block, _NORM_AFTER_ATTENTION) if after_mlp else None
    places = {
        "attn_in": (attn, "input"),
        "attn_z": (attn_proj, "input"),
        "attn_out": (after_attn or attn_proj or attn, "output"),
        "mlp_in": (mlp, "input"),
        "mlp_act": (mlp_proj, "input"),
        "mlp_out": (after_mlp or mlp_proj or mlp, "output"),
    }
    spots = {"resid_pre": Spot("", "input"), "resid_post": Spot("", "output")}
    if (middle := _middle(block, config, mlp, after_attn, after_mlp)) is not None:
        spots["resid_mid"] = middle
    if getattr(config, "model_type", None) in _WEIGHED:
        places = {kind: place for kind, place in places.items() if kind not in _ADDED}
    scale = float(getattr(config, "residual_multiplier", None) or 1.0)  # Granite
    return spots | {
        kind: Spot(module, part, scale=scale if kind in _ADDED else 1.0) for kind, (module, part) in places.items() if module is not None
    }


def projection(block: nn.Module, kind: str) -> nn.Module | None:
    """The module that carries "attn_z" or "mlp_act" back to the width of the residual stream."""
    pairs = _branch(block, _ATTENTION, ()) if kind == "attn_z" else _branch(block, _MLP, ())
    return None if pairs[1] is None else _child(block, pairs[1])


def norm_behind(block: nn.Module, kind: str) -> nn.Module | None:
    """The norm between that projection and the residual stream (Gemma-2, OLMo-2), None in most models."""
    after_mlp = _first(block, _NORM_AFTER_MLP)
    found = after_mlp if kind == "mlp_act" else _first(block, _NORM_AFTER_ATTENTION) if after_mlp else None
    return None if found is None else _child(block, found)


def find_blocks(root: nn.Module, config: Any = None) -> str | None:
    """Path of the list of blocks: of the lists as long as the config says (or of like modules), the one with most parameters."""
    n_layers = getattr(config, "num_hidden_layers", None)
    sizes = {}
    for path, module in root.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module):
            fits = len(module) == n_layers if n_layers else len({type(child) for child in module}) == 1
            if fits:
                sizes[path] = sum(parameter.numel() for parameter in module.parameters())
    return max(sizes, key=lambda path: sizes[path], default=None)


def path_of(root: nn.Module, module: nn.Module) -> str:
    """The dotted path of a submodule that is known to lie in `root`."""
    paths = (path for path, candidate in root.named_modules(remove_duplicate=False) if candidate is module)
    return str(next(paths))


class SiteMap:
    """Sites of one model.

    Args:
        root: the model.
        embedding: the token embedding, or None where it is not known.
        base: path of the model without its head, "" if it has none; module paths may be given relative to it.
        config: the model's text config, or None for a plain module.
    """

    def __init__(self, root: nn.Module, *, embedding: nn.Module | None, base: str = "", config: Any = None) -> None:
        self._root, self._base, self._config = root, base, config
        self._embedding = None if embedding is None else path_of(root, embedding)
        self.blocks = find_blocks(root, config)
        self.n_layers = 0 if self.blocks is None else len(self._list())

    def _list(self) -> Any:
        return self._root.get_submodule(self._list_path)

    @property
    def _list_path(self) -> str:
        if self.blocks is None:
            raise CapabilityError(
                f"no list of blocks was found in {type(self._root).__name__}; its modules are {self._modules_of(self._root)}. "
                "Name one of them, e.g. 'path:<module>.output'."
            )
        return self.blocks

    def block(self, layer: int) -> nn.Module:
        """The block of a layer counted from 0."""
        found: nn.Module = self._list()[layer]
        return found

    def spot(self, site: Site) -> Spot:
        """Where a site lies, with paths from the model.

        Raises:
            CapabilityError: this architecture has no such place; the message says why and names the modules there are.
            InputError: a layer or head that does not exist.
            UnknownNameError: a module path that does not exist.
        """
        if site.kind == "path":
            return Spot(self._module_path(str(site.path)), site.part)
        if site.kind == "embed":
            return self._embed_spot()
        prefix = self._list_path
        site = site.resolved(self.n_layers)
        layer = int(site.layer or 0)
        spots = block_spots(self.block(layer), self._config)
        if site.kind not in spots:
            raise self._missing(site, self.block(layer))
        spot = spots[site.kind]
        path = ".".join(part for part in (prefix, str(layer), spot.module) if part)
        return replace(spot, module=path, head=None if site.head is None else self._head(site))

    def canonical(self, site: Site) -> Site:
        """The one name of a place: layers counted from 0, and module paths that are a named site turned into it.

        Raises as `spot` does.
        """
        spot = self.spot(site)
        if site.kind == "path":
            return self._named.get((spot.module, spot.part)) or Site("path", path=spot.module, part=spot.part)
        return site.resolved(self.n_layers)

    @cached_property
    def _named(self) -> dict[tuple[str, str], Site]:
        named: dict[tuple[str, str], Site] = {}
        if self._embedding is not None:
            named[self._embedding, "output"] = Site("embed")
        for layer in range(self.n_layers):
            present = block_spots(self.block(layer), self._config)
            for kind in (kind for kind in KINDS if kind in present):
                spot = self.spot(Site(kind, layer))
                named.setdefault((spot.module, spot.part), Site(kind, layer))
        return named

    def _embed_spot(self) -> Spot:
        if self._embedding is None:
            raise CapabilityError(f"no token embedding was found in {type(self._root).__name__}; name it with 'path:<module>.output'")
        return Spot(self._embedding, "output")

    def _module_path(self, path: str) -> str:
        """The path from the model's root, given from there or from the model without its head."""
        relative = f"{self._base}.{path}" if self._base else path
        for candidate in (path, relative):
            if _child(self._root, candidate) is not None:
                return candidate
        raise unknown("module path", path, (name for name, _ in self._root.named_modules() if name))

    def _head(self, site: Site) -> tuple[int, int]:
        n_heads = getattr(self._config, "num_attention_heads", None)
        if n_heads is None:
            raise CapabilityError(f"site '{site}' names a head, but this model's config does not say how many there are")
        if not 0 <= int(site.head or 0) < n_heads:
            raise InputError(f"head {site.head} of site '{site}' is out of range: the model has {n_heads} heads (0 to {n_heads - 1})")
        return int(site.head or 0), n_heads

    def head_columns(self, site: Site, d: int) -> slice:
        """The columns of one head among the `d` of all heads."""
        head, n_heads = self._head(site)
        return slice(head * d // n_heads, (head + 1) * d // n_heads)

    def _missing(self, site: Site, block: nn.Module) -> CapabilityError:
        name = type(block).__name__
        if site.kind == "resid_mid" and _is_parallel(self._config):
            others = f"'resid_pre.{site.layer}' or 'resid_post.{site.layer}'"
            return CapabilityError(f"site '{site}' does not exist in {name}: {_PARALLEL}. Use {others}.")
        return CapabilityError(
            f"site '{site}' was not found in {name}, whose modules are {self._modules_of(block)}. "
            f"Name one of them, e.g. 'path:{self._list_path}.{site.layer}.<module>.output'."
        )

    @staticmethod
    def _modules_of(module: nn.Module) -> str:
        names = [name for name, _ in module.named_modules() if name]
        return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
