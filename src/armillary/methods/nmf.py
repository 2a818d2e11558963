"""NMF: neither features nor codes are negative, for rows that are not negative either.

    X^T = Z^T Y + residual        Z >= 0,  Y >= 0

Lee and Seung 1999, "Learning the parts of objects by non-negative matrix factorization"; solved as `snmf` is, by hierarchical alternating
least squares (Cichocki and Phan 2009).
"""

from __future__ import annotations

from typing import ClassVar, final

from armillary.methods.snmf.factorisation import Factorisation, Neurons


@final
class NMF(Factorisation):
    """Non-negative matrix factorisation (Lee and Seung 1999; Cichocki and Phan 2009).

    The fit has one direction of norm 1 per feature, without a base, those that explain most first.
    """

    is_signed: ClassVar[bool] = False

    neurons_per_feature: Neurons | None = None
    """Neurons with a weight in a feature, at most: a count, or a share of all; None for any number."""
