"""armillary steer FIT FEATURE: what a model writes with and without a feature, side by side."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from armillary.app.cli.options import Command, Several
from armillary.app.cli.screen import Screen
from armillary.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import Tensor

    from armillary.core.decomposition import Decomposition
    from armillary.core.dictionary import Feature
    from armillary.studies.causal.edit_families import Family
    from armillary.studies.causal.steering_writing import Texts, Writer

#: KL that is looked for where no strength is given.
KL = 0.25
#: Promoted tokens that are shown.
SHOWN = 8


@click.command("steer", cls=Command, short_help="Write with a feature turned up or down.")
@click.argument("fit")
@click.argument("feature", type=int)
@click.option("--prompt", "prompts", cls=Several, required=True, help="Texts to go on from.")
@click.option("--kl", type=float, help=f"Change of the next token's distribution, in nats; the strength is searched.  [default: {KL}]")
@click.option("--strength", type=float, help="Times a direction is added, in units of its own length.")
@click.option("--alpha", type=float, help="Share of the way to a region's centroid, 0 to 1.")
@click.option("--axis", type=int, help="Move along this axis of a region, or of a subspace.  [default of a subspace: 0]")
@click.option("--sd", type=float, help="Standard deviations along the axis.")
@click.option("--sign", type=click.Choice(["1", "-1"]), default="1", show_default=True, help="With the feature (1) or against it (-1).")
@click.option("--position", type=click.Choice(["all", "last", "generated"]), default="all", show_default=True, help="Tokens that are changed: all, the prompt's last, or that and those that are generated.")  # fmt: skip  # noqa: E501
@click.option("--n-tokens", type=click.IntRange(1), default=40, show_default=True, help="Tokens to write at most.")
@click.option("--temperature", type=float, default=0.7, show_default=True, help="Of the drawing; 0 takes the likeliest token.")
@click.option("--top-p", type=float, default=0.9, show_default=True, help="Draw from the smallest set of tokens with this probability.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the drawing, the same with and without the feature.")
@click.option("--model", help="Model to run.  [default: the one the fit was made from]")
def command(screen: Screen, fit: str, feature: int, prompts: tuple[str, ...], model: str | None, **told: Any) -> None:
    """Let the model go on from --prompt with and without FEATURE of FIT.

    The strength is searched for a change of the next token's distribution (--kl), or given: --strength of a direction, --alpha of the way
    to a region's centroid, --axis and --sd of a place inside the region; a subspace is steered along one of its axes. Printed are both
    texts, the KL, and what the change did: the share of the feature's own tokens, the perplexity without the feature, and repetition.
    """
    from armillary.app.subjects import open_model
    from armillary.core import artifact
    from armillary.studies.causal.steering_aims import check_width, written_site
    from armillary.studies.causal.steering_writing import Sampled, Writer

    loaded = artifact.load(fit)
    asked = Asked(**{name: told.pop(name) for name in ("kl", "strength", "alpha", "axis", "sd")}, sign=int(told.pop("sign")))
    way = _way(loaded, feature, asked)
    lm = open_model({Path(fit): loaded}, model)
    lm.require_logits()
    writer = Writer(lm, prompts, Sampled(n_continuations=1, **told), [written_site(loaded)])
    check_width(loaded, writer)
    strength, wanted = _strength(writer, way.family, asked)
    shown = Outcome(
        fit=fit,
        feature=feature,
        what=f"{way.what} of {loaded!r}",
        strength=strength,
        unit=way.unit,
        kl_wanted=wanted,
        kl=writer.effect(way.family, [strength])[0],
        position=writer.how.position,
        promotes=_promoted(writer, loaded, way, strength),
        **_texts(writer, way, loaded, strength),
    )
    screen.answer(asdict(shown), *shown.drawn())


@dataclass(frozen=True)
class Asked:
    """How strong, as it was typed."""

    kl: float | None
    strength: float | None
    alpha: float | None
    axis: int | None
    sd: float | None
    sign: int


@dataclass(frozen=True)
class Way:
    """What is done.

    Args:
        what: in words.
        family: the edits.
        direction: [D] where it goes, whose tokens are promoted.
        unit: of its strength, in words.
    """

    what: str
    family: Family
    direction: Tensor
    unit: str


def _way(fit: Decomposition, feature: int, asked: Asked) -> Way:
    """The edits that were asked for.

    Raises:
        InputError: a feature that is not there, or options that do not go with it or with each other.
    """
    from armillary.inspect.logits import feature_directions
    from armillary.methods.mfa.edits import Place
    from armillary.studies.causal.edit_families import Family, adding, moving
    from armillary.studies.causal.steering_aims import written_site

    what, site = fit.dictionary.feature(feature), written_site(fit)
    _check(what, asked)
    told = feature_directions(fit.dictionary, [feature])[0]
    if what.kind == "subspace":
        axis = what.basis[asked.axis or 0].float()
        return Way(f"axis {asked.axis or 0} of subspace {feature}", adding(site, axis), axis, "times its own length")
    if what.position is None:
        return Way(f"feature {feature}", adding(site, what.direction.float()), told, "times its own length")
    centroid = what.position.float()
    if asked.axis is None:
        return Way(f"region {feature}", moving(site, centroid), told, "of the way to its centroid")
    axis, far = what.basis[asked.axis].float(), float(asked.sd or 0.0) * asked.sign
    if asked.alpha is None:
        return Way(f"axis {asked.axis} of region {feature}", adding(site, axis), axis, "standard deviations")
    place = Family(lambda strength, where: Place(site, centroid, far * axis, strength, where), most=1.0)
    goes = far * axis if far else told  # no way along the axis is the way to the centroid
    return Way(f"region {feature}, {far:+g} sd along its axis {asked.axis}", place, goes, "of the way to its centroid")


def _check(what: Feature, asked: Asked) -> None:
    given = [name for name in ("kl", "strength", "alpha") if getattr(asked, name) is not None]
    if len(given) > 1:
        raise InputError(f"give one of --kl, --strength and --alpha, got {' and '.join(f'--{name}' for name in given)}")
    if asked.strength is not None and not math.isfinite(asked.strength):
        raise InputError(f"--strength is a finite number, got {asked.strength:g}")
    if what.kind == "region":
        _check_region(what, asked)
    elif what.kind == "direction" and (asked.alpha is not None or asked.axis is not None or asked.sd is not None):
        raise InputError(f"feature {what.index} is a direction, which has no centroid and no axes; give --kl or --strength")
    elif asked.alpha is not None or asked.sd is not None:
        raise InputError(f"feature {what.index} is a subspace, which has axes and no centroid; give --kl or --strength, and --axis")
    if asked.axis is not None and not 0 <= asked.axis < len(what.basis):
        raise InputError(f"axis {asked.axis} is out of range: {what.kind} {what.index} has {len(what.basis)} (from 0)")


def _check_region(what: Feature, asked: Asked) -> None:
    if asked.strength is not None:
        raise InputError(f"feature {what.index} is a region: give --alpha (0 to 1), --kl, or --axis with --sd, not --strength")
    if asked.alpha is not None and not 0 <= asked.alpha <= 1:
        raise InputError(f"--alpha is a share of the way to the centroid, 0 to 1, got {asked.alpha:g}")
    if (asked.axis is None) != (asked.sd is None) and not (asked.axis is not None and asked.kl is not None):
        raise InputError("--axis and --sd go together: the axis of a region, and how far along it")
    if asked.sd is not None and asked.kl is not None:
        raise InputError("give --sd or --kl, not both: the one sets how far, the other searches it")
    if asked.sd is not None and not math.isfinite(asked.sd):
        raise InputError(f"--sd is a finite number of standard deviations, got {asked.sd:g}")
    if asked.axis is None and asked.sign == -1:
        raise InputError(f"feature {what.index} is a region, which is moved toward and not away from; leave --sign out, or name an --axis")


def _strength(writer: Writer, family: Family, asked: Asked) -> tuple[float, float | None]:
    """The strength with its sign, and the KL that was wanted.

    Raises:
        InputError: no strength has this KL.
    """
    if asked.alpha is not None:
        return asked.alpha, None
    if asked.strength is not None or asked.sd is not None:
        return asked.sign * (asked.strength if asked.strength is not None else float(asked.sd or 0.0)), None
    wanted = KL if asked.kl is None else asked.kl
    ((dose,),) = writer.doses([(family, (asked.sign,))], [wanted], tolerance=0.02)
    if dose.signed is None:
        raise InputError(f"{dose}; ask for another KL, or give the strength itself")
    return dose.signed, wanted


def _promoted(writer: Writer, fit: Decomposition, way: Way, strength: float) -> list[str]:
    """The tokens that the change promotes by the direct path; none where nothing is known of the site's way out."""
    from armillary.errors import CapabilityError
    from armillary.inspect.logits import direction_effects

    sign = -1 if strength < 0 else 1
    try:
        (effect,) = direction_effects(writer.model, fit, sign * way.direction[None], SHOWN, n_random=2)
    except CapabilityError:
        return []
    return [one.token for one in effect.promoted]


def _texts(writer: Writer, way: Way, fit: Decomposition, strength: float) -> dict[str, Any]:
    """Both texts of every prompt, and their numbers."""
    from armillary.errors import CapabilityError
    from armillary.studies.causal.proxies import own_tokens
    from armillary.studies.causal.steering_aims import written_site

    plain, steered = writer.plain(), writer.steered([(way.family, strength)])[0]
    try:
        own = own_tokens(writer.model, written_site(fit), (-1 if strength < 0 else 1) * way.direction)
    except CapabilityError:
        own = None
    rows = [
        {"prompt": prompt, "plain": one, "steered": other}
        for prompt, one, other in zip(writer.prompts, plain.text, steered.text, strict=True)
    ]
    return {"texts": rows, "proxies": {"plain": _numbers(plain, own), "steered": _numbers(steered, own)}}


def _numbers(texts: Texts, own: Tensor | None) -> dict[str, float | None]:
    """Means over the texts that have one."""
    import numpy as np

    from armillary.studies.causal.proxies import own_share

    def mean(values: Any) -> float | None:
        return None if np.isnan(values).all() else float(np.nanmean(values))

    loss = mean(texts.loss)
    share = None if own is None else mean(own_share(texts.ids, own))
    return {"own": share, "perplexity": None if loss is None else float(np.exp(loss)), "distinct": mean(texts.distinct)}


@dataclass(frozen=True)
class Outcome:
    """What the command answers.

    Args:
        fit, feature: what was asked for.
        what: that in words.
        strength: with its sign.
        unit: of that.
        kl_wanted: None where a strength was given.
        kl: of the next token after the prompts, nats.
        position: tokens that were changed.
        promotes: tokens the change promotes.
        texts: prompt, plain and steered continuation.
        proxies: plain and steered: share of own tokens, perplexity without the change, different pairs.
    """

    fit: str
    feature: int
    what: str
    strength: float
    unit: str
    kl_wanted: float | None
    kl: float
    position: str
    promotes: list[str]
    texts: list[dict[str, str]]
    proxies: dict[str, dict[str, float | None]]

    def drawn(self) -> list[RenderableType]:
        """For the terminal."""
        from rich.text import Text

        wanted = "" if self.kl_wanted is None else f" (wanted {self.kl_wanted:g})"
        head = Text.assemble(
            (self.what, "bold"), f"\n{self.strength:+.4g} {self.unit}, KL {self.kl:.3g}{wanted} nats, {self.position} tokens"
        )
        if self.promotes:
            head.append("\npromotes ").append("  ".join(repr(token)[1:-1].strip() or repr(token) for token in self.promotes), "green")
        return [head, self._side_by_side(), self._numbers()]

    def _side_by_side(self) -> RenderableType:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table("unsteered", "steered", box=box.SIMPLE_HEAD, show_lines=True, padding=(0, 2), expand=True)
        for row in self.texts:
            cells = [
                Text.assemble((row["prompt"], "dim"), (row[name], style) if row[name] else ("  (nothing written)", "dim italic"))
                for name, style in (("plain", ""), ("steered", "cyan"))
            ]
            table.add_row(*cells)
        return table

    def _numbers(self) -> RenderableType:
        from rich.table import Table

        from armillary.core.report import number

        table = Table("", "unsteered", "steered", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        names = {"own": "own tokens, share", "perplexity": "perplexity without it", "distinct": "different pairs"}
        for key, name in names.items():
            table.add_row(name, *(number(self.proxies[side][key]) for side in ("plain", "steered")))
        return table
