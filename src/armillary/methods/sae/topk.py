"""TopK sparse autoencoder.

    a = TopK(W_enc (x - b_dec) + b_enc)        x_hat = W_dec^T a + b_dec        L = |x - x_hat|^2 + alpha |e - e_hat|^2

Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093), eq. 3 to 5 and AuxK (appendix A.2). The step that
trains it is `step.gradients`.
"""

from __future__ import annotations

from typing import final

from armillary.methods.sae.fit import KSparseSAE
from armillary.methods.sae.step import Selection, TopK


@final
class TopKSAE(KSparseSAE):
    """A sparse autoencoder in which k latents at most fire for each row; features are directions of norm 1.

    Source: Gao et al. 2024, arXiv 2406.04093.

    Raises:
        InputError: k is above n_features.
    """

    def selection(self) -> Selection:
        return TopK(self.k)
