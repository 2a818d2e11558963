"""Core and exclusive neurons: do features that share neurons do together what the shared ones do, and apart what their own ones do?

For siblings, features such as those of the days of the week, each with a token of its own:

    core         neurons that at least a share `quorum` of the siblings have
    exclusive    neurons that one sibling has and no other

A set of neurons is amplified by adding the feature's own weights on it, scaled to a share of the site's mean length, to the last token of
prompts. Read are the logits of the siblings' tokens, less the mean over the vocabulary.

    selectivity  change of a sibling's own token minus the mean change of the others', under its exclusive neurons; mean over siblings
    core_lift    mean change of the siblings' tokens under the core

The null of both is the same weights on neurons drawn at random, each as likely as it is common among all features.
After the causal test of Shafran, Geiger and Geva 2025 (arXiv 2506.10920).

Letters: S siblings, P prompts, D neurons, V vocabulary, R draws.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from armillary.core.config import Config as Settings
from armillary.core.decomposition import Decomposition
from armillary.core.edits import Add
from armillary.core.model import At, Model
from armillary.core.prompted import plain
from armillary.core.report import Estimate, Report
from armillary.core.site import Site
from armillary.core.statistics import Floats, Units, ratio_interval
from armillary.core.study import Need, Subject, Subjects, as_subjects
from armillary.errors import InputError
from armillary.studies.together import together

needs: frozenset[Need] = frozenset({"fit", "logits"})
accepts: frozenset[Need] = frozenset()

CORE = "core"
#: Popularity of a neuron that no feature has: it is drawn last.
UNUSED = 1e-9


class Config(Settings):
    """Settings of the study."""

    features: tuple[int, ...] = ()
    """The siblings; at least two have to be named."""
    words: tuple[str, ...] = ()
    """The word of each sibling, whose first token is read; a space is put before it where a prompt ends without one."""
    prompts: tuple[str, ...] = ()
    """Texts after which any of the words may come."""
    quorum: float = Field(0.8, gt=0, le=1)
    """Share of the siblings that have a neuron for it to be of the core."""
    strength: float = Field(1.0, gt=0)
    """Length of what is added, as a share of the mean length of the site's activations at the prompts' last tokens."""
    n_draws: int = Field(50, ge=10)
    """Draws of random neurons behind the null."""
    seed: int = Field(0, ge=0)
    """Of the draws."""


def run(subjects: Subjects, *, config: Config = Config()) -> Report:  # noqa: B008 (frozen)
    """Amplify shared and exclusive neurons of features and read what it does to their words.

    Args:
        subjects: fits of sparse directions at an `mlp_act` site, with the model.
        config: which features, words and prompts.

    Raises:
        InputError: not one word per feature, fewer than two, words that begin with the same token, or atoms that are not sparse.
        CapabilityError: the model has no logits.
    """
    return together("core and exclusive neurons", [_report(subject, config) for subject in as_subjects(subjects)])


def _report(subject: Subject, config: Config) -> Report:
    began = time.monotonic()
    fit, model = subject.fit(), subject.require_model(logits=True)
    site = _site(fit, config)
    sets = neuron_sets(fit.dictionary.atoms_of(config.features), fit.dictionary.atoms, config.quorum)  # [S + 1, D]
    tokens = first_tokens(model, config.prompts, config.words)
    reader = _Reader(model, site, config.prompts, tokens)
    length = config.strength * reader.mean_length
    effects = reader.effects(sets, length)  # [S + 1, P, S]
    popularity = (fit.dictionary.atoms != 0).sum(0)  # [D]
    draws = [reader.effects(elsewhere(sets, popularity, config.seed + i), length).mean(1) for i in range(config.n_draws)]
    chance = np.stack(draws)  # [R, S + 1, S]
    empty = [name for name, row in zip([*config.words, CORE], sets, strict=True) if not bool(row.any())]
    warnings = [f"no neurons in the set of {name.strip()!r}" for name in empty]
    estimates = {"selectivity": _selectivity(effects, chance), "core_lift": _lift(effects, chance)}
    if not bool(sets[-1].any()):
        estimates["core_lift"] = Estimate.missing("the features share no neurons", better="higher")
    tables = {"change of logits": _table(effects.mean(1), sets, config.words), "by chance": _table(chance.mean(0), sets, config.words)}
    return Report(
        subject.label,
        estimates,
        tables,
        {"change of logits": _heat_map(effects.mean(1), config.words)},
        notes=[
            "Logits are less their mean over the vocabulary. Null: the same weights on neurons drawn at random, common ones more often, "
            f"{config.n_draws} draws. Intervals: bootstrap over features, of core_lift over prompts."
        ],
        warnings=warnings,
        provenance={
            "study": "core_exclusive",
            "fit": dict(fit.provenance),
            "model": model.name,
            "settings": config.model_dump(mode="json"),
        },
        seconds=time.monotonic() - began,
    )


def _site(fit: Decomposition, config: Config) -> Site:
    if len(config.features) != len(config.words) or len(config.features) < 2:
        raise InputError(
            f"a word for each of at least two features is needed, got {len(config.features)} features, {len(config.words)} words"
        )
    if fit.site is None or fit.inputs != fit.targets:
        raise InputError(f"the study edits the site that a fit rebuilds, and {fit!r} does not name one")
    return fit.site


# ---------------------------------------------------------------- sets of neurons


def neuron_sets(features: Tensor, atoms: Tensor, quorum: float) -> Tensor:
    """[S + 1, D] directions of length 1: each feature's weights on its exclusive neurons, and the features' mean weights on their core.

    A set without a neuron is 0.

    Args:
        features: [S] which atoms.
        atoms: [M, D].
        quorum: share of the features that have a neuron of the core.

    Raises:
        InputError: the atoms have no zeros.
    """
    chosen = atoms[features].float()
    on = chosen != 0
    if bool(on.all()):
        raise InputError("the features have weights on all neurons, so they share all and none is exclusive; fit with neurons_per_feature")
    exclusive = chosen * (on.sum(0) == 1)
    core = chosen.mean(0) * (on.double().mean(0) >= quorum - 1e-9)
    return torch.nn.functional.normalize(torch.cat([exclusive, core[None]]), dim=1)


def elsewhere(sets: Tensor, popularity: Tensor, seed: int) -> Tensor:
    """The weights of each set [S, D] on other neurons, drawn in proportion to their popularity [D], so that a few dominant neurons are
    as likely in a random set as in a feature."""
    generator = torch.Generator().manual_seed(seed)
    waits = torch.empty(sets.shape, dtype=torch.float64).exponential_(generator=generator)
    order = (waits / popularity.cpu().clamp_min(UNUSED)).argsort(dim=1)  # exponential races: without replacement
    out = torch.zeros_like(sets)
    for row, weights, neurons in zip(out, sets, order, strict=True):
        values = weights[weights != 0]
        row[neurons[: len(values)].to(row.device)] = values[torch.randperm(len(values), generator=generator).to(row.device)]
    return out


# ---------------------------------------------------------------- the model


def first_tokens(model: Model, prompts: Sequence[str], words: Sequence[str]) -> list[int]:
    """[S] the token with which each word begins after the prompts.

    Raises:
        InputError: no prompt, an empty word, a word that begins with another token after another prompt or changes the prompt's own
            tokens, or two words that begin with the same token.
    """
    if not prompts or not all(word.strip() for word in words):
        raise InputError(f"at least one prompt is needed, and words that are not empty, got {len(prompts)} prompts and {list(words)}")
    by_prompt = [[_first_token(model, prompt, word) for word in words] for prompt in prompts]
    for prompt, tokens in zip(prompts, by_prompt, strict=True):
        if tokens != by_prompt[0]:
            raise InputError(f"the words begin with other tokens after {prompt!r} than after {prompts[0]!r}; end all prompts alike")
    found = by_prompt[0]
    for i, token in enumerate(found):
        if token in found[:i]:
            one, other = words[found.index(token)], words[i]
            raise InputError(f"{one!r} and {other!r} begin with the same token {model.vocabulary()[token]!r}, so they cannot be told apart")
    return found


def _first_token(model: Model, prompt: str, word: str) -> int:
    """The token of a word's beginning after a prompt."""
    spaced = word if prompt[-1:].isspace() or word[:1].isspace() else f" {word}"
    before, after = plain_ids(model, prompt), plain_ids(model, prompt + spaced)
    if after[: len(before)] != before or len(after) == len(before):
        raise InputError(f"the tokenizer does not keep {prompt!r} apart from {spaced!r}; leave out the space at the end of the prompt")
    return after[len(before)]


def plain_ids(model: Model, text: str) -> list[int]:
    """The ids of a text, without a special token at its end."""
    return [int(i) for i in plain(model.tokenize(text), 0)]


class _Reader:
    """Logits of some tokens behind prompts, and how edits of the last token change them.

    Args:
        model: the model.
        site: what is edited.
        prompts: P texts.
        tokens: ids that are read.
    """

    def __init__(self, model: Model, site: Site, prompts: Sequence[str], tokens: Sequence[int]) -> None:
        self.model, self.site, self.ids = model, site, torch.tensor(tokens)
        self.tokens = model.tokenize(list(prompts))
        self.last = torch.from_numpy(self.tokens.lengths - 1)  # [P]
        with torch.no_grad():
            x = model.capture(self.tokens, [site])[site]  # [P, T, D]
            self.mean_length = float(self._at_last(x).norm(dim=1).mean())
            self.before = self._read()

    def _at_last(self, x: Tensor) -> Tensor:
        return x[torch.arange(len(x)), self.last.to(x.device)].float()

    def _read(self, *edits: Add) -> Tensor:
        logits = self._at_last(self.model.logits(self.tokens, edits=edits))  # [P, V]
        return (logits[:, self.ids.to(logits.device)] - logits.mean(1, keepdim=True)).cpu()

    def effects(self, sets: Tensor, length: float) -> Floats:
        """[sets, P, S] change of the tokens' logits when `length` times each direction [sets, D] is added."""

        def is_last(at: At) -> Tensor:
            return at.position == self.last[:, None].to(at.position.device)

        with torch.no_grad():
            found = [self._read(Add(self.site, row, length, is_last)) - self.before for row in sets]
        out: Floats = torch.stack(found).double().numpy()
        return out


# ---------------------------------------------------------------- the report


def _own_against_others(effects: Floats) -> Floats:
    """[..., S] of [..., S, S] changes: the own token's minus the mean of the others'."""
    own = np.diagonal(effects, axis1=-2, axis2=-1)
    others: Floats = (effects.sum(-1) - own) / (effects.shape[-1] - 1)
    return own - others


def _selectivity(effects: Floats, chance: Floats) -> Estimate:
    values = _own_against_others(effects[:-1].mean(1))  # [S]
    null = _own_against_others(chance[:, :-1]).mean(1)  # [R]
    units = Units.of_values("feature", values)
    return _estimate(units, null)


def _lift(effects: Floats, chance: Floats) -> Estimate:
    return _estimate(Units.of_values("prompt", effects[-1].mean(1)), chance[:, -1].mean(1))


def _estimate(units: Units, null: Floats) -> Estimate:
    low, high = ratio_interval(units)
    p = float((1 + (null >= units.value).sum()) / (1 + len(null)))
    return Estimate(units.value, low, high, len(units), null=float(null.mean()), p=p, better="higher", unit="logits", units=units)


def _table(effects: Floats, sets: Tensor, words: Sequence[str]) -> dict[str, Any]:
    """A row per amplified set [S + 1], a column per token [S]."""
    names = [*(f"{word.strip()} exclusive" for word in words), CORE]
    columns = {word.strip(): [round(float(value), 4) for value in effects[:, i]] for i, word in enumerate(words)}
    return {"amplified": names, "neurons": (sets != 0).sum(1).tolist(), **columns}


def _heat_map(effects: Floats, words: Sequence[str]) -> dict[str, Any]:
    most = float(np.abs(effects).max()) or 1.0
    names = [*(f"{word.strip()} exclusive" for word in words), CORE]
    columns = [word.strip() for word in words]
    trace = {"type": "heatmap", "z": effects.tolist(), "x": columns, "y": names, "zmin": -most, "zmax": most, "colorscale": "RdBu"}
    layout = {"title": {"text": "Change of logits"}, "yaxis": {"autorange": "reversed", "title": {"text": "amplified neurons"}}}
    return {"data": [trace], "layout": {**layout, "xaxis": {"title": {"text": "token"}}}}
