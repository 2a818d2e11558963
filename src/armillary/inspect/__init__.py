"""What a feature page shows: the contexts a feature fires in, the tokens it promotes, and the sites it lies at."""

from __future__ import annotations

from armillary.inspect.contexts import Contexts as Contexts
from armillary.inspect.contexts import Window as Window
from armillary.inspect.contexts import contexts as contexts
from armillary.inspect.logits import LogitEffect as LogitEffect
from armillary.inspect.logits import logit_effects as logit_effects
from armillary.inspect.shares import site_shares as site_shares

__all__ = ["Contexts", "LogitEffect", "Window", "contexts", "logit_effects", "site_shares"]
