"""armillary inspect FIT [FEATURE...]: what features respond to and promote, in the terminal."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from armillary.app.cli.options import Command
from armillary.app.cli.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from armillary.app.region_showcase import ShownRegion
    from armillary.app.showcase import Shown
    from armillary.core.decomposition import Decomposition
    from armillary.core.rows import Rows
    from armillary.inspect import Window
    from armillary.lm.model import LanguageModel


@click.command("inspect", cls=Command, short_help="Contexts and promoted tokens of features.")
@click.argument("fit")
@click.argument("features", metavar="[FEATURE]...", nargs=-1, type=int)
@click.option("--acts", help="Activations to look in.  [default: those the fit was made from]")
@click.option("--model", help="Model that reads the features out.  [default: the one the fit was made from]")
@click.option("--logits/--no-logits", default=None, help="Whether to show promoted tokens.  [default: where the model has them]")
@click.option("--contexts", "n_top", type=click.IntRange(1), default=8, show_default=True, help="Contexts with the largest activations.")
@click.option("--sampled", "n_sample", type=click.IntRange(1), default=4, show_default=True, help="Contexts drawn from all it fires on.")
@click.option("--promoted", "n_tokens", type=click.IntRange(1), default=8, show_default=True, help="Promoted and suppressed tokens.")
@click.option("--n-features", type=click.IntRange(1), default=12, show_default=True, help="Features to list where none is named.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the drawn contexts.")
def command(screen: Screen, fit: str, features: tuple[int, ...], n_features: int, **settings: Any) -> None:
    """Show where the FEATUREs of FIT are active and which tokens they promote; without a FEATURE, list the strongest ones.

    Of a mixture's regions: tokens by likelihood, by responsibility, at the border and at both ends of every axis, and the regions nearby.
    """
    from armillary.app import subjects
    from armillary.app.showcase import look
    from armillary.core import artifact

    path, loaded = Path(fit), artifact.load(fit)
    rows = subjects.own_rows(subjects.open_store(path, loaded, settings.pop("acts")), loaded)
    lm = _model(screen, path, loaded, settings.pop("model"), settings.pop("logits"))
    shown = look(loaded, rows, {i: "named" for i in features} or strongest(loaded, rows, n_features), model=lm, **settings)
    data: dict[str, Any] = {"fit": fit, "features": [asdict(one) for one in shown]}
    regions = _regions(loaded, rows, features, lm, settings)
    if regions:
        data["regions"] = [asdict(one) for one in regions]
    screen.answer(data, *(regions or shown if features else [_listing(loaded, shown, _likeliest(loaded, rows, shown))]))


def _likeliest(fit: Decomposition, rows: Rows, shown: Sequence[Shown]) -> Mapping[int, Window]:
    """Of the regions of a mixture their likeliest token: responsibilities are 1 on many."""
    from armillary.core.encoders import MixtureEncoder
    from armillary.inspect import region_contexts

    if not isinstance(fit.encoder, MixtureEncoder):
        return {}
    found = region_contexts(fit, rows, n=1, n_axis=0, regions=[one.feature for one in shown])
    return {one.feature: window for one in shown for window in found.windows(one.feature).likelihood}


def _regions(
    fit: Decomposition, rows: Rows, features: Sequence[int], model: LanguageModel | None, told: Mapping[str, Any]
) -> list[ShownRegion]:
    """What more there is to show of features that are the regions of a mixture."""
    from armillary.app.region_showcase import look_at_regions
    from armillary.core.encoders import MixtureEncoder

    if not (features and isinstance(fit.encoder, MixtureEncoder)):
        return []
    sizes = {"n": told["n_top"], "n_drawn": told["n_sample"], "n_tokens": told["n_tokens"], "seed": told["seed"]}
    return look_at_regions(fit, rows, features, model=model, **sizes)


def _model(screen: Screen, path: Path, fit: Decomposition, name: str | None, logits: bool | None) -> LanguageModel | None:
    """The model that gives promoted tokens; without one where nobody insisted and it cannot be had."""
    from armillary.app.subjects import open_model, optional_model

    if logits is False:
        return None
    lm = open_model({path: fit}, name) if logits or name else optional_model({path: fit}, screen.remark)
    if logits and lm is not None:
        lm.require_logits()
    return lm


def strongest(fit: Decomposition, rows: Rows, n: int) -> Mapping[int, Any]:
    """The features with most activation in all, by the rule of `showcase.choose`."""
    from armillary.app.showcase import choose
    from armillary.core.study import Subject
    from armillary.studies.quality import fidelity

    report = fidelity.run(Subject(fit, rows=rows), config=fidelity.Config(loss=False, n_bootstrap=100))
    return choose(report.tables["features"], n=n, n_random=0, seed=0)


def _listing(fit: Decomposition, shown: Sequence[Shown], likeliest: Mapping[int, Window]) -> Any:
    """A line per feature."""
    from rich.table import Table
    from rich.text import Text

    table = Table("feature", "fires on", "largest", "promotes", "strongest context", title=repr(fit), box=None, pad_edge=False)
    for one in shown:
        how_often = "–" if one.density is None else f"{one.density:.2%}"
        promoted = " ".join(repr(token.token)[1:-1] for token in one.effect.promoted[:4]) if one.effect else "–"
        window = likeliest.get(one.feature, (one.top or one.sample)[0])
        context = Text("".join(window.tokens[max(0, window.centre - 8) : window.centre + 3]).replace("\n", "↵"), no_wrap=True)
        table.add_row(str(one.feature), how_often, f"{one.largest:.3g}", Text(promoted), context)
    return table
