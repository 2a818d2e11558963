"""Mixture of factor analyzers. Read `mixture`, `em`, `start`, `moves` and `fit` in that order.

fit = armillary.MFA(n_regions=100, rank=10).fit(acts["resid_post.4"])
fit.with_encoder(armillary.mfa.Reading(how="hard"))             # centroid + local offset of one region
"""

from __future__ import annotations

from armillary.methods.mfa.encoder import MFAEncoder as MFAEncoder
from armillary.methods.mfa.encoder import Reading as Reading
