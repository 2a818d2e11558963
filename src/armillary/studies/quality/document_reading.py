"""What several fits, and the columns of the rows beside them, do in every document: one pass over the rows for all of them.

Letters: N rows, n documents, F features, M atoms, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from armillary.core.codes import Codes, dense_codes
from armillary.core.columns import Columns, columns_for, columns_key
from armillary.core.decomposition import Decomposition, feature_activations
from armillary.core.method import Pass
from armillary.core.rows import width
from armillary.core.run import drive
from armillary.core.study import Subject
from armillary.errors import InputError
from armillary.studies.quality.pooled import Documents, Pool, Pooled


@dataclass(frozen=True)
class Reading:
    """One subject, read.

    Args:
        subject: it.
        documents: the documents.
        target: columns of the rows that its fit reconstructs, where the rows hold them.
        codes: what its fit makes of the rows, pooled.
        raw: the columns themselves, pooled; shared by the subjects that ask for the same ones.
        key: equal for subjects with the same columns.
    """

    subject: Subject
    documents: Documents
    target: Columns | None
    codes: Pooled
    raw: Pooled
    key: str


def read_features(subjects: Sequence[Subject], documents: Documents, batch_size: int, title: str) -> list[Reading]:
    """Activations of the fits' features, beside the columns that the fits read."""
    return _read([_features(subject, documents) for subject in subjects], documents, batch_size, title)


def read_atoms(subjects: Sequence[Subject], documents: Documents, batch_size: int, title: str) -> list[Reading]:
    """Codes of the fits' atoms, beside the columns that the fits reconstruct.

    Raises:
        InputError: the rows do not hold what a fit reconstructs.
    """
    return _read([_atoms(subject, documents) for subject in subjects], documents, batch_size, title)


# ---------------------------------------------------------------- what is read


@dataclass(frozen=True)
class _Asked:
    """What is pooled for one subject.

    Args:
        subject: it.
        target: columns that its fit reconstructs.
        columns: those that are pooled as they are.
        width: how many they are.
        codes: of a batch's x.
        n_codes: columns of these codes.
        fires: the magnitude above which a code counts; None to keep them all.
    """

    subject: Subject
    target: Columns | None
    columns: Columns
    width: int
    codes: Callable[[Tensor], Codes]
    n_codes: int
    fires: float | None


def _features(subject: Subject, documents: Documents) -> _Asked:
    fit = subject.fit()
    read, target = columns_for(fit, documents.rows.layout)
    encode = _encoder(fit, read, target)

    def activations(x: Tensor) -> Codes:
        return feature_activations(fit.dictionary, encode(x))

    return _Asked(subject, target, read, width(fit.inputs), activations, fit.n_features, fit.encoder.fires)


def _atoms(subject: Subject, documents: Documents) -> _Asked:
    fit = subject.fit()
    read, target = columns_for(fit, documents.rows.layout)
    if target is None:
        raise InputError(f"{subject.label} reconstructs another site, which the rows do not hold; harvest both sites")
    fires = None if fit.encoder.fires is None else 0.0  # all that is decoded counts
    return _Asked(subject, target, target, width(fit.targets), _encoder(fit, read, target), fit.dictionary.n_atoms, fires)


def _encoder(fit: Decomposition, read: Columns, target: Columns | None) -> Callable[[Tensor], Codes]:
    """Codes of a batch's x; searching encoders are shown their target where the rows hold it."""
    atoms = fit.dictionary.atoms
    shown = None if fit.inputs == fit.targets else target

    def encode(x: Tensor) -> Codes:
        here = x.to(atoms.device)
        return fit.encode(here[:, read], target=None if shown is None else here[:, shown].to(atoms.dtype))

    return encode


def _read(asked: Sequence[_Asked], documents: Documents, batch_size: int, title: str) -> list[Reading]:
    order = Pass(batch_size)
    keys = [columns_key(one.columns) for one in asked]
    raw = {key: Pool(_columns(one.columns), one.width, None, documents, order) for key, one in dict(zip(keys, asked, strict=True)).items()}
    pools = [Pool(one.codes, one.n_codes, one.fires, documents, order) for one in asked]
    drive([*raw.values(), *pools], documents.rows, title=title)
    finished = {key: pool.finish() for key, pool in raw.items()}
    return [
        Reading(one.subject, documents, one.target, pool.finish(), finished[key], key)
        for one, key, pool in zip(asked, keys, pools, strict=True)
    ]


def _columns(columns: Columns) -> Callable[[Tensor], Codes]:
    return lambda x: dense_codes(x[:, columns].double())


# ---------------------------------------------------------------- cosines


def largest_cosines(asked: Sequence[tuple[Reading, Tensor]], batch_size: int) -> list[Pooled]:
    """Over the tokens of each document, the cosines of what fits reconstruct with directions [k, D] of theirs; one pass for all.

    Args:
        asked: readings of the same documents, whose rows hold what their fits reconstruct, each with its directions.
        batch_size: rows per batch.
    """
    documents, order = asked[0][0].documents, Pass(batch_size)
    pools = [Pool(_cosines(one, directions), len(directions), None, documents, order) for one, directions in asked]
    drive(pools, documents.rows, title="cosines")
    return [pool.finish() for pool in pools]


def _cosines(one: Reading, directions: Tensor) -> Callable[[Tensor], Codes]:
    unit = torch.nn.functional.normalize(directions.double(), dim=1)

    def cosines(x: Tensor) -> Codes:
        rows = torch.nn.functional.normalize(x[:, one.target].double(), dim=1)
        return dense_codes(rows @ unit.T.to(rows.device))

    return cosines
