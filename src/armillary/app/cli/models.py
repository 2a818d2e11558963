"""The options that say how a model is loaded, shared by the commands that take one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from armillary.lm.model import LanguageModel
