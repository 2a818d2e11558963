"""What is shown of a mixture's regions: their contexts in five groups, their neighbours, and the tokens they promote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from armillary.core.decomposition import Decomposition
from armillary.core.encoders import MixtureEncoder
from armillary.core.model import Model
from armillary.core.report import number
from armillary.core.rows import Rows
from armillary.errors import CapabilityError
from armillary.inspect import RegionEffects, RegionWindows, Window, neighborhoods, region_contexts, region_effects
from armillary.inspect.logits import TokenEffect

#: A row is at the border where both regions hold at least this much of it.
AT_BORDER = 0.01
#: Neighbours that are listed, tokens that stand for a region, and rows at each end of an axis.
N_NEIGHBORS, N_TOKENS, N_AXIS = 5, 6, 3
#: Columns of a line before its text.
LABEL = 15
Tokens = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Neighbor:
    """A region nearby.

    Args:
        region: its number.
        overlap: Bhattacharyya coefficient with the region shown, 0 to 1.
        tokens: its members' most frequent tokens, with how often each was drawn.
    """

    region: int
    overlap: float
    tokens: Tokens


@dataclass(frozen=True)
class ShownRegion:
    """One region on a page.

    Args:
        region: its number.
        weight: share of the rows that the mixture expects it to hold.
        share: share of the rows that are its members: whose most responsible region it is.
        n_members: and how many.
        tokens: its members' most frequent tokens, with how often each was drawn.
        contexts: its rows, group by group.
        neighbors: the regions that overlap most with it.
        effects: tokens its centroid and axes promote, or None with `no_effect` saying why.
        no_effect: "" if there are effects.
    """

    region: int
    weight: float
    share: float
    n_members: int
    tokens: Tokens
    contexts: RegionWindows
    neighbors: tuple[Neighbor, ...]
    effects: RegionEffects | None
    no_effect: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        members = f"{self.n_members:,} members ({self.share:.2%} of tokens)"
        yield Text(f"Region {self.region}: {members}, weight {self.weight:.2%}", style="bold")
        yield from self._about()
        left = min(max(1, (options.max_width - LABEL) * 3 // 5), max((len(_before(window)) for window in self._windows()), default=0))
        yield from self._groups(left)
        for j in range(len(self.contexts.low)):
            yield from self._axis(j, left)
        if self.effects is not None:
            yield Text(
                "  sd: standard deviations of the first token beyond what random directions promote; below 3 they say little", style="dim"
            )
        yield Text("")

    def _windows(self) -> Iterator[Window]:
        shown = self.contexts
        for windows in (shown.likelihood, shown.responsibility, shown.border, shown.drawn, *shown.low, *shown.high):
            yield from windows

    def _about(self) -> Iterator[Text]:
        """What it is made of, what it promotes, and what is near."""
        if self.tokens:
            yield _labelled("tokens", _listed(self.tokens))
        if self.effects is not None:
            centroid = self.effects.centroid
            yield _labelled("promotes", _promoted(centroid.promoted, centroid.z_promoted))
            yield _labelled("suppresses", _promoted(centroid.suppressed, centroid.z_suppressed))
        elif self.no_effect:
            yield Text(f"  no promoted tokens: {self.no_effect}", style="dim")
        for i, near in enumerate(self.neighbors):
            yield _labelled("" if i else "overlaps", f"{near.region:>5}  by {near.overlap:<8.2g} {_listed(near.tokens)}")

    def _groups(self, left: int) -> Iterator[Text]:
        shown = self.contexts
        yield from _group("most likely", "log p(x | region), nats", [(window, number(window.value)) for window in shown.likelihood], left)
        odds = [(window, f"{window.value:+.1f}") for window in shown.responsibility]
        yield from _group("most responsible", "log odds against all other regions, nats", odds, left)
        pairs = zip(shown.border, shown.neighbors, strict=True)
        border = [(window, f"{window.value:.2f} {other:>5}") for window, other in pairs if window.value >= AT_BORDER]
        yield from _group("at the border", "the smaller of the two responsibilities, and the other region", border, left)
        if shown.border and not border:
            yield _title("at the border", f"no token is shared with another region by {AT_BORDER:.0%} or more")
        drawn = [(window, f"{window.value:.2f}") for window in shown.drawn]
        yield from _group("drawn", "uniformly from all members; responsibility", drawn, left)

    def _axis(self, j: int, left: int) -> Iterator[Text]:
        """An axis from its high end to its low one, with what each promotes."""
        effect = None if self.effects is None else self.effects.axes[j]
        high = "" if effect is None else _promoted(effect.promoted, effect.z_promoted)
        low = "" if effect is None else _promoted(_turned(effect.suppressed), effect.z_suppressed)
        for sign, windows, promoted in (("+", self.contexts.high[j], high), ("-", self.contexts.low[j], low)):
            about = f"promotes {promoted}" if promoted else "coordinate, standard deviations"
            yield from _group(f"axis {j} {sign}", about, [(window, f"{window.value:+.2f}") for window in windows], left)


def look_at_regions(
    fit: Decomposition,
    rows: Rows,
    regions: Sequence[int],
    *,
    model: Model | None,
    n: int = 4,
    n_drawn: int = 4,
    n_axis: int = N_AXIS,
    n_tokens: int = 5,
    seed: int = 0,
) -> list[ShownRegion]:
    """Contexts, neighbours and logit effects of regions of a mixture, in one pass over the rows.

    Raises:
        InputError: the fit is no mixture, or a region is not there.
    """
    near = neighborhoods(fit, N_NEIGHBORS, regions=regions)
    around = [other for region in regions for other, _ in near.of(region)]
    found = replace(region_contexts(fit, rows, n=n, n_axis=n_axis, regions=[*regions, *around], seed=seed), n_drawn=n_drawn)
    effects, reason = _effects(model, fit, regions, n_tokens)
    assert isinstance(fit.encoder, MixtureEncoder)
    weight = fit.encoder.weights.tolist()
    return [
        ShownRegion(
            region=region,
            weight=weight[region],
            share=found.share(region),
            n_members=int(found.n_members[found.place(region)]),
            tokens=tuple(found.tokens(region, N_TOKENS)),
            contexts=found.windows(region),
            neighbors=tuple(Neighbor(other, overlap, tuple(found.tokens(other, N_TOKENS))) for other, overlap in near.of(region)),
            effects=effects.get(region),
            no_effect=reason,
        )
        for region in regions
    ]


def _effects(model: Model | None, fit: Decomposition, regions: Sequence[int], k: int) -> tuple[dict[int, RegionEffects], str]:
    """Logit effects by region, or why there are none."""
    if model is None:
        return {}, "no model was given"
    try:
        return {region: region_effects(model, fit, region, k) for region in regions}, ""
    except CapabilityError as error:
        return {}, str(error)


# ---------------------------------------------------------------- in a terminal


def _labelled(name: str, text: str) -> Text:
    return Text(f"  {name:<11}", style="dim", no_wrap=True, overflow="ellipsis").append(text, style="not dim")


def _title(name: str, about: str) -> Text:
    return Text(f"  {name}", style="bold", no_wrap=True, overflow="ellipsis").append(f"   {about}" if about else "", style="dim not bold")


def _listed(tokens: Tokens) -> str:
    return "  ".join(f"{token!r} {count}" for token, count in tokens)


def _promoted(tokens: Sequence[TokenEffect], z: float) -> str:
    return f"({z:.1f} sd)  " + "  ".join(f"{token.token!r} {token.logit:+.1f}" for token in tokens)


def _turned(tokens: Sequence[TokenEffect]) -> list[TokenEffect]:
    """What the opposite direction does to them."""
    return [replace(token, logit=-token.logit) for token in tokens]


def _group(name: str, about: str, windows: Sequence[tuple[Window, str]], left: int) -> Iterator[Text]:
    """A title and a line per window with its label; nothing where there is none."""
    if windows:
        yield _title(name, about)
    yield from (_line(window, label, left) for window, label in windows)


def _line(window: Window, label: str, left: int) -> Text:
    """One context on a line, with the row's own token in the same column on all."""
    before = _before(window)[-left:]
    line = Text(f"  {label:>{LABEL - 4}}  ", style="dim", no_wrap=True, overflow="ellipsis")
    line.append(" " * (left - len(before))).append_text(before)
    return line.append(f"«{_shown(window, window.centre)}»", style=_style(window, window.centre)).append_text(_after(window))


def _before(window: Window) -> Text:
    return Text.assemble(*((_shown(window, i), _style(window, i)) for i in range(window.centre)))


def _after(window: Window) -> Text:
    return Text.assemble(*((_shown(window, i), _style(window, i)) for i in range(window.centre + 1, len(window.tokens))))


def _shown(window: Window, i: int) -> str:
    return window.tokens[i].replace("\n", "↵")


def _style(window: Window, i: int) -> str:
    """Coloured where the region is responsible for the token."""
    return "bold blue not dim" if (window.activations[i] or 0.0) > 0.5 else "default not dim"
