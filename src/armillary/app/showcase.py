"""Which features a page shows, and what it shows of each. The choice follows a stated rule and a seed: nothing is hand-picked.

Letters: F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from armillary.core.decomposition import Decomposition
from armillary.core.model import Model
from armillary.core.report import number
from armillary.core.rows import Rows
from armillary.errors import CapabilityError
from armillary.inspect import LogitEffect, Window, contexts, logit_effects

#: A feature that fires on fewer tokens is hard to judge, one that fires on more is rarely about one thing.
BAND = (1e-4, 0.1)
#: Features of each kind on a page.
N_STRONGEST, N_RANDOM = 4, 2
Why = Literal["strongest", "random", "named"]


@dataclass(frozen=True)
class Shown:
    """One feature on a page.

    Args:
        feature: its number.
        why: among the strongest by the rule of `choose`, drawn at random, or asked for.
        density: share of tokens it fires on; None where every coefficient is used.
        top: contexts with its largest activations, one per document.
        sample: contexts drawn uniformly from the tokens it fires on.
        is_graded: whether its activations differ; a k-means cluster's do not, so its `top` says nothing that `sample` does not.
        effect: tokens it promotes and suppresses, or None with `no_effect` saying why.
        no_effect: "" if there is an effect.
    """

    feature: int
    why: Why
    density: float | None
    top: Sequence[Window]
    sample: Sequence[Window]
    is_graded: bool
    effect: LogitEffect | None
    no_effect: str = ""

    @property
    def largest(self) -> float:
        """The largest activation."""
        return max((abs(window.value) for window in self.top or self.sample), default=0.0)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        how_often = "" if self.density is None else f", fires on {self.density:.2%} of tokens"
        yield Text(f"Feature {self.feature}{how_often}", style="bold")
        groups = {"strongest": self.top if self.is_graded else (), "sampled": self.sample}
        for name, windows in groups.items():
            yield from [Text(f"  {name}", style="dim")] * bool(windows)
            yield from (_line(window, self.largest) for window in windows)
        if self.effect is not None:
            yield from _effect_lines(self.effect)
        elif self.no_effect:
            yield Text(f"  no promoted tokens: {self.no_effect}", style="dim")


def choose(table: Mapping[str, Sequence[Any]], *, n: int = N_STRONGEST, n_random: int = N_RANDOM, seed: int) -> dict[int, Why]:
    """Features to show: the `n` with most activation in all (density times mean activation) among those whose density lies in `BAND`, or
    among all that fire where none does or density does not apply; then `n_random` drawn from the others that fire.

    Args:
        table: the fidelity study's table of features.
    """
    density = np.array([np.nan if value is None else value for value in table["density"]], dtype=np.float64)  # [F]
    mass = np.where(np.isnan(density), 1.0, density) * np.array(table["mean_activation"], dtype=np.float64)  # [F]
    alive = mass > 0
    in_band = alive & (density >= BAND[0]) & (density <= BAND[1])
    strongest = _largest(mass, in_band if in_band.any() else alive, n)
    others = np.setdiff1d(np.flatnonzero(alive), strongest)
    drawn = np.random.default_rng(seed).permutation(others)[:n_random]
    chosen: dict[int, Why] = {int(i): "strongest" for i in strongest}
    return {**chosen, **{int(i): "random" for i in drawn}}


def _largest(mass: NDArray[np.float64], allowed: NDArray[np.bool_], n: int) -> NDArray[np.int64]:
    """Up to `n` allowed features, largest mass first, ties by number."""
    order = np.argsort(-mass, kind="stable")
    return order[allowed[order]][:n]


def look(
    fit: Decomposition,
    rows: Rows,
    features: Mapping[int, Why],
    *,
    model: Model | None,
    n_top: int = 4,
    n_sample: int = 3,
    n_tokens: int = 5,
    seed: int = 0,
) -> list[Shown]:
    """Contexts and logit effects of the given features, in one pass over the rows."""
    found = contexts(
        fit,
        rows,
        n_top=n_top,
        n_quantiles=1,
        per_quantile=n_sample,
        features=list(features),
        one_per_document=_n_texts(rows) >= n_top,
        seed=seed,
    )
    effects, reason = _effects(model, fit, list(features), n_tokens)
    counts = fit.encoder.fires is not None
    return [
        Shown(
            feature=feature,
            why=why,
            density=found.density(feature) if counts else None,
            top=found.windows(feature),
            sample=found.quantile_windows(feature)[0],
            is_graded=len(set(found.top(feature)[1])) > 1 or len(found.top(feature)[1]) < 2,
            effect=effects.get(feature),
            no_effect=reason,
        )
        for feature, why in features.items()
    ]


def _n_texts(rows: Rows) -> int:
    return 0 if rows.tokens is None else len(np.unique(rows.tokens.document))


def _effects(model: Model | None, fit: Decomposition, features: list[int], k: int) -> tuple[dict[int, LogitEffect], str]:
    """Logit effects by feature, or why there are none."""
    if model is None:
        return {}, "no model was given"
    try:
        return {effect.feature: effect for effect in logit_effects(model, fit, features, k)}, ""
    except CapabilityError as error:
        return {}, str(error)


# ---------------------------------------------------------------- in a terminal


def _line(window: Window, largest: float) -> Text:
    """One context on a line, tokens brighter where the feature is stronger, the centre in «marks»."""
    line = Text(f"  {number(window.value):>9}  ", style="dim", no_wrap=True, overflow="ellipsis")
    for i, (token, value) in enumerate(zip(window.tokens, window.activations, strict=True)):
        share = abs(value or 0.0) / (largest or 1.0)
        weight = "bold " if share > 0.5 else ""
        colour = "default" if share <= 0 else "blue" if (value or 0.0) > 0 else "red"
        shown = token.replace("\n", "↵")
        line.append(f"«{shown}»" if i == window.centre else shown, style=f"{weight}{colour} not dim")
    return line


def _effect_lines(effect: LogitEffect) -> Iterator[Text]:
    for name, tokens, z in (("promotes", effect.promoted, effect.z_promoted), ("suppresses", effect.suppressed, effect.z_suppressed)):
        words = "  ".join(f"{token.token!r} {token.logit:+.2f}" for token in tokens)
        yield Text(f"  {name:<10} {words}   ({z:.1f} standard deviations beyond random directions)")
