"""What a feature page shows: the contexts a feature fires in, the tokens it promotes, and the sites it lies at.
Labels put it into a few words, by a judge or from tokens.

Of a mixture's regions: their contexts by likelihood, by responsibility, at the border and at the ends of their axes; their neighbours.
"""

from __future__ import annotations

from armillary.inspect.agreement import region_agreement as region_agreement
from armillary.inspect.asking import Judge as Judge
from armillary.inspect.contexts import Contexts as Contexts
from armillary.inspect.contexts import contexts as contexts
from armillary.inspect.judges import LocalJudge as LocalJudge
from armillary.inspect.judges import ReplayJudge as ReplayJudge
from armillary.inspect.labels import Label as Label
from armillary.inspect.labels import label as label
from armillary.inspect.logits import LogitEffect as LogitEffect
from armillary.inspect.logits import RegionEffects as RegionEffects
from armillary.inspect.logits import direction_effects as direction_effects
from armillary.inspect.logits import logit_effects as logit_effects
from armillary.inspect.logits import region_effects as region_effects
from armillary.inspect.neighborhoods import Neighborhoods as Neighborhoods
from armillary.inspect.neighborhoods import neighborhoods as neighborhoods
from armillary.inspect.region_search import region_contexts as region_contexts
from armillary.inspect.regions import RegionContexts as RegionContexts
from armillary.inspect.regions import RegionWindows as RegionWindows
from armillary.inspect.shares import site_shares as site_shares
from armillary.inspect.url_judge import UrlJudge as UrlJudge
from armillary.inspect.windows import Window as Window

__all__ = [
    "Contexts",
    "Judge",
    "Label",
    "LocalJudge",
    "LogitEffect",
    "Neighborhoods",
    "RegionContexts",
    "RegionEffects",
    "RegionWindows",
    "ReplayJudge",
    "UrlJudge",
    "Window",
    "contexts",
    "direction_effects",
    "label",
    "logit_effects",
    "neighborhoods",
    "region_agreement",
    "region_contexts",
    "region_effects",
    "site_shares",
]
