"""Mixture of factor analyzers. Read `mixture`, `em`, `start`, `moves` and `fit` in that order.

fit = armillary.MFA(n_regions=100, rank=10).fit(acts["resid_post.4"])
fit.with_encoder(armillary.mfa.Reading(how="hard"))             # centroid + local offset of one region
lm.generate(text, edits=[armillary.mfa.place(fit, 3, [2.0])])   # and other edits: `edits`
armillary.mfa.neighbors(fit, 3); armillary.mfa.split(fit, 3)    # and other things that can be done with a fit: `regions`
"""

from __future__ import annotations

from armillary.methods.mfa.criteria import Criteria as Criteria
from armillary.methods.mfa.criteria import criteria as criteria
from armillary.methods.mfa.criteria import n_parameters as n_parameters
from armillary.methods.mfa.edits import guarded as guarded
from armillary.methods.mfa.edits import offset as offset
from armillary.methods.mfa.edits import place as place
from armillary.methods.mfa.edits import toward as toward
from armillary.methods.mfa.edits import transport as transport
from armillary.methods.mfa.edits import typical as typical
from armillary.methods.mfa.encoder import MFAEncoder as MFAEncoder
from armillary.methods.mfa.encoder import Reading as Reading
from armillary.methods.mfa.mixture import Mixture as Mixture
from armillary.methods.mfa.regions import effective_ranks as effective_ranks
from armillary.methods.mfa.regions import grow as grow
from armillary.methods.mfa.regions import merge as merge
from armillary.methods.mfa.regions import neighbors as neighbors
from armillary.methods.mfa.regions import overlap as overlap
from armillary.methods.mfa.regions import prune as prune
from armillary.methods.mfa.regions import ranks as ranks
from armillary.methods.mfa.regions import regions_at as regions_at
from armillary.methods.mfa.regions import rotate as rotate
from armillary.methods.mfa.regions import sample as sample
from armillary.methods.mfa.regions import split as split
from armillary.methods.mfa.selection import Selection as Selection
from armillary.methods.mfa.selection import select as select
