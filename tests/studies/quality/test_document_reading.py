"""One pass over documents for several fits: features beside what they read, atoms beside what they reconstruct."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from armillary.core.columns import columns_for
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.rows import TensorRows
from armillary.core.site import Source
from armillary.core.study import Subject
from armillary.errors import InputError
from armillary.studies.quality.document_reading import Reading, columns_key, largest_cosines, read_atoms, read_features
from armillary.studies.quality.pooled import Documents
from documents import LENGTH, in_documents
from toys import RESID, SideBySide, ToyLM, identity_fit, random_sae

N, WIDTH = 12, 5
X = torch.randn(N * LENGTH, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def sited(kind: str, x: torch.Tensor) -> TensorRows:
    return TensorRows(x, source=ToyLM().source(replace(RESID, kind=kind)), tokens=in_documents(x).tokens)


STREAM = SideBySide(sited("mlp_in", X), sited("mlp_out", -2 * X))
INTO = random_sae(STREAM.parts[0])
ACROSS = replace(INTO, targets=STREAM.parts[1].layout)


def read(how: object, fits: list[Decomposition], rows: object = STREAM) -> list[Reading]:
    documents = Documents.of(rows, n_documents=None, seed=0)  # type: ignore[arg-type]
    return how([Subject(fit, rows=rows) for fit in fits], documents, 64, "test")  # type: ignore[operator,no-any-return]


def means(table: object) -> np.ndarray:  # type: ignore[type-arg]
    return table.toarray() if sparse.issparse(table) else np.asarray(table)  # type: ignore[attr-defined]


def test_features_stand_beside_what_is_read_and_atoms_beside_what_is_reconstructed() -> None:
    features, atoms = read(read_features, [ACROSS])[0], read(read_atoms, [ACROSS])[0]
    by_document = X.reshape(N, LENGTH, WIDTH).mean(1)
    np.testing.assert_allclose(features.raw.mean, by_document)
    np.testing.assert_allclose(atoms.raw.mean, -2 * by_document)
    codes = INTO.encode(X).dense().reshape(N, LENGTH, -1).mean(1)
    np.testing.assert_allclose(means(features.codes.mean), codes)
    np.testing.assert_allclose(means(atoms.codes.mean), codes)


def test_a_region_is_one_feature_and_several_atoms() -> None:
    generator = torch.Generator().manual_seed(0)
    regions = Dictionary.of_regions(
        torch.randn(2, WIDTH, generator=generator).double(), torch.randn(2, 3, WIDTH, generator=generator).double()
    )
    fit = replace(identity_fit(STREAM.parts[0]), dictionary=regions, encoder=random_sae(STREAM.parts[0], n_atoms=8).encoder)
    assert read(read_features, [fit])[0].codes.n_features == 2
    assert read(read_atoms, [fit])[0].codes.n_features == 8


def test_fits_share_one_reading_and_those_of_the_same_columns_their_pool() -> None:
    before = STREAM.n_reads
    one, other, across = read(read_features, [INTO, random_sae(STREAM.parts[0], seed=1), random_sae(STREAM.parts[1])])
    assert STREAM.n_reads == before + 1
    assert one.raw is other.raw and one.key == other.key and across.key != one.key
    np.testing.assert_array_equal(
        read(read_atoms, [INTO])[0].codes.mean.toarray(), read(read_atoms, [INTO, ACROSS])[0].codes.mean.toarray()
    )


def test_a_target_that_the_rows_do_not_hold_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="reconstructs another site, which the rows do not hold; harvest both sites"):
        read(read_atoms, [ACROSS], STREAM.parts[0])
    assert read(read_features, [ACROSS], STREAM.parts[0])[0].target is None


def test_long_columns_that_differ_in_the_middle_are_told_apart() -> None:
    """A tensor's own text leaves out the middle of a long one."""
    one = torch.arange(3000)
    other = one.clone()
    other[1000:2000] += 5000
    assert repr(one) == repr(other)
    assert columns_key(one) != columns_key(other)
    assert columns_key(one) == columns_key(one.clone()) and columns_key(slice(0, 3)) != columns_key(slice(0, 4))


def test_sites_that_differ_in_the_middle_are_read_apart() -> None:
    """Crosscoders of three sites of four: the first and the last are the same."""
    wide = torch.randn(2 * LENGTH, 1200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    source = ToyLM().source(RESID)
    sites = [replace(source.site, kind=kind) for kind in ("mlp_in", "mlp_act", "mlp_out", "resid_post")]
    tokens = in_documents(wide).tokens
    rows = SideBySide(
        *(TensorRows(wide + i, source=Source(source.model, source.revision, site), tokens=tokens) for i, site in enumerate(sites))
    )
    fits = []
    for places in ((0, 1, 3), (0, 2, 3)):
        layout = tuple(rows.layout[i] for i in places)
        fits.append(replace(random_sae(TensorRows(torch.zeros(2, 3600))), inputs=layout, targets=layout))
    one, other = read(read_features, fits, rows)
    assert not isinstance(columns_for(fits[0], rows.layout)[0], slice)
    np.testing.assert_allclose(one.raw.mean[:, 1200:2400] + 1, other.raw.mean[:, 1200:2400])


def test_cosines_of_several_fits_are_read_in_one_pass() -> None:
    features = read(read_features, [INTO, random_sae(STREAM.parts[1])])
    before, eye = STREAM.n_reads, torch.eye(WIDTH)
    one, other = largest_cosines([(features[0], eye[:2]), (features[1], eye[:3])], 64)
    assert STREAM.n_reads == before + 1
    cosine = torch.nn.functional.normalize(X, dim=1).reshape(N, LENGTH, WIDTH)
    np.testing.assert_allclose(one.largest, cosine[:, :, :2].amax(1), rtol=1e-6)
    np.testing.assert_allclose(other.largest, (-cosine[:, :, :3]).amax(1), rtol=1e-6)
