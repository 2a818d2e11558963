"""Which columns of rows a fit reads and writes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from armillary.core.columns import columns_for, columns_of
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import LinearEncoder
from armillary.core.rows import Layout
from armillary.core.site import Site, Source
from armillary.errors import ShapeError

A, B, C = (Source("m", "r1", Site("resid_post", layer)) for layer in range(3))
LAYOUT: Layout = ((A, 2), (B, 3), (C, 1))


def fit(inputs: Layout, targets: Layout) -> Decomposition:
    n_in, n_out = (sum(n for _, n in layout) for layout in (inputs, targets))
    return Decomposition(
        Dictionary.of_directions(torch.ones(1, n_out)), LinearEncoder(torch.ones(1, n_in), torch.zeros(n_in)), inputs, targets
    )


def test_sites_are_found_by_their_source() -> None:
    assert columns_of(LAYOUT, ((B, 3),)) == slice(2, 5)
    found = columns_of(LAYOUT, ((C, 1), (A, 2)))
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [5, 0, 1]
    assert columns_of(LAYOUT, ((None, 3),)) is None
    assert columns_of(LAYOUT, ((B, 4),)) is None


def test_the_same_site_of_another_revision_will_do() -> None:
    assert columns_of(LAYOUT, ((replace(B, revision="r2"), 3),)) == slice(2, 5)
    both: Layout = ((A, 2), (replace(A, model="other"), 2))
    assert columns_of(both, ((replace(A, model="other"), 2),)) == slice(2, 4)


def test_a_fit_of_its_own_input() -> None:
    assert columns_for(fit(((B, 3),), ((B, 3),)), LAYOUT) == (slice(2, 5), slice(2, 5))
    assert columns_for(fit(((None, 3),), ((None, 3),)), ((B, 3),)) == (slice(0, 3), slice(0, 3))


def test_a_transcoder() -> None:
    coder = fit(((A, 2),), ((B, 3),))
    assert columns_for(coder, LAYOUT) == (slice(0, 2), slice(2, 5))
    assert columns_for(coder, ((A, 2),)) == (slice(0, 2), None)
    assert columns_for(fit(((None, 2),), ((None, 3),)), ((None, 5),)) == (slice(0, 2), slice(2, 5))


def test_rows_that_do_not_hold_the_input() -> None:
    with pytest.raises(ShapeError, match=r"reads 3 columns, but the rows hold resid_post\.0 \(2\); harvest resid_post\.1 \(3\) too"):
        columns_for(fit(((B, 3),), ((B, 3),)), ((A, 2),))


def test_rows_of_another_site_are_refused_even_if_they_are_as_wide() -> None:
    ours, other = Source("m", "r", Site("resid_post", 1)), Source("m", "r", Site("resid_post", 3))
    with pytest.raises(ShapeError, match=r"resid_post\.3 \(6\); harvest resid_post\.1"):
        columns_for(fit(((ours, 6),), ((ours, 6),)), ((other, 6),))


def test_a_transcoder_without_its_target_is_not_scored_on_its_input() -> None:
    read, write, other = (Source("m", "r", Site(kind, 1)) for kind in ("mlp_in", "mlp_out", "resid_post"))
    found = columns_for(fit(((read, 6),), ((write, 6),)), ((other, 6), (read, 6)))
    assert found == (slice(6, 12), None)
