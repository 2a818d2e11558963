"""How large the demo's fits are: a function of the text and the model alone, so that the same input gives the same bits.

Letters: N rows, D width, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

from armillary.core.method import Method
from armillary.errors import TooFewRowsError
from armillary.methods.kmeans import KMeans
from armillary.methods.pca import PCA
from armillary.methods.sae.topk import TopKSAE

#: What is aimed at where text and time allow it.
TOKENS, FEATURES, CODES, CLUSTERS, STEPS, BATCH = 100_000, 2_048, 32, 256, 800, 2_048
#: A model of so many parameters is read at full length; larger ones get less text, at least `LEAST_TOKENS`.
PARAMETERS, LEAST_TOKENS = 50_000_000, 20_000
#: Rows below which nothing worth looking at can be fitted.
LEAST_ROWS = 64
#: features * width * steps that two cores get through in about a minute.
WORK = 1.2e9
LEAST_STEPS = 150
#: The loss is measured on one of the rows kept from the fits in so many.
LOSS_SHARE = 2
#: Rows below which none are kept from the fits.
LEAST_HELD_OUT = 512


def n_tokens_for(n_parameters: int) -> int:
    """Tokens to read where the user did not say: fewer for models so large that the run would take more than minutes."""
    return max(LEAST_TOKENS, min(TOKENS, TOKENS * PARAMETERS // max(n_parameters, 1)))


@dataclass(frozen=True)
class Sizes:
    """Sizes of the fits at one site.

    Args:
        n_features, k, n_steps, batch_size: of the TopK SAE.
        n_components: of PCA; k of them, so that both describe a token by as many numbers.
        n_clusters: of k-means.
    """

    n_features: int
    k: int
    n_steps: int
    batch_size: int
    n_components: int
    n_clusters: int

    @staticmethod
    def of(n: int, d: int) -> Sizes:
        """The sizes for N rows of width D.

        Raises:
            TooFewRowsError: too few rows for anything.
        """
        if n < LEAST_ROWS:
            raise TooFewRowsError(f"the text gives {n} tokens, the demo needs at least {LEAST_ROWS}; give a longer --text")
        n_features = min(FEATURES, max(8, n // 32))
        batch = min(BATCH, max(16, n // 4))
        steps = round(min(STEPS, WORK / (n_features * d), 40 * n / batch))
        k = min(CODES, max(2, n_features // 32))
        return Sizes(n_features, k, max(LEAST_STEPS, steps), batch, min(k, d, n // 2), min(CLUSTERS, max(2, n // 40)))

    def methods(self) -> dict[str, Method]:
        """The three fits by their name on the command line."""
        sae = TopKSAE(n_features=self.n_features, k=self.k, n_steps=self.n_steps, batch_size=self.batch_size)
        return {"topk-sae": sae, "kmeans": KMeans(n_features=self.n_clusters), "pca": PCA(n_components=self.n_components)}

    def remark(self, n: int) -> str:
        """What was made smaller for want of text; "" if nothing was."""
        if self.n_features == FEATURES:
            return ""
        return (
            f"The text gives only {n:,} tokens, so the fits are small: {self.n_features} SAE features of which {self.k} are used per token "
            f"(with enough text {FEATURES:,} and {CODES}), {self.n_components} components, {self.n_clusters} clusters."
        )
