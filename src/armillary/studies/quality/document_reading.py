"""What several fits, and the raw dimensions they read, do in every document: one pass over the rows for all of them.

Letters: N rows, n documents, F features, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from armillary.core.codes import Codes, dense_codes
from armillary.core.columns import Columns, columns_for
from armillary.core.decomposition import Decomposition, feature_activations
from armillary.core.method import Pass
from armillary.core.rows import width
from armillary.core.run import drive
from armillary.core.study import Subject
from armillary.studies.quality.pooled import Documents, Pool, Pooled


@dataclass(frozen=True)
class Reading:
    """One subject, read.

    Args:
        subject: it.
        documents: the documents.
        columns: of the rows that its fit reads.
        target: those that it reconstructs, where the rows hold them.
        codes: its features' activations, pooled.
        raw: the columns themselves, pooled; shared by the subjects that read the same ones.
    """

    subject: Subject
    documents: Documents
    columns: Columns
    target: Columns | None
    codes: Pooled
    raw: Pooled

    @property
    def key(self) -> str:
        """Equal for subjects that read the same columns."""
        return repr(self.columns)


def read_documents(subjects: Sequence[Subject], documents: Documents, batch_size: int, title: str) -> list[Reading]:
    """One pass over the documents' rows, for all subjects that share them."""
    order = Pass(batch_size)
    columns = [columns_for(subject.fit(), documents.rows.layout) for subject in subjects]
    raw: dict[str, Pool] = {}
    pools = []
    for subject, (read, target) in zip(subjects, columns, strict=True):
        fit = subject.fit()
        if repr(read) not in raw:
            raw[repr(read)] = Pool(_columns(read), width(fit.inputs), None, documents, order)
        pools.append(Pool(_activations(fit, read, target), fit.n_features, fit.encoder.fires, documents, order))
    drive([*raw.values(), *pools], documents.rows, title=title)
    finished = {key: pool.finish() for key, pool in raw.items()}
    return [
        Reading(subject, documents, read, target, pool.finish(), finished[repr(read)])
        for subject, (read, target), pool in zip(subjects, columns, pools, strict=True)
    ]


def _columns(read: Columns) -> Callable[[Tensor], Codes]:
    return lambda x: dense_codes(x[:, read].double())


def _activations(fit: Decomposition, read: Columns, target: Columns | None) -> Callable[[Tensor], Codes]:
    """Activations of a fit's features; searching encoders are shown their target where the rows hold it."""
    atoms = fit.dictionary.atoms

    def activations(x: Tensor) -> Codes:
        here = x.to(atoms.device)
        is_other = fit.inputs != fit.targets and target is not None
        codes = fit.encode(here[:, read], target=here[:, target].to(atoms.dtype) if is_other and target is not None else None)
        return feature_activations(fit.dictionary, codes)

    return activations


def largest_cosines(documents: Documents, columns: Columns, directions: Tensor, batch_size: int) -> Pooled:
    """Over the tokens of each document, the cosine with each of some directions [k, D]."""
    unit = torch.nn.functional.normalize(directions.double(), dim=1)

    def cosines(x: Tensor) -> Codes:
        rows = torch.nn.functional.normalize(x[:, columns].double(), dim=1)
        return dense_codes(rows @ unit.T.to(rows.device))

    pool = Pool(cosines, len(directions), None, documents, Pass(batch_size))
    drive([pool], documents.rows, title="cosines")
    return pool.finish()
