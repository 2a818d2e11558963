"""What the passes over the rows gave for one subject of the regions study.

Letters: U units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from armillary.core.encoders import MixtureEncoder
from armillary.core.provenance import of_rows
from armillary.core.rows import Rows
from armillary.core.statistics import Floats
from armillary.core.study import Subject
from armillary.studies.quality.region_baselines import Scored
from armillary.studies.quality.region_counts import Members
from armillary.studies.quality.region_sums import Found, Reads


@dataclass(frozen=True)
class Measured:
    """What the passes over the rows gave for one subject.

    Args:
        subject: it.
        rows: what was read, and
        reads: how.
        found: the fit's sums.
        scored: the baselines, and which of their sets of centroids is the subject's; None where they were left out.
    """

    subject: Subject
    rows: Rows
    reads: Reads
    found: Found
    scored: tuple[Scored, int] | None

    @property
    def is_mixture(self) -> bool:
        return isinstance(self.subject.fit().encoder, MixtureEncoder)

    @cached_property
    def gaussian(self) -> Floats | str:
        """[U] sums of the one Gaussian's log-likelihood, or why there is none."""
        return "switched off by baselines=False" if self.scored is None else self.scored[0].gaussian

    @cached_property
    def spheres(self) -> Floats | str:
        """[U] the same of spheres about the subject's centroids."""
        return "switched off by baselines=False" if self.scored is None else self.scored[0].spheres[self.scored[1]]

    @cached_property
    def tokens(self) -> Members:
        return Members.of(self.found.tokens, self.subject.fit().n_features)

    @cached_property
    def documents(self) -> Members:
        return Members.of(self.found.documents, self.subject.fit().n_features)

    @cached_property
    def is_own(self) -> bool:
        """Whether rows that the fit was made from are among them."""
        made_from, record = self.subject.fit().provenance, of_rows(self.rows)
        if "data_sha256" in record:
            return bool(made_from.get("data_sha256") == record["data_sha256"])
        if "text_sha256" not in record or made_from.get("text_sha256") != record["text_sha256"]:
            return False
        seen, here = made_from.get("windows"), record.get("windows")  # [first, last) sequences of the text, or all
        return seen is None or here is None or bool(max(seen[0], here[0]) < min(seen[1], here[1]))
