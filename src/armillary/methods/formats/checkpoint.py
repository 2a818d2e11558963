"""Checkpoint: what a file of any tool says about an autoencoder, and its two directions, to a Decomposition and back.

    h = W_enc (x - b_dec, or x)        p = h + b_enc        a = kind(p)        y_hat = W_dec^T a + W_skip^T x + b_dec

Letters: N rows, D_in and D widths, M latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import Encoder
from armillary.core.pursuit import MatchingPursuitEncoder
from armillary.core.rows import Layout
from armillary.core.site import Site, Source
from armillary.errors import CapabilityError, UnknownNameError
from armillary.methods.sae.encoders import AbsTopKEncoder, GatedEncoder, NormalisedEncoder, SAEEncoder, ThresholdEncoder, TopKEncoder
from armillary.methods.sae.weights import Weights

Kind = Literal["relu", "topk", "abs_topk", "jumprelu", "gated", "matching_pursuit"]
Normalisation = Literal["none", "layer_norm", "norm"]


@dataclass(frozen=True)
class Checkpoint:
    """An autoencoder or transcoder as files describe it.

    Args:
        kind: what is made of the pre-activations.
        weights: in the orientation of `Weights`.
        is_centred: whether the decoder's bias is subtracted from what is read.
        k: of topk and abs_topk; most steps of matching_pursuit.
        normalisation: what is done to each row first, and undone at the end.
        model: name of the language model, "" where not known.
        read, built: what the tool calls the places, or None.
        residual, stops_on_repeat: of matching_pursuit: the residual's norm at which it stops, and whether it does at an atom it has.
        record: what else is worth keeping, plain JSON.
    """

    kind: Kind
    weights: Weights
    is_centred: bool
    k: int | None = None
    normalisation: Normalisation = "none"
    model: str = ""
    read: str | None = None
    built: str | None = None
    residual: float = 0.0
    stops_on_repeat: bool = False
    record: Mapping[str, Any] = field(default_factory=dict)

    # ------------------------------------------------------------ to a fit

    def fit(self) -> Decomposition:
        """The same as a Decomposition."""
        w = self.weights
        inputs = self._layout(self.read, w.W_enc.shape[1])
        is_own = not self.is_transcoder or (self.built == self.read and w.W_skip is None)
        targets = inputs if is_own else self._layout(self.built, w.W_dec.shape[1])
        dictionary = self._dictionary()
        names = {"hook_in": self.read, "hook_out": None if is_own else self.built}
        record = {"method": f"{self.kind} sparse autoencoder", "model": self.model, **names, **self.record}
        return Decomposition(dictionary, self._encoder(dictionary), inputs, targets, provenance=record)

    def _layout(self, hook: str | None, d: int) -> Layout:
        try:
            site = Site.parse(hook) if isinstance(hook, str) and hook else None
        except UnknownNameError:  # the tool's spelling stays in the record
            site = None
        return ((None if site is None else Source(self.model, "", site), d),)

    def _dictionary(self) -> Dictionary:
        w = self.weights
        plain = Dictionary.of_directions(w.W_dec, w.b_dec)
        if w.W_skip is not None:
            return replace(plain, base=torch.cat([w.b_dec[None], w.W_skip]), base_rule="skip")
        if self.normalisation == "layer_norm":
            return replace(plain, base=torch.stack([w.b_dec, torch.ones_like(w.b_dec)]), base_rule="layer_norm")
        return replace(plain, base_rule="norm") if self.normalisation == "norm" else plain

    def _encoder(self, dictionary: Dictionary) -> Encoder:
        w, k = self.weights, self.k or 0
        center = w.b_dec if self.is_centred else torch.zeros(w.W_enc.shape[1])
        shared = w.W_enc, w.b_enc, center
        if self.kind == "matching_pursuit":
            return MatchingPursuitEncoder(dictionary, k, nonnegative=True, residual=self.residual, stops_on_repeat=self.stops_on_repeat)
        if self.kind == "gated":
            assert w.r_mag is not None and w.b_mag is not None
            encoder: Encoder = GatedEncoder(*shared, w.r_mag, w.b_mag)
        elif self.kind in ("topk", "abs_topk"):
            encoder = (TopKEncoder if self.kind == "topk" else AbsTopKEncoder)(*shared, k)
        else:
            threshold = torch.zeros_like(w.b_enc) if w.threshold is None else w.threshold.clamp_min(0)
            encoder = ThresholdEncoder(*shared, threshold)
        return encoder if self.normalisation == "none" else NormalisedEncoder(encoder, self.normalisation)

    # ------------------------------------------------------------ from a fit

    @property
    def head(self) -> int | None:
        """The attention head that is read, where it is one."""
        try:
            return None if not self.read else Site.parse(self.read).head
        except UnknownNameError:
            return None

    @property
    def is_transcoder(self) -> bool:
        """Whether what is rebuilt is not what is read."""
        return self.built is not None or self.weights.W_skip is not None or self.weights.W_enc.shape != self.weights.W_dec.shape

    @staticmethod
    def of(fit: Decomposition, tool: str) -> Checkpoint:
        """What a fit amounts to in a file.

        Raises:
            CapabilityError: it is not an autoencoder such as the files can hold.
        """
        whole = fit.encoder
        encoder = whole.inner if isinstance(whole, NormalisedEncoder) else whole
        normalisation: Normalisation = whole.rule if isinstance(whole, NormalisedEncoder) else "none"
        if not isinstance(encoder, SAEEncoder) or not fit.dictionary.is_simple:
            kind = type(whole).__name__
            raise CapabilityError(f"{fit!r} cannot be written for {tool}: its encoder is a {kind}, not that of a sparse autoencoder")
        base = fit.dictionary.base
        b_dec = base[0] if len(base) else fit.dictionary.atoms.new_zeros(fit.dictionary.d)
        skip = {"W_skip": base[1:]} if fit.dictionary.base_rule == "skip" else {}
        weights = Weights(encoder.W_enc, encoder.b_enc, fit.dictionary.atoms, b_dec, **encoder.own(), **skip)
        policy = fit.provenance.get("policy", {})
        is_own = fit.inputs == fit.targets and not skip
        found = Checkpoint(
            _kind(encoder),
            weights,
            is_centred=False,
            k=encoder.k if isinstance(encoder, TopKEncoder | AbsTopKEncoder) else None,
            normalisation=normalisation,
            model=_model(fit),
            read=_hook(fit.inputs) or fit.provenance.get("hook_in"),
            built=None if is_own else _hook(fit.targets) or fit.provenance.get("hook_out") or "",
            record={"policy": policy, "prepend_bos": fit.provenance.get("prepend_bos")},
        )
        return found.centred_at(encoder.center)

    def centred_at(self, center: Tensor) -> Checkpoint:
        """With an encoder that subtracts `center`, as the decoder's bias where it is that, else folded into the encoder's bias."""
        if not self.is_transcoder and torch.equal(center, self.weights.b_dec) and bool(center.any()):
            return replace(self, is_centred=True)
        return replace(self, weights=_shifted(self.weights, center))

    def centred(self) -> Checkpoint:
        """The same function with the decoder's bias subtracted from what is read."""
        if self.is_centred or self.is_transcoder:
            return self
        return replace(self, weights=_shifted(self.weights, -self.weights.b_dec), is_centred=True)

    def uncentred(self) -> Checkpoint:
        """The same function with nothing subtracted from what is read."""
        return replace(self, weights=_shifted(self.weights, self.weights.b_dec), is_centred=False) if self.is_centred else self


def _shifted(w: Weights, center: Tensor) -> Weights:
    """Weights that make of x what these make of x - center."""
    shift = w.W_enc @ center  # [M]
    found = w.given({"b_enc": w.b_enc - shift})
    if w.b_mag is None or w.r_mag is None:
        return found
    return found.given({"b_mag": w.b_mag - w.r_mag.exp() * shift})


def _kind(encoder: SAEEncoder) -> Kind:
    if isinstance(encoder, ThresholdEncoder):
        return "jumprelu" if bool(encoder.threshold.any()) else "relu"
    kinds: dict[type, Kind] = {TopKEncoder: "topk", AbsTopKEncoder: "abs_topk", GatedEncoder: "gated"}
    return kinds[type(encoder)]


def _model(fit: Decomposition) -> str:
    source = fit.inputs[0][0]
    return source.model if source is not None else str(fit.provenance.get("model", ""))


def _hook(layout: Layout) -> str | None:
    """Where one site's rows come from, in TransformerLens' words where it has some."""
    source = layout[0][0]
    return None if len(layout) != 1 or source is None else lens_name(source.site)


#: Kinds of site -> TransformerLens' name after "blocks.<layer>.".
_LENS = {
    "resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "resid_post": "hook_resid_post", "attn_in": "ln1.hook_normalized",
    "attn_z": "attn.hook_z", "attn_out": "hook_attn_out", "mlp_in": "ln2.hook_normalized", "mlp_act": "mlp.hook_post",
    "mlp_out": "hook_mlp_out",
}  # fmt: skip


def lens_name(site: Site) -> str:
    """A site as SAELens spells it: TransformerLens' name, or the module path."""
    if site.kind == "embed":
        return "hook_embed"
    head = "" if site.head is None else f".{site.head}"
    return f"blocks.{site.layer}.{_LENS[site.kind]}{head}" if site.kind in _LENS else f"{site.path}.{site.part}"


def fold_scale(w: Weights, scale: float) -> Weights:
    """Weights that read rows as they are, from weights that read them times `scale` and rebuild them so (ecosystem of SAELens: W_enc
    times it, W_dec and b_dec divided by it)."""
    return w.given({"W_enc": w.W_enc * scale, "W_dec": w.W_dec / scale, "b_dec": w.b_dec / scale})
