"""MFA: the mixture of factor analyzers as a method. Its parameters are in `mixture`, how they are found in `em`, `start`, `moves`, `fit`.

Ghahramani and Hinton (1996), "The EM algorithm for mixtures of factor analyzers"; of language models' activations: Shafran et al. 2026,
"From Directions to Regions" (arXiv 2602.02464).
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from pydantic import Field, PositiveInt, model_validator

from armillary.core import distributed
from armillary.core.decomposition import Decomposition
from armillary.core.devices import device_of
from armillary.core.method import Consumer, Method
from armillary.core.rows import Rows, width
from armillary.errors import InputError, ShapeError
from armillary.methods.mfa import plan
from armillary.methods.mfa.em import Noise
from armillary.methods.mfa.fit import Fit
from armillary.methods.mfa.gate import CANDIDATES, MANY
from armillary.methods.mfa.solver import step_rows
from armillary.methods.mfa.spectrum import Selection

#: Rows that are held in memory by default: at least so many, and so many per region.
MAX_ROWS, ROWS_PER_REGION = 65_536, 100
#: Entries of a batch that is made larger than asked for, 256 MB in float32.
LARGEST_BATCH = 1 << 26
#: Where these have more entries than this, 1 GiB in float32, fewer are held, but so many per region.
MAX_ENTRIES, FEWEST_PER_REGION = 1 << 28, 16


@final
class MFA(Method):
    """Mixture of factor analyzers: regions, each a centroid and a subspace around it, with one noise for all or one for each.

    The fit has one region per component, those of most weight first, its loadings along the principal axes of the region. Codes are
    responsibilities on centroids and responsibility times posterior mean on loadings; `fit.encoder` has log-likelihoods, responsibilities
    and posteriors, `arm.mfa` other readings and whatever else can be done with a fit. `start`: go on from another fit's regions.

    Raises:
        InputError: a rank at or above the width.
    """

    invariances: ClassVar[frozenset[Literal["scale", "shift", "rotation"]]] = frozenset({"scale", "shift"})

    n_regions: int = Field(ge=1)
    """K, how many regions."""
    rank: int = Field(default=10, ge=1)
    """R, loadings of each region."""
    noise: Noise = "diagonal"
    """Variance per column, or one for all columns; the same for all regions, or one for each."""
    init: Literal["kmeans_pca", "random"] = "kmeans_pca"
    """Clusters of a sketch and their principal axes, or random rows and small random loadings."""
    solver: Literal["stepwise", "em", "adam"] = "stepwise"
    """After the sample: a pass in random order that learns from every batch and then exact passes, or exact passes alone; or gradients."""
    gating: Literal["auto"] | PositiveInt | None = "auto"
    """Regions considered for a row: so many, all (None), or 16 from 512 regions on."""
    split_merge: bool = True
    """Whether regions that hold two clusters are split at the cost of regions that others could do without."""
    rank_selection: Selection | None = None
    """Give up axes that are no more than noise, so that regions have ranks of their own up to `rank`: by their spectrum, or by BIC."""
    n_iter: int = Field(default=50, ge=0)
    """Steps of EM on the sample at most, besides those between moves; none for 512 regions and more where there are more rows."""
    n_passes: int = Field(default=4, ge=0)
    """Exact passes over all rows at most, where there are more than the sample; with Adam, passes."""
    tol: float = Field(default=1e-3, ge=0)
    """Stop when a step or a pass gains less than so many nats per row."""
    max_rows: int | None = Field(default=None, ge=1)
    """Rows held in memory.  [default: 100 per region, at least 65,536; of more than 1 GiB no more than 16 per region]"""
    batch_size: int = Field(default=8192, ge=1)
    """Rows per batch, over all ranks; more after the sample where there are many regions: 16 of each, as far as 256 MB hold them."""
    step_size: int = Field(default=1024, ge=1)
    """Rows per step of Adam, over all ranks."""
    learning_rate: float = Field(default=5e-3, gt=0)
    """Of Adam."""
    shard: bool = False
    """Share the regions among the ranks instead of the rows, for a mixture too large for one device."""
    device: str | None = None
    """Where to fit, such as "cuda".  [default: where the rows are]"""

    @model_validator(mode="after")
    def _check_adam(self) -> MFA:
        if self.solver == "adam" and (self.shard or self.rank_selection):
            name = "shard" if self.shard else "rank_selection"
            raise ValueError(f"{name} and solver='adam' do not go together; it works with solver='stepwise' or 'em'")
        return self

    @property
    def n_candidates(self) -> int | None:
        """Regions considered for a row; None for all."""
        if self.gating == "auto":
            return CANDIDATES if self.n_regions >= MANY else None
        return None if self.gating is None or self.gating >= self.n_regions else self.gating

    def n_in_memory(self, d: int) -> int:
        """Rows of width `d` of the sample at most."""
        if self.max_rows is not None:
            return self.max_rows
        most = max(self.min_rows(d), FEWEST_PER_REGION * self.n_regions, MAX_ENTRIES // d)
        return min(max(MAX_ROWS, ROWS_PER_REGION * self.n_regions), most)

    @property
    def step_rows(self) -> int:
        """Rows of a step of stepwise EM, over all ranks."""
        return step_rows(self.n_regions)

    def n_in_batch(self, d: int) -> int:
        """Rows of width `d` in a batch after the sample, over all ranks: as many as a step takes, if these are not too large."""
        return max(self.batch_size, min(self.step_rows, LARGEST_BATCH // d))

    def memory(self, d: int, n_rows: int | None = None, *, world: int = 1) -> dict[str, int]:
        k = -(-self.n_regions // world) if self.shard else self.n_regions
        n = self.n_in_memory(d) if n_rows is None else min(n_rows, self.n_in_memory(d))
        return plan.memory(plan.Sizes(k, self.rank, d, n, self.n_in_batch(d) // (1 if self.shard else world)))

    def consumer(self, data: Rows, *, seed: int, start: Decomposition | None) -> Consumer:
        d = width(data.layout)
        if self.rank >= d:
            raise InputError(f"rank must be below the width D={d}, got {self.rank}; try rank={max(1, d // 4)}")
        if self.n_in_memory(d) < self.min_rows(d):
            raise InputError(f"max_rows must be at least {self.min_rows(d)} for this fit, got {self.max_rows}; leave it out for enough")
        if self.device is not None:
            device_of(self.device)
        if self.shard and self.n_regions < 2 * distributed.world():
            raise InputError(f"{distributed.world()} ranks cannot share {self.n_regions} regions: each needs two; leave shard out")
        if start is not None and (start.n_features, start.dictionary.d) != (self.n_regions, d):
            raise ShapeError(f"start has {start.n_features} features of width {start.dictionary.d}, this fit {self.n_regions} of width {d}")
        return Fit(self, data.layout, seed, start)

    def min_rows(self, d: int) -> int:
        return max(self.n_regions, self.rank + 2)
