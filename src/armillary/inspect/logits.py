"""Logit effects: the tokens a feature's direction promotes and suppresses when it is read by the model's own unembedding.

This is the direct path only, the "logit lens" of nostalgebraist (2020) applied to a direction; what later layers make of the feature is not
in it. Because any direction has a largest logit, each effect comes with what random directions of the same length give.

Letters: F features, f features asked for, D width of the site, V vocabulary, k tokens shown, S random directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import ROLES, Dictionary
from armillary.core.model import Model
from armillary.core.site import Site
from armillary.core.statistics import matched_directions
from armillary.errors import CapabilityError, InputError

#: Directions that are unembedded together.
CHUNK = 64
_THROUGH_READOUT = ("mlp_act", "attn_z")
_READ_ONLY = ("mlp_in", "attn_in")


@dataclass(frozen=True)
class TokenEffect:
    """One token and by how much its logit changes along the unit direction."""

    token: str
    id: int
    logit: float


@dataclass(frozen=True)
class LogitEffect:
    """What a feature does to the next token by the direct path.

    Args:
        feature: its index; of directions that were given, their place.
        promoted: the tokens whose logits rise most, most first.
        suppressed: the tokens whose logits fall most, most first.
        null_top: mean over random directions of the largest logit,
        null_spread: and its standard deviation.
        null_bottom: mean over random directions of the smallest logit, with
        null_bottom_spread: its standard deviation.
    """

    feature: int
    promoted: tuple[TokenEffect, ...]
    suppressed: tuple[TokenEffect, ...]
    null_top: float
    null_spread: float
    null_bottom: float
    null_bottom_spread: float

    @property
    def z_promoted(self) -> float:
        """The top logit in standard deviations above what random directions give; below about 3 it says nothing."""
        return (self.promoted[0].logit - self.null_top) / self.null_spread

    @property
    def z_suppressed(self) -> float:
        """The bottom logit in standard deviations below what random directions give."""
        return (self.null_bottom - self.suppressed[0].logit) / self.null_bottom_spread


def logit_effects(
    model: Model, fit: Decomposition, features: Sequence[int], k: int = 10, *, n_random: int = 20, seed: int = 0
) -> list[LogitEffect]:
    """The tokens each feature promotes and suppresses.

    A feature's direction is its atom, a subspace's first basis vector, or a region's centroid minus the mean of all centroids; it is scaled
    to length 1, carried into the residual stream (through the output projection for `mlp_act` and `attn_z`) and unembedded. What the final
    norm and unembedding give for no direction at all (their biases) is subtracted.

    Args:
        model: with logits.
        fit: at a site that is added to the residual stream, or at the residual stream itself.
        features: which.
        k: tokens to show at each end.
        n_random: S, random directions behind the null.
        seed: of those.

    Raises:
        CapabilityError: the model has no logits, or the fit's site is only read, never written.
        InputError: the fit does not know its site, or a feature does not exist.
    """
    units = feature_directions(fit.dictionary, features)  # [f, D]
    found = direction_effects(model, fit, units, k, n_random=n_random, seed=seed)
    return [replace(effect, feature=int(feature)) for effect, feature in zip(found, features, strict=True)]


def direction_effects(
    model: Model, fit: Decomposition, directions: Tensor, k: int = 10, *, n_random: int = 20, seed: int = 0
) -> list[LogitEffect]:
    """The tokens that directions at a fit's site promote and suppress; see `logit_effects`.

    Args:
        model, fit, k, n_random, seed: as of `logit_effects`.
        directions: [f, D], of any length; each is scaled to length 1.

    Raises:
        CapabilityError: the model has no logits, or the fit's site is only read, never written.
        InputError: the fit does not know its site.
    """
    if not model.has_logits:
        raise CapabilityError(f"{model.name!r} has no next-token logits, so features promote no tokens")
    site = _written_site(fit)
    units = torch.nn.functional.normalize(directions, dim=1)  # [f, D]
    with torch.no_grad():
        null = logits_along(model, site, matched_directions(units[:1].expand(n_random, -1), seed=seed))  # [S, V]
        found = [_ends(logits_along(model, site, some), k) for some in torch.split(units, CHUNK)]
    names = model.vocabulary()
    top, bottom = null.max(dim=1).values, null.min(dim=1).values
    spread = (float(top.mean()), float(top.std()), float(bottom.mean()), float(bottom.std()))
    rows = [row for values, ids in found for row in zip(values, ids, strict=True)]
    return [_effect(place, value, index, names, spread) for place, (value, index) in enumerate(rows)]


@dataclass(frozen=True)
class RegionEffects:
    """What a region does to the next token by the direct path.

    Args:
        centroid: of what sets its centroid apart from the others.
        axes: of each of its axes. Minus an axis does the opposite: what an axis suppresses is what its low end promotes.
    """

    centroid: LogitEffect
    axes: tuple[LogitEffect, ...]


def region_effects(model: Model, fit: Decomposition, region: int, k: int = 10, *, n_random: int = 20, seed: int = 0) -> RegionEffects:
    """The tokens that a region's centroid and both ends of its axes promote; arguments and errors as of `logit_effects`."""
    directions = torch.cat([feature_directions(fit.dictionary, [region]), fit.dictionary.feature(region).basis])  # [1 + R, D]
    found = direction_effects(model, fit, directions, k, n_random=n_random, seed=seed)
    centroid, *axes = [replace(effect, feature=region) for effect in found]
    return RegionEffects(centroid, tuple(axes))


def feature_directions(dictionary: Dictionary, features: Sequence[int]) -> Tensor:
    """[f, D] unit directions; a region's is what sets its centroid apart from the others."""
    wanted = torch.stack([dictionary.feature(feature).direction for feature in features])
    is_centroid = dictionary.role == ROLES.index("centroid")
    if is_centroid.any():
        of_region = torch.tensor([dictionary.feature(feature).kind == "region" for feature in features], device=wanted.device)
        wanted = wanted - of_region[:, None] * dictionary.atoms[is_centroid].mean(0)
    return torch.nn.functional.normalize(wanted, dim=1)


def _written_site(fit: Decomposition) -> Site:
    """The site the fit's atoms live at."""
    source = fit.targets[0][0]
    if len(fit.targets) != 1 or source is None:
        raise InputError(f"{fit!r} does not name the one site its features are written to; fit it on rows that know their source")
    _check_written(source.site)
    return source.site


def _check_written(site: Site) -> None:
    if site.kind == "path":
        raise CapabilityError(f"nothing is known of how '{site}' reaches the residual stream, so its features promote no tokens")
    if site.kind in _READ_ONLY:
        raise CapabilityError(f"site '{site}' is read by its layer and not added to the residual stream, so it promotes no tokens")


def logits_along(model: Model, site: Site, directions: Tensor) -> Tensor:
    """[f, V] logits of directions [f, D] at a site, less those of no direction.

    Raises:
        CapabilityError: the model has no logits, or the site is only read, never written.
    """
    _check_written(site)
    residual = directions @ model.readout(site).to(directions) if site.kind in _THROUGH_READOUT else directions
    return model.unembed(residual) - model.unembed(torch.zeros_like(residual[:1]))


def _ends(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """[f, 2k] the k largest logits, then the k smallest, with their token ids."""
    shown = min(k, logits.shape[1])
    high, low = logits.topk(shown, dim=1), logits.topk(shown, dim=1, largest=False)
    return torch.cat([high.values, low.values], dim=1).cpu(), torch.cat([high.indices, low.indices], dim=1).cpu()


def _effect(feature: int, value: Tensor, index: Tensor, names: Sequence[str], spread: tuple[float, float, float, float]) -> LogitEffect:
    each = [TokenEffect(names[token], token, logit) for token, logit in zip(index.tolist(), value.tolist(), strict=True)]
    half = len(each) // 2
    return LogitEffect(feature, tuple(each[:half]), tuple(each[half:]), *spread)
