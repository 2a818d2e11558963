"""Planted groups share neurons and random ones do not."""

from __future__ import annotations

import pytest
import torch

import armillary as arm
from armillary.core.dictionary import Dictionary
from armillary.core.selection import shuffle
from armillary.errors import InputError
from armillary.studies.geometry import shared_neurons
from neurons import shared

DATA = shared(10, 400, groups=3, siblings=4)


def test_planted_groups_are_joined() -> None:
    report = shared_neurons.run(Dictionary.of_directions(DATA.atoms))
    assert report["joined"].value == 1 and report["joined"].null < 0.9  # with three groups a neuron of one is in a third of all
    assert report["nearest"].value > 1.5 * report["nearest"].null
    assert report["overlap"].value > 5 * report["overlap"].null
    table = report.tables["features"]
    assert table["neurons"] == [14] * 12
    for i, others in enumerate(table["joined_with"]):
        assert {int(j) // 4 for j in others.split(", ")} == {i // 4}
    neurons = report.tables["neurons"]
    assert neurons["features"][0] >= 4 and sum(neurons["features"]) == 12 * 14
    assert report["features_per_neuron"].value == pytest.approx(12 * 14 / int((DATA.atoms != 0).any(0).sum()))


def test_a_few_dominant_neurons_are_no_structure() -> None:
    """Features drawn independently, of neurons of which some are in most of them."""
    g = torch.Generator().manual_seed(0)
    popularity = (1.5 * torch.randn(500, generator=g)).exp()
    atoms = torch.zeros(60, 500)
    for atom in atoms:
        atom[torch.multinomial(popularity, 20, generator=g)] = 1
    report = shared_neurons.run(Dictionary.of_directions(atoms))
    assert report["overlap"].value > 5 * report["overlap"].null
    assert report["nearest"].value == pytest.approx(report["nearest"].null, rel=0.1)
    assert report["joined"].value == pytest.approx(report["joined"].null, abs=0.1)
    many = shared(10, 800, groups=15, siblings=4).atoms
    assert shared_neurons.run(Dictionary.of_directions(many)).tables["features"]["exclusive"] == [
        int(((atom != 0) & ((many != 0).sum(0) == 1)).sum()) for atom in many
    ]


def test_random_neurons_are_not() -> None:
    report = shared_neurons.run(Dictionary.of_directions(shuffle(DATA.atoms, 3)))
    assert report["joined"].value < 0.2 and report["overlap"].value < 2 * report["overlap"].null


def test_dense_atoms_share_everything_and_are_refused() -> None:
    with pytest.raises(InputError, match="at least two features with entries that are 0"):
        shared_neurons.run(arm.PCA(n_components=3).fit(torch.randn(50, 6, generator=torch.Generator().manual_seed(0))))
