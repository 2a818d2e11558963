"""Fidelity: how much of the activations, and of what the model does with them, a reconstruction keeps.

For targets y (the input itself unless the fit is a transcoder), reconstructions y_hat and m the mean of y over the rows that are read:

    fvu               sum |y - y_hat|^2 / sum |y - m|^2           explained_variance = 1 - fvu
    ce_increase       CE(y_hat in y's place) - CE(clean)          nats per token
    kl_spliced        KL(clean || y_hat in y's place)             nats per token
    ce_recovered_*    (CE_* - CE_spliced) / (CE_* - CE_clean)     * = zero, mean or resample ablation of the same tokens
    kl_recovered_*    (KL_* - KL_spliced) / KL_*
    l0, density       features that fire per token, and the same as a share of all features
    dead              share of the features that fire on none of the tokens
    cosine, l2_ratio  mean cosine of y and y_hat; mean |y_hat| / |y|, below 1 where the fit shrinks
    relative_bias     E|y_hat|^2 / E[y . y_hat], 1 if unbiased: Rajamanoharan et al. (2024), "Improving dictionary learning with gated
                      sparse autoencoders", arXiv 2404.16014
    fvu_base          fvu of the base (bias, mean or skip connection) alone
    nmse              mean over tokens of |y - y_hat|^2 / |y|^2; secondary: a few short rows can decide it

All sums are float64, ratios are ratios of totals, and units of the bootstrap are documents. See docs/studies/fidelity.md.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence

import torch
from pydantic import Field

from armillary.core.columns import columns_for, columns_key
from armillary.core.config import Config as Settings
from armillary.core.method import Pass
from armillary.core.report import Report
from armillary.core.rows import width
from armillary.core.run import drive
from armillary.core.site import Site
from armillary.core.study import Need, Subject, Subjects, as_subjects
from armillary.errors import InputError, TooFewRowsError
from armillary.studies.quality.fidelity_report import Measured, report
from armillary.studies.quality.loss import ABLATIONS, CLEAN, Ablation, Losses, Variant, fixed, losses, resample, splice
from armillary.studies.quality.reconstruction import FitSums, TargetSums
from armillary.studies.together import together
from armillary.studies.units import RowUnits

needs: frozenset[Need] = frozenset({"fit", "rows"})
#: Used where given: without a model the estimates in nats are missing.
accepts: frozenset[Need] = frozenset({"logits"})

#: Rows kept to draw resample ablations from.
N_SAMPLE = 1024


class Config(Settings):
    """Settings of the fidelity study."""

    batch_size: int = Field(4096, ge=1)
    """Rows per batch; changes speed and memory, not the result."""
    max_rows: int | None = Field(None, ge=1)
    """Measure the reconstruction on the first rows only; None for all."""
    loss: bool | None = None
    """Measure cross-entropy and KL: None where a model with logits is given, True to insist, False to leave it out."""
    n_tokens: int | None = Field(100_000, ge=1)
    """Tokens the model is run on, in randomly chosen sequences; None for all."""
    batch_tokens: int = Field(2048, ge=1)
    """Tokens per forward pass of the model, padding included."""
    n_bootstrap: int = Field(2000, ge=100)
    """Bootstrap samples behind each interval."""
    seed: int = Field(0, ge=0)
    """Of the bootstrap, the choice of sequences and the resample ablation."""


def run(subjects: Subjects, *, config: Config = Config()) -> Report:  # noqa: B008 (frozen)
    """Measure how faithful the subjects' reconstructions are.

    Args:
        subjects: fits with rows, and with the model for the estimates in nats. Subjects with the same rows object share one reading.
        config: settings.

    Raises:
        InputError: a subject without rows, or a bare dictionary; with loss=True also one without a model, tokens or a known site.
        CapabilityError: loss=True and the model has no logits.
        ShapeError: the rows do not hold what a fit reads or reconstructs.
        TooFewRowsError: no row is left once special tokens are taken out.
    """
    began = time.monotonic()
    asked = as_subjects(subjects)
    for subject in asked:
        subject.fit(), subject.require_rows()
        if config.loss:
            _insist(subject)
    with torch.no_grad():
        measured = _measure(asked, config)
        costs = _costs(measured, config)
    seconds = time.monotonic() - began
    return together("fidelity", [report(one, cost, config, seconds) for one, cost in zip(measured, costs, strict=True)])


# ---------------------------------------------------------------- measuring


def _measure(subjects: Sequence[Subject], config: Config) -> list[Measured]:
    """One pass per rows object, for all of its subjects."""
    found: dict[int, Measured] = {}
    for key in dict.fromkeys(id(subject.rows) for subject in subjects):
        group = [i for i, subject in enumerate(subjects) if id(subject.rows) == key]
        found |= dict(zip(group, _measure_group([subjects[i] for i in group], config), strict=True))
    return [found[i] for i in range(len(subjects))]


def _measure_group(subjects: Sequence[Subject], config: Config) -> list[Measured]:
    rows = subjects[0].require_rows()
    units = RowUnits.of(rows, config.max_rows)
    order = Pass(config.batch_size, n_batches=None if config.max_rows is None else -(-config.max_rows // config.batch_size))
    targets: dict[str, TargetSums] = {}
    fits: list[tuple[str, FitSums]] = []
    for subject in subjects:
        fit = subject.fit()
        read, target = columns_for(fit, rows.layout)
        if target is None:
            raise InputError(f"{subject.label} reconstructs {_target_name(subject)}, which the rows do not hold; harvest both sites")
        key = columns_key(target)
        targets.setdefault(key, TargetSums(target, width(fit.targets), units, order, n_sample=N_SAMPLE, seed=config.seed))
        fits.append((key, FitSums(fit, (read, target), units, order)))
    drive([*targets.values(), *(sums for _, sums in fits)], rows, title="fidelity")
    finished = {key: sums.finish() for key, sums in targets.items()}
    if not any(target.n.sum() for target in finished.values()):
        raise TooFewRowsError("fidelity: every row belongs to a special token, so none is left to measure on")
    return [Measured(one, rows, units, finished[key], sums.finish()) for one, (key, sums) in zip(subjects, fits, strict=True)]


def _costs(measured: Sequence[Measured], config: Config) -> list[Losses | str]:
    """The losses of each subject, or why there are none. Subjects on the same text of the same model share its clean run, whatever their
    sites, and those with the same target its ablated runs."""
    reasons = [_why_no_loss(one.subject, config) for one in measured]
    keys = [() if reason else _text_key(one) for one, reason in zip(measured, reasons, strict=True)]
    found: dict[int, Losses | str] = {i: reason for i, reason in enumerate(reasons) if reason}
    for key in dict.fromkeys(key for key in keys if key):
        group = [i for i, other in enumerate(keys) if other == key]
        found |= dict(zip(group, _costs_group([measured[i] for i in group], config), strict=True))
    return [found[i] for i in range(len(measured))]


def _text_key(one: Measured) -> tuple[Hashable, ...]:
    assert one.rows.tokens is not None
    return id(one.subject.model), one.rows.tokens.sha256


def _costs_group(group: Sequence[Measured], config: Config) -> list[Losses]:
    first = group[0]
    assert first.rows.tokens is not None
    variants: dict[str, Variant] = {}
    for i, one in enumerate(group):
        variants |= {f"{name} {id(one.target)}": ablation for name, ablation in _ablations(one, config.seed).items()}
        variants[f"spliced {i}"] = splice(one.subject.fit(), _place(one))
    model, how = first.subject.require_model(logits=True), {"batch_tokens": config.batch_tokens, "seed": config.seed}
    whole = losses(model, first.rows.tokens, variants, first.units, n_tokens=config.n_tokens, **how)
    return [_of_subject(whole, one, f"spliced {i}") for i, one in enumerate(group)]


def _ablations(one: Measured, seed: int) -> dict[Ablation, Variant]:
    tokens, target, site = one.rows.tokens, one.target, _place(one)
    assert tokens is not None
    mean = target.mean.float()
    return {
        "zero": fixed(site, torch.zeros_like(mean)),
        "mean": fixed(site, mean),
        "resample": resample(site, target.sample, tokens.rows[target.sample_row], seed),
    }


def _of_subject(whole: Losses, one: Measured, spliced: str) -> Losses:
    """The losses with one subject's splice and ablations under their plain names."""
    names: dict[str, str] = {CLEAN: CLEAN, "spliced": spliced, **{name: f"{name} {id(one.target)}" for name in ABLATIONS}}
    return Losses(whole.n, {to: whole.ce[of] for to, of in names.items()}, {to: whole.kl[of] for to, of in names.items()})


def _place(one: Measured) -> Site:
    site = _site(one.subject)
    assert site is not None  # see `_why_no_loss`
    return site


def _site(subject: Subject) -> Site | None:
    """Where the reconstruction goes: the fit's target, or the rows' site for a fit that does not know its own."""
    fit, rows = subject.fit(), subject.require_rows()
    known = [source for source, _ in (fit.targets if fit.targets[0][0] is not None else rows.layout)]
    return known[0].site if len(known) == 1 and known[0] is not None else None


def _target_name(subject: Subject) -> str:
    site = _site(subject)
    return "another site" if site is None else str(site)


def _why_no_loss(subject: Subject, config: Config) -> str:
    """Why cross-entropy and KL cannot be measured; "" if they can."""
    if config.loss is False:
        return "switched off by loss=False"
    if subject.model is None:
        return "no model was given"
    if not subject.model.has_logits:
        return f"{subject.model.name!r} has no next-token logits"
    if subject.require_rows().tokens is None:
        return "the rows have no tokens to run the model on"
    return "" if _site(subject) is not None else "neither the fit nor the rows name one site to put the reconstruction into"


def _insist(subject: Subject) -> None:
    """Raise what keeps the loss from being measured."""
    subject.require_model(logits=True)
    if reason := _why_no_loss(subject, Config()):
        raise InputError(f"loss=True, but {reason}: {subject.label}")
