"""Site: the address of a vector inside a model, and Source: a site of a particular model.

    Site("mlp_act", 6)                 canonical spelling  mlp_act.6
    Site("attn_z", 3, head=2)                              attn_z.3.h2
    Site("embed")                                          embed
    Site.module("model.norm.input")                        path:model.norm.input

`Site.parse` reads the spellings of the tools people come from; docs/concepts/sites.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import total_ordering

from armillary.errors import InputError, UnknownNameError, nearest, unknown

#: Kinds of site. `attn_out` and `mlp_out` are what is added to the residual stream (after any post-norm);
#: `attn_in` and `mlp_in` are the norms' outputs; `mlp_act` is the input of the down-projection.
KINDS = (
    "embed", "resid_pre", "resid_mid", "resid_post", "attn_in", "attn_z", "attn_out", "mlp_in", "mlp_act", "mlp_out",
)  # fmt: skip
PARTS = ("input", "output")

# TransformerLens names, legacy and bridge: the part after "blocks.<layer>."
_LENS = {
    "hook_resid_pre": "resid_pre", "hook_in": "resid_pre", "ln1.hook_in": "resid_pre",
    "hook_resid_mid": "resid_mid", "ln2.hook_in": "resid_mid",
    "hook_resid_post": "resid_post", "hook_out": "resid_post",
    "ln1.hook_normalized": "attn_in", "ln1.hook_out": "attn_in", "attn.hook_in": "attn_in",
    "attn.hook_z": "attn_z", "attn.o.hook_in": "attn_z",
    "hook_attn_out": "attn_out", "attn.hook_out": "attn_out", "ln1_post.hook_out": "attn_out",
    "ln2.hook_normalized": "mlp_in", "ln2.hook_out": "mlp_in", "mlp.hook_in": "mlp_in",
    "mlp.hook_post": "mlp_act", "mlp.out.hook_in": "mlp_act",
    "hook_mlp_out": "mlp_out", "mlp.hook_out": "mlp_out", "mlp.out.hook_out": "mlp_out", "ln2_post.hook_out": "mlp_out",
}  # fmt: skip
# Other tools' words for the same kinds, used as "<word>.<layer>", "L<layer>.<word>" or "<word>_layer_<layer>"
_ALIASES = {
    "resid": "resid_post", "residual": "resid_post", "hidden": "resid_post",
    "z": "attn_z", "hook_z": "attn_z", "attn_out_post": "attn_out", "mlp_out_post": "mlp_out",
    "mlp_post": "mlp_act", "mlp_hidden": "mlp_act", "neurons": "mlp_act", "post": "mlp_act",
    "ln1": "attn_in", "ln2": "mlp_in",
}  # fmt: skip
_EMBED = ("embed", "hook_embed", "embed.hook_out")
_HEAD = r"(?:\.h?(?P<head>\d+))?$"
_DOTTED = re.compile(r"^(?P<word>[a-z_0-9]+)\.(?P<layer>-?\d+)" + _HEAD)
_LAYER_FIRST = re.compile(r"^[lL](?P<layer>-?\d+)\.(?P<word>[a-z_0-9]+)" + _HEAD)
_LAYER_LAST = re.compile(r"^(?P<word>[a-z_0-9]+)_layer_(?P<layer>\d+)(?P<head>)$")
_LENS_NAME = re.compile(r"^blocks\.(?P<layer>\d+)\.(?P<word>[a-z_0-9.]+?)" + _HEAD)
# A dotted name is a module path when it begins as models name their modules, or says which part of a module it means.
_MODULE = re.compile(
    r"^(?:(?:model|transformer|gpt_neox|bert|roberta|distilbert|electra|language_model|backbone|base_model|encoder|decoder|embeddings|"
    r"layers|layer|h)\..+|blocks\.\d+|[A-Za-z_]\w*(?:\.\w+)*\.(?:input|output)(?:\.0)?)$"
)


@total_ordering
@dataclass(frozen=True)
class Site:
    """The address of one vector per token.

    Args:
        kind: one of `KINDS`, or "path" for a module named by `path`.
        layer: block index from 0; a negative one counts from the last block. None for "embed" and "path".
        head: one attention head of "attn_z"; None means all heads side by side.
        path: the module's dotted name, only for kind "path".
        part: whether the module's input or its output is meant, only for kind "path".

    Raises:
        UnknownNameError: `kind` or `part` is not a known one.
        InputError: a layer, head or path is missing or not allowed for the kind.
    """

    kind: str
    layer: int | None = None
    head: int | None = None
    path: str | None = None
    part: str = "output"

    def __post_init__(self) -> None:
        if self.kind == "path":
            self._check_path()
        elif self.kind not in KINDS:
            raise unknown("site kind", self.kind, KINDS)
        elif (self.kind == "embed") != (self.layer is None):
            needs = "takes no layer" if self.kind == "embed" else f"needs a layer, e.g. '{self.kind}.0'"
            raise InputError(f"site kind {self.kind!r} {needs}; got layer={self.layer}")
        elif self.head is not None and self.kind != "attn_z":
            raise InputError(f"only 'attn_z' has heads; got head={self.head} for {self.kind!r}")

    def _check_path(self) -> None:
        if not self.path or self.layer is not None or self.head is not None:
            raise InputError("a path site needs a module path and no layer or head, e.g. 'path:model.norm.output'")
        if self.part not in PARTS:
            raise unknown("module part", self.part, PARTS)

    def __str__(self) -> str:
        if self.kind == "path":
            return f"path:{self.path}.{self.part}"
        head = "" if self.head is None else f".h{self.head}"
        return self.kind if self.layer is None else f"{self.kind}.{self.layer}{head}"

    def __lt__(self, other: Site) -> bool:
        return str(self) < str(other)

    @staticmethod
    def module(path: str) -> Site:
        """A site named by its module: "model.layers.3.mlp", with ".input" or ".output" (the default) at the end.

        ".output.0", the first element of a tuple, is the same: every other element is something else than a vector per token.
        """
        stem, _, last = re.sub(r"\.(input|output)\.0$", r".\1", path).rpartition(".")
        return Site("path", path=stem, part=last) if last in PARTS and stem else Site("path", path=path)

    @staticmethod
    def parse(text: str | Site) -> Site:
        """Read any common spelling of a site.

        "mlp_act.6", "L6.mlp_act", "mlp_act_layer_6", "blocks.6.mlp.hook_post", "hook_embed", "attn_z.3.h2", "path:model.norm.input" and
        module paths such as "model.layers.6.mlp" (a dotted name that is none of the former).

        Raises:
            UnknownNameError: nothing matches; the message holds the nearest spellings.
        """
        if isinstance(text, Site):
            return text
        spelling = text.strip()
        if spelling.startswith("path:"):
            return Site.module(spelling.removeprefix("path:"))
        if spelling in _EMBED:
            return Site("embed")
        return _parse_kind(spelling) or _parse_module(spelling)

    def resolved(self, n_layers: int) -> Site:
        """The same site with a layer counted from 0.

        Raises:
            InputError: the layer lies outside the model.
        """
        if self.layer is None:
            return self
        if not -n_layers <= self.layer < n_layers:
            raise InputError(
                f"layer {self.layer} of site '{self}' is out of range: the model has {n_layers} layers (0 to {n_layers - 1}). "
                f"Try '{self.kind}.{n_layers - 1}'."
            )
        return Site(self.kind, self.layer % n_layers, self.head)


def _parse_kind(spelling: str) -> Site | None:
    for pattern, table in ((_DOTTED, _ALIASES), (_LAYER_FIRST, _ALIASES), (_LAYER_LAST, _ALIASES), (_LENS_NAME, _LENS)):
        if match := pattern.match(spelling):
            kind = table.get(match["word"], match["word"])
            if kind in KINDS:
                return Site(kind, int(match["layer"]), int(match["head"]) if match["head"] else None)
    return None


def _parse_module(spelling: str) -> Site:
    if _MODULE.match(spelling):
        return Site.module(spelling)
    raise unknown_site(spelling)


def unknown_site(spelling: str, known: Iterable[str] = ()) -> UnknownNameError:
    """The error for a spelling that names no site, with the nearest ones at the layer the spelling mentions."""
    layer = (re.findall(r"-?\d+", spelling) or ["0"])[0]
    candidates = list(known) or ["embed", *(f"{kind}.{layer}" for kind in KINDS[1:])]
    lens = [f"blocks.{layer}.{word}" for word in _LENS]
    close = nearest(spelling, [*candidates, *lens]) or candidates[:4]
    return UnknownNameError(
        f"unknown site {spelling!r}. Did you mean {' or '.join(map(repr, close))}? "
        f"Allowed: embed, <kind>.<layer> with kind in {', '.join(KINDS[1:])}; or path:<module>[.input|.output]."
    )


@dataclass(frozen=True)
class Source:
    """Where rows come from: a model (name or folder), its revision (a commit or a weights hash) and a site."""

    model: str
    revision: str
    site: Site

    def __str__(self) -> str:
        return f"{self.model}@{self.revision[:8]}:{self.site}" if self.revision else f"{self.model}:{self.site}"

    def to_json(self) -> dict[str, str]:
        return {"model": self.model, "revision": self.revision, "site": str(self.site)}

    @staticmethod
    def from_json(data: dict[str, str]) -> Source:
        return Source(data["model"], data["revision"], Site.parse(data["site"]))
