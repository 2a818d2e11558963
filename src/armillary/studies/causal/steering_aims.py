"""Aims: the features that are steered, the edits that steer them, and what tells whether a text is about them.

Letters: F features, D width, n texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import ROLES, Dictionary, Feature, FeatureKind
from armillary.core.model import Model
from armillary.core.site import Site
from armillary.core.statistics import Floats, matched_directions
from armillary.errors import CapabilityError, InputError, ShapeError
from armillary.studies.causal.edit_families import Family, adding, moving
from armillary.studies.causal.proxies import own_share, own_tokens
from armillary.studies.causal.steering_concept import Concept, learn, passages
from armillary.studies.causal.steering_evidence import Evidence
from armillary.studies.causal.steering_scores import Reading, probability
from armillary.studies.causal.steering_writing import WAYS, Texts, Way, Writer
from armillary.studies.units import RowUnits

#: Rows a feature has to fire on to be chosen; features that are looked at for each one that is wanted.
FEWEST, CANDIDATES = 8, 16
#: Distance of a centroid from the mean of all, as a share of its length, below which they are the same point.
NEAR = 1e-6
#: Why a region may have no random point.
NO_NULL = "its centroid is the mean of all centroids, so no random point is as far from that"


@dataclass(frozen=True)
class Aim:
    """A feature to be steered.

    Args:
        feature: its number.
        kind: direction, region or subspace.
        n_fires: rows it fires on, in the half that features are chosen by; None without rows.
        families: the edits, by way; what cannot be had is left out. "against" is the feature's family with sign -1.
        promoted: tokens that the direction of each way promotes; none where nothing is known of the site's way out.
        concept: classifier of its passages, or None, and
        odds: its log-odds of texts.
        near, far: rows of its passages, and of random ones.
        shares: of the concept in texts that were written along each way, 0 to 1; none with a `reason`.
        reason: why it cannot be scored.
        no_null: why there is no random direction.
    """

    feature: int
    kind: FeatureKind
    n_fires: int | None
    families: dict[Way, Family]
    promoted: Mapping[Way, Tensor] = field(default_factory=dict)
    concept: Concept | None = None
    odds: Reading | None = None
    near: tuple[int, ...] = field(default=(), repr=False)
    far: tuple[int, ...] = field(default=(), repr=False)
    shares: Mapping[Way, Reading] = field(default_factory=dict)
    reason: str = ""
    no_null: str = ""

    @property
    def own(self) -> Tensor | None:
        """The tokens that the feature promotes, or None."""
        return self.promoted.get("feature")

    def log_odds(self, texts: Texts) -> Floats:
        """[n] by the classifier; NaN without one."""
        return np.full(len(texts.ids), np.nan) if self.odds is None else self.odds(texts)

    def own_share(self, way: Way) -> Reading:
        """[n] share of each text's tokens that the way's own direction promotes; NaN where these are not known.

        A random direction has tokens of its own: held against the feature's it would be a null of nothing, since whatever is added writes
        what it promotes. Away from the feature the feature's count, to tell whether its sign means anything.
        """
        own = self.promoted.get("feature" if way == "against" else way)
        return lambda texts: np.full(len(texts.ids), np.nan) if own is None else own_share(texts.ids, own)


def candidates(fit: Decomposition, features: Sequence[int], n: int, *, has_rows: bool, seed: int) -> list[int]:
    """Features to look at: those that are given, else enough in a drawn order to find `n` that fire."""
    if features:
        fit.dictionary.atoms_of(list(features))
        return [int(one) for one in features]
    order = np.random.default_rng(seed).permutation(fit.n_features)
    return [int(one) for one in order[: n * CANDIDATES if has_rows else n]]


def chosen(asked: Sequence[int], evidence: Evidence | None, features: Sequence[int], n: int) -> list[int]:
    """Of the candidates those that are given, else the first `n` that fire.

    Raises:
        InputError: none fires.
    """
    if features or evidence is None:
        return list(asked)
    alive = [one for one, fires in zip(asked, evidence.n_fires, strict=True) if fires >= FEWEST]
    if not alive:
        raise InputError(f"none of the {len(asked)} features that were looked at fires on {FEWEST} rows; give more text, or name features")
    return alive[:n]


@dataclass(frozen=True)
class Aimer:
    """Makes the aims of one fit.

    Args:
        fit, model: whose features, and the model that is steered.
        evidence: of the rows; None without rows.
        n_own: tokens that count as a feature's own.
        size: tokens of a passage.
        least: AUROC below which a classifier is not used.
        seed: of random directions.
    """

    fit: Decomposition
    model: Model
    evidence: Evidence | None
    n_own: int
    size: int
    least: float
    seed: int

    @property
    def site(self) -> Site:
        """What is edited: the site that the fit writes.

        Raises:
            InputError: the fit does not name one.
        """
        return written_site(self.fit)

    def aim(self, feature: int) -> Aim:
        """The feature, with all that is known of it."""
        what, place = self.fit.dictionary.feature(feature), self._place(feature)
        fires = None if self.evidence is None else int(self.evidence.n_fires[place])
        if not float(self._vector(what).norm()) > 0:
            return Aim(feature, what.kind, fires, {}, reason="its direction has length 0")
        directions = self._directions(feature)
        no_null = "" if "random" in directions else NO_NULL
        found = Aim(feature, what.kind, fires, self._families(feature, directions), self._promoted(directions), no_null=no_null)
        if self.evidence is None or self.evidence.rows.tokens is None:
            return _by_own(found)
        return self._by_passages(found, self.evidence, place)

    def _vector(self, what: Feature) -> Tensor:
        """[D] what stands for the feature; of a subspace the principal direction of what it adds to rows, where there are any."""
        known = {} if self.evidence is None else self.evidence.principal
        return known[what.index] if what.index in known else what.direction.float()

    def _place(self, feature: int) -> int:
        """Of the feature among the candidates."""
        return 0 if self.evidence is None else int(np.flatnonzero(self.evidence.features == feature)[0])

    def _directions(self, feature: int) -> dict[Way, Tensor]:
        """[D] each: the feature, of a region from the mean of all centroids; a random direction as long; the difference of means."""
        what = self.fit.dictionary.feature(feature)
        vector = self._vector(what)
        difference = self._difference(feature)
        found: dict[Way, Tensor] = {} if difference is None else {"diffmeans": difference}
        if what.position is not None:
            apart = vector - _centre(self.fit.dictionary)
            if not float(apart.norm()) > NEAR * float(vector.norm()):
                return found
            vector = apart
        return {"feature": vector, "random": matched_directions(vector[None], seed=self.seed + feature)[0], **found}

    def _families(self, feature: int, directions: Mapping[Way, Tensor]) -> dict[Way, Family]:
        what, site = self.fit.dictionary.feature(feature), self.site
        found: dict[Way, Family] = {}
        if what.position is not None:
            found["feature"] = moving(site, what.direction.float())
            if "random" in directions:
                found["random"] = moving(site, _centre(self.fit.dictionary) + directions["random"])
        else:
            family = adding(site, directions["feature"])
            found = {"feature": family, "against": family, "random": adding(site, directions["random"])}
        return found if "diffmeans" not in directions else {**found, "diffmeans": adding(site, directions["diffmeans"])}

    def _difference(self, feature: int) -> Tensor | None:
        """[D] mean of the rows it fires on minus the mean of the others, where both are and the fit reads what it writes."""
        if self.evidence is None or self.fit.inputs != self.fit.targets:
            return None
        found = self.evidence.difference[self._place(feature)]
        return found if bool(torch.isfinite(found).all()) and float(found.norm()) > 0 else None

    def _promoted(self, directions: Mapping[Way, Tensor]) -> dict[Way, Tensor]:
        try:
            return {way: own_tokens(self.model, self.site, normalize(one, dim=0), self.n_own) for way, one in directions.items()}
        except CapabilityError:
            return {}

    def _by_passages(self, aim: Aim, evidence: Evidence, place: int) -> Aim:
        near = evidence.passages[place][evidence.passages[place] >= 0]
        if not aim.n_fires and not len(near):
            return replace(aim, reason="it never fires on the rows")
        mine, others = (passages(evidence.rows, row, self.size) for row in (near, evidence.others))
        unit = RowUnits.of(evidence.rows).unit(np.concatenate([near, evidence.others]))
        found = learn(mine, others, unit)
        aim = replace(aim, near=tuple(near.tolist()), far=tuple(evidence.others.tolist()))
        if isinstance(found, str):
            return replace(aim, reason=found)
        odds: Reading = cache(lambda texts: found.log_odds(texts.ids))
        aim = replace(aim, concept=found, odds=odds)
        if found.auroc < self.least:
            return replace(
                aim, reason=f"its passages cannot be told from others by their tokens: AUROC {found.auroc:.2f} on other documents"
            )
        return replace(aim, shares=dict.fromkeys(WAYS, lambda texts: probability(odds(texts))))


def _by_own(aim: Aim) -> Aim:
    """Scored by the tokens it promotes, where nothing else is known."""
    if aim.own is None:
        return replace(aim, reason="neither text with rows nor the tokens it promotes are known")
    return replace(aim, shares={way: aim.own_share(way) for way in WAYS})


def written_site(fit: Decomposition) -> Site:
    """The one site that a fit writes.

    Raises:
        InputError: it does not name one.
    """
    source = fit.targets[0][0]
    if len(fit.targets) != 1 or source is None:
        raise InputError(f"{fit!r} does not name the one site that it rebuilds, where it could be steered; fit rows that know their source")
    return source.site


def check_width(fit: Decomposition, writer: Writer) -> None:
    """Raise `ShapeError` where the site that a fit writes is of another width in a writer's model."""
    site = written_site(fit)
    found, name = writer.effect.widths[site], writer.model.name
    if found != fit.dictionary.d:
        raise ShapeError(f"{fit!r} cannot be steered in {name}, whose '{site}' is {found} wide; pass the model it was made from")


def _centre(dictionary: Dictionary) -> Tensor:
    """[D] mean of the centroids; 0 without any."""
    is_centroid = dictionary.role == ROLES.index("centroid")
    return dictionary.atoms[is_centroid].float().mean(0) if bool(is_centroid.any()) else dictionary.atoms.new_zeros(dictionary.d).float()
