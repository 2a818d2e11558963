"""The research note's experiment 16 on mixtures (section 11), with masks through the model: `make acceptance`.

Expected (section 5): a category is in the centroids; a position, which varies within regions, needs the loadings.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

import armillary as arm
from armillary.core.rows import TensorRows
from armillary.core.study import Subject
from armillary.core.task import Task
from armillary.lm.model import LanguageModel
from armillary.studies.causal.localization import Config, run
from planted_lm import N_ENTITIES, STREAM, VALUES, PlantedNet, entity_task, planted_lm, word_tokenizer

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("noise", [0.3, 0.6, 0.9, 1.5])
def test_16_a_category_is_in_as_many_regions_at_least_as_well_as_in_principal_axes(noise: float) -> None:
    """Colours in noise of eight dimensions that is quieter, as loud or louder than they are. A region has a loading for each of the eight:
    with fewer the loud noise is what regions part, which is likelier than the colours. Axes hold the colours alone where the noise is not
    as loud."""
    planted = planted_lm(noise=noise, shapes=0.0)
    g = torch.Generator().manual_seed(0)
    inside = torch.linalg.svd(planted.entities - planted.entities @ planted.colour.T @ planted.colour)[2][:8]
    x = planted.colour[torch.randint(3, (3000,), generator=g)] + noise * torch.randn(3000, 8, generator=g) @ inside
    rows = TensorRows(x, source=planted.lm.source(STREAM))
    methods = {"mfa": arm.MFA(n_regions=3, rank=8, noise="isotropic"), "pca": arm.PCA(n_components=16)}
    subjects = [Subject(one.fit(rows), model=planted.lm, task=_causes(planted.task), name=name) for name, one in methods.items()]
    report = run(subjects, config=Config(n_features=3, max_pairs=60, n_random=1, n_bootstrap=100))
    assert report["mfa: iia: colour"].value >= max(0.99, report["pca: iia: colour"].value)
    if noise == 0.6:
        assert report["pca: iia: colour"].value < 0.9, "axes of colours and of noise as loud are mixed"


def _causes(task: Task) -> Task:
    """The pairs that ask for the colour alone: there is nothing that has to stay."""
    splits = {name: tuple(p for p in getattr(task, name) if (p.variable, p.kind) == ("colour", "cause")) for name in ("train", "test")}
    return replace(task, **splits, positions=("entity",))


@cache
def in_places() -> Any:
    """(a language model that says an entity's colour and shape, its task, rows to fit): the colour is one of three places far apart, the
    shape how far an entity lies from there along one axis, the same around each place."""
    g = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(16, 16, generator=g))[0]
    places, along, asked = axes[:3], axes[3], axes[4:6]
    values = {name: [known[(i // 3**j) % 3] for i in range(N_ENTITIES)] for j, (name, known) in enumerate(VALUES.items())}
    words = [*(f"e{i}" for i in range(N_ENTITIES)), *VALUES, *(value for known in VALUES.values() for value in known), "the"]
    number = {word: 1 + i for i, word in enumerate(words)}

    def lying(colour: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
        return 3 * places[colour] + (shape - 1.0)[:, None] * along + 0.05 * torch.randn(len(colour), 16, generator=g)

    table = torch.zeros(len(words) + 1, 16)
    own = [torch.tensor([known.index(value) for value in values[name]]) for name, known in VALUES.items()]
    table[1 : 1 + N_ENTITIES] = lying(*own)
    table[number["colour"]], table[number["shape"]] = 2 * asked[0], 2 * asked[1]
    colours = places / 3 + asked[0]  # a unit is 1 where it is asked for and the entity lies there
    shapes = torch.stack([asked[1] - along, 1.25 * asked[1], asked[1] + along])  # below, between (always 1/2) and above
    answers = torch.tensor([number[value] for known in VALUES.values() for value in known])
    lm = LanguageModel(PlantedNet(table, torch.cat([colours, shapes]).T.contiguous(), answers), word_tokenizer(words))
    x = lying(*(torch.randint(3, (3000,), generator=g) for _ in range(2)))
    return lm, replace(entity_task(values), positions=("entity",)), TensorRows(x, source=lm.source(STREAM))


@cache
def by_roles(roles: Any) -> arm.Report:
    """A mask over the single atoms of a mixture, of all roles or of one."""
    lm, task, rows = in_places()
    fit = arm.MFA(n_regions=3, rank=2).fit(rows, seed=0)
    config = Config(units="atom", roles=roles, max_pairs=120, n_random=1, n_bootstrap=100)
    return run(Subject(fit, model=lm, task=task), config=config)


def test_16_of_a_category_the_centroids_are_enough() -> None:
    assert by_roles("all")["disentangle: colour"].value > 0.95
    assert by_roles("centroids")["disentangle: colour"].value > 0.95
    assert by_roles("loadings")["cause: colour"].value < 0.1


def test_16_of_a_position_within_regions_the_loadings_are_needed() -> None:
    whole, without = by_roles("all")["disentangle: shape"], by_roles("centroids")["disentangle: shape"]
    assert whole.value > 0.95 and by_roles("loadings")["disentangle: shape"].value > 0.95
    assert without.value <= 0.55 and by_roles("centroids")["cause: shape"].value < 0.1
    assert without.high < whole.low
