"""The fidelity study's report: estimates from its sums, the table of features, figures and warnings.

Letters: U units, F features, S bootstrap samples, r features that fire in few units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from armillary.core.provenance import of_rows, versions
from armillary.core.report import Estimate, Report
from armillary.core.rows import Rows
from armillary.core.statistics import Units
from armillary.core.study import Subject
from armillary.studies.figures import bars, histogram
from armillary.studies.quality.loss import ABLATIONS, CLEAN, Losses
from armillary.studies.quality.reconstruction import Fitted, Target
from armillary.studies.ratios import Ratios
from armillary.studies.units import RowUnits

if TYPE_CHECKING:
    from armillary.studies.quality.fidelity import Config

#: Tokens below which a feature that did not fire may merely be rare.
ENOUGH_TOKENS = 100_000
#: An ablation that costs fewer nats than this cannot carry a ratio.
LEAST_COST = 0.05


@dataclass(frozen=True)
class Measured:
    """What one pass over the rows gave for one subject."""

    subject: Subject
    rows: Rows
    units: RowUnits
    target: Target
    fitted: Fitted


def report(one: Measured, cost: Losses | str, config: Config, seconds: float) -> Report:
    """The report of one subject: what `one` measured, and the losses or why there are none."""
    of_fit = _fit_estimates(one, config)
    of_loss = _loss_estimates(cost, one.units.kind, config)
    first = ("fvu", "explained_variance", "ce_increase", "kl_spliced")
    estimates = {name: {**of_fit, **of_loss}[name] for name in first} | of_loss | of_fit
    return Report(
        one.subject.label,
        estimates=estimates,
        tables={"features": _feature_table(one)},
        figures=_figures(one, of_loss),
        notes=_notes(one, cost),
        warnings=_warnings(one, estimates),
        provenance=_provenance(one, config),
        seconds=seconds,
    )


def _fit_estimates(one: Measured, config: Config) -> dict[str, Estimate]:
    fitted, target = one.fitted, one.target
    make = Ratios(one.units.kind, target.n, config.n_bootstrap, config.seed)
    constant = "all rows are equal, so there is no variance to explain"
    firing = _firing_estimates(one, make, config)
    return {
        "fvu": make(fitted["error"], target.variance, null=1.0, ceiling=0.0, better="lower", undefined=constant),
        "explained_variance": make(
            target.variance - fitted["error"], target.variance, null=0.0, ceiling=1.0, better="higher", undefined=constant
        ),
        **firing,
        "cosine": make(
            fitted["cosine"], fitted["nonzero"], null=target.mean_cosine, ceiling=1.0, better="higher", undefined="all rows are 0"
        ),
        "l2_ratio": make(fitted["norm_ratio"], fitted["nonzero"], null=0.0, ceiling=1.0, undefined="all rows are 0"),
        "relative_bias": make(fitted["norm"], fitted["dot"], ceiling=1.0, undefined="the reconstruction has no component along the rows"),
        "fvu_base": make(fitted["base_error"], target.variance, null=1.0, ceiling=0.0, better="lower", undefined=constant),
        "nmse": make(fitted["relative_error"], fitted["nonzero"], null=1.0, ceiling=0.0, better="lower", undefined="all rows are 0"),
    }


def _firing_estimates(one: Measured, make: Ratios, config: Config) -> dict[str, Estimate]:
    fit = one.subject.fit()
    if fit.encoder.fires is None:
        reason = "every coefficient is used, so firing does not apply"
        return {"l0": Estimate.missing(reason, unit="features"), "density": Estimate.missing(reason), "dead": Estimate.missing(reason)}
    l0 = one.fitted["l0"]
    return {
        "l0": make(l0, unit="features"),
        "density": make(l0, one.target.n.astype(np.float64) * fit.n_features),
        "dead": _dead(one, config),
    }


def _dead(one: Measured, config: Config) -> Estimate:
    """Share of features that never fire. More text can only wake features, so the interval reaches down from the value, by as many as a
    resample of the units loses."""
    fires, fired = one.fitted.fires, one.fitted.fired[torch.from_numpy(one.target.n > 0)]
    n_units, n_features = fired.shape
    share = float((fires == 0).double().mean())
    spread = fired.sum(0)
    rare = fired[:, (spread > 0) & (spread <= 8)].float()  # [U, r]: one that fires in more units is lost once in 3,000 resamples
    rng = np.random.default_rng(config.seed)
    weights = torch.from_numpy(rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=config.n_bootstrap)).float()  # [S, U]
    lost = sum(((weights @ some) == 0).sum(1).double() for some in torch.split(rare, 4096, dim=1))
    low = max(0.0, share - float(torch.quantile(torch.as_tensor(lost), 0.975)) / n_features) if n_units > 1 else None
    n = int(one.target.n.sum())
    units = Units.of_values("feature", fires.numpy() == 0)
    return Estimate(share, low, None if low is None else share, n, null=1.0, ceiling=0.0, better="lower", units=units)


def _loss_estimates(cost: Losses | str, kind: str, config: Config) -> dict[str, Estimate]:
    if isinstance(cost, str):
        names = ["ce_increase", "kl_spliced", *(f"{kind}_recovered_{ablation}" for kind in ("ce", "kl") for ablation in ABLATIONS)]
        return {name: Estimate.missing(cost, unit="" if "recovered" in name else "nats") for name in names}
    make = Ratios(kind, cost.n, config.n_bootstrap, config.seed)
    ce, kl, n = cost.ce, cost.kl, max(int(cost.n.sum()), 1)
    increase_of_mean, kl_of_mean = float((ce["mean"] - ce[CLEAN]).sum() / n), float(kl["mean"].sum() / n)
    estimates = {
        "ce_increase": make(ce["spliced"] - ce[CLEAN], null=increase_of_mean, ceiling=0.0, better="lower", unit="nats"),
        "kl_spliced": make(kl["spliced"], null=kl_of_mean, ceiling=0.0, better="lower", unit="nats"),
    }
    for name in ABLATIONS:
        why = f"{name} ablation does not raise it"
        span = ce[name] - ce[CLEAN]
        estimates[f"ce_recovered_{name}"] = make(
            span - (ce["spliced"] - ce[CLEAN]), span, null=0.0, ceiling=1.0, better="higher", undefined=why
        )
    for name in ABLATIONS:
        why = f"{name} ablation does not change the model's output"
        estimates[f"kl_recovered_{name}"] = make(kl[name] - kl["spliced"], kl[name], null=0.0, ceiling=1.0, better="higher", undefined=why)
    estimates |= {f"ce_{name}": make(ce[name], unit="nats") for name in (CLEAN, "spliced", *ABLATIONS)}
    return estimates | {f"kl_{name}": make(kl[name], unit="nats") for name in ABLATIONS}


# ---------------------------------------------------------------- the rest of the report


def _feature_table(one: Measured) -> dict[str, Sequence[Any]]:
    """A row per feature. Means and maxima are of magnitudes, over the tokens on which the feature fires."""
    fires = one.fitted.fires.double()
    n = int(one.target.n.sum())
    is_counted = one.subject.fit().encoder.fires is not None
    units = one.fitted.fired.sum(0)
    return {
        "feature": list(range(len(fires))),
        "density": (fires / n).tolist() if is_counted else [None] * len(fires),
        "mean_activation": (one.fitted.total / fires.clamp_min(1)).tolist(),
        "max_activation": one.fitted.largest.tolist(),
        f"{one.units.kind}s": units.tolist() if is_counted else [None] * len(fires),
        "is_dead": (fires == 0).tolist() if is_counted else [None] * len(fires),
    }


def _figures(one: Measured, of_loss: Mapping[str, Estimate]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    density = one.fitted.fires.double().numpy() / max(int(one.target.n.sum()), 1)
    if one.subject.fit().encoder.fires is not None and (density > 0).any():
        alive = np.log10(density[density > 0])
        figures["density"] = histogram(alive, title="How often features fire", x="log10 of the share of tokens", y="features")
    shown = {name: of_loss[f"ce_{name}"] for name in (CLEAN, "spliced", *ABLATIONS) if f"ce_{name}" in of_loss}
    if shown:
        figures["loss"] = bars(shown, title="Next-token loss with the site replaced", y="cross-entropy, nats per token")
    unit = one.target.variance > 0
    if unit.any():
        each = one.fitted["error"][unit] / one.target.variance[unit]
        title = f"FVU of each {one.units.kind}"
        figures["fvu"] = histogram(each, title=title, x="fraction of variance unexplained", y=f"{one.units.kind}s")
    return figures


def _notes(one: Measured, cost: Losses | str) -> list[str]:
    n = int(one.target.n.sum())
    notes = [
        f"Reconstruction: {n:,} rows; special tokens are left out. Sums in float64; fvu is a ratio of totals about the mean of these rows.",
        one.units.note(),
        "nmse is a mean of ratios, so a few short rows can decide it; compare fits by fvu.",
        "l0 counts features: a region or a subspace counts once, whatever its number of atoms.",
    ]
    if isinstance(cost, Losses):
        notes.append(
            f"Loss: {int(cost.n.sum()):,} predicted tokens. Special tokens and tokens that are no rows are neither replaced nor predicted."
        )
    return notes


def _warnings(one: Measured, estimates: Mapping[str, Estimate]) -> list[str]:
    found = []
    fvu, dead, n = estimates["fvu"].value, estimates["dead"].value, int(one.target.n.sum())
    if fvu is not None and fvu > 1:
        found.append("The reconstruction is worse than predicting the mean (fvu > 1).")
    if dead and n < ENOUGH_TOKENS:
        found.append(f"Only {n:,} tokens: some features called dead may be rare.")
    if int((one.target.n > 0).sum()) < 20:
        found.append(f"Only {int((one.target.n > 0).sum())} {one.units.kind}s: intervals are rough.")
    clean = estimates["ce_clean"].value if "ce_clean" in estimates else None
    for name in ABLATIONS:
        ablated = estimates[f"ce_{name}"].value if clean is not None else None
        if clean is not None and ablated is not None and ablated - clean < LEAST_COST:
            found.append(f"{name} ablation costs only {ablated - clean:.3f} nats, too little for ce_recovered_{name} to mean much.")
    return found + _mismatch(one.subject)


def _mismatch(subject: Subject) -> list[str]:
    """A warning where the model given is not the one the rows come from."""
    sources = [source for source, _ in subject.require_rows().layout if source is not None]
    if subject.model is None or not sources or sources[0].revision == subject.model.revision:
        return []
    return [f"The rows come from {sources[0].model} at revision {sources[0].revision}, the loss from another: {subject.model.name}."]


def _provenance(one: Measured, config: Config) -> dict[str, Any]:
    model = one.subject.model
    return {
        "study": "fidelity",
        "subject": dict(one.subject.fit().provenance),
        "rows": of_rows(one.rows),
        "model": None if model is None else {"name": model.name, "revision": model.revision},
        "settings": config.model_dump(mode="json"),
        "versions": versions(),
    }
