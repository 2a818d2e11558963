"""Semi-NMF: features are sparse, signed groups of neurons; codes are never negative.

    X^T = Z^T Y + residual        Y >= 0,  every row of Z has at most s entries that are not 0

Shafran, Geiger and Geva 2025, "Decomposing MLP Activations into Interpretable Features via Semi-Nonnegative Matrix Factorization" (arXiv
2506.10920), after Ding, Li and Jordan 2010. Ours is solved by exact updates (`updates`), on a schedule that finds the same features again
(`solver`), and streams (`stream`).
"""

from __future__ import annotations

from typing import ClassVar, final

from armillary.methods.snmf.factorisation import Factorisation


@final
class SemiNMF(Factorisation):
    """Semi-nonnegative matrix factorisation with sparse features (Shafran, Geiger and Geva 2025; Ding, Li and Jordan 2010).

    The fit has one direction of norm 1 per feature, without a base, those that explain most first. Its encoder solves non-negative least
    squares for a row's codes, to its optimality conditions.

    Warns:
        NotIdentifiableWarning: any number of neurons per feature, and no price on codes.
    """

    is_signed: ClassVar[bool] = True
