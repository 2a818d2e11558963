"""armillary label FIT [FEATURE...]: what features stand for, in a few words, by a judge or from their tokens."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from armillary.app.cli import judging
from armillary.app.cli.options import Command
from armillary.app.cli.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from armillary.core.decomposition import Decomposition
    from armillary.core.model import Model
    from armillary.core.report import Report
    from armillary.core.study import Subject
    from armillary.inspect.asking import Asking
    from armillary.inspect.evidence import Shape
    from armillary.inspect.labels import Label

#: Version of the file of labels.
SCHEMA = 1


@click.command(
    "label", cls=Command, params=judging.options(), resumes=True, short_help="A few words for each feature, by a judge or from its tokens."
)
@click.argument("fit")
@click.argument("features", metavar="[FEATURE]...", nargs=-1, type=int)
@click.option("--side", type=click.Choice(["input", "output", "both"]), default="both", show_default=True, help="What the judge is shown.")
@click.option("--acts", help="Activations to look in.  [default: those the fit was made from]")
@click.option("--model", help="Model that reads the features out.  [default: the one the fit was made from]")
@click.option("--n-features", type=click.IntRange(1), default=12, show_default=True, help="Features to label where none is named.")
@click.option("--n-texts", type=click.IntRange(1), default=10, show_default=True, help="Strongest texts behind a label, and as many drawn.")
@click.option("--out", help="File of labels to write (.json). It must not exist.")
@click.option("--report", help="Score labels of these features with the study 'labels' too, and write its report (.html, .json or .md).")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of what is drawn.")
def command(
    *, screen: Screen, fit: str, features: tuple[int, ...], acts: str | None, out: str | None, report: str | None, **told: Any
) -> None:
    """Label the FEATUREs of FIT (without a FEATURE, the strongest ones), from the texts they are active on and the tokens they promote.

    Without a judge a label is a summary of the feature's tokens. Labels are hypotheses: --report scores them on other documents.
    """
    from armillary.app import subjects
    from armillary.app.cli.inspect import strongest
    from armillary.core import artifact
    from armillary.core.study import Subject
    from armillary.inspect.evidence import Shape
    from armillary.inspect.labels import label

    _check_outputs(out, report)
    path, loaded = Path(fit), artifact.load(fit)
    judge, model = _judge_and_model(screen, path, loaded, told, is_scored=report is not None)
    rows = subjects.own_rows(subjects.open_store(path, loaded, acts), loaded)
    chosen = list(dict.fromkeys(features)) or list(strongest(loaded, rows, told["n_features"]))
    shape = Shape(n_top=told["n_texts"], per_quantile=-(-told["n_texts"] // 5), seed=told["seed"])
    found = label(loaded, rows, chosen, judge, model=model, side=told["side"], shape=shape)
    data = _as_json(fit, found, judge)
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        artifact.write_atomic(Path(out), json.dumps(data, indent=1, ensure_ascii=False).encode())
    if report is not None:
        subject = Subject(loaded, rows=rows, model=model, name=path.name)
        _score(subject, judge, chosen, shape, told["side"]).save(report)
    if judge is not None:
        screen.remark(f"{judge.name}: {judge.tally.describe()}")
    screen.answer({**data, "out": out, "report": report}, _table(loaded, found), *[one for one in (out, report) if one is not None])


def _check_outputs(out: str | None, report: str | None) -> None:
    """Refuse what cannot be written before anything is asked."""
    from armillary.core.artifact import new_file, refuse_existing
    from armillary.core.report import writers
    from armillary.errors import InputError

    if out is not None:
        if Path(out).suffix != ".json":
            raise InputError(f"labels are written as .json, got '{out}'; try '{Path(out).with_suffix('.json')}'")
        refuse_existing(Path(out))
    if report is not None:
        new_file(report, "a report", writers())


def _judge_and_model(
    screen: Screen, path: Path, fit: Decomposition, told: Mapping[str, Any], *, is_scored: bool
) -> tuple[Asking | None, Model | None]:
    """The judge, and the model that gives promoted tokens; a summary of tokens needs none."""
    from armillary.app.subjects import open_model, optional_model

    own = cache(lambda: open_model({path: fit}, told["model"]))
    judge = judging.opened(told, path, own)
    if told["model"] is not None or told["judge"] == judging.OWN:
        return judge, own()
    return judge, optional_model({path: fit}, screen.remark) if judge is not None or is_scored else None


def _score(subject: Subject, judge: Asking | None, features: list[int], shape: Shape, side: Any) -> Report:
    """The report of the study, which makes labels of its own, from one half of the documents."""
    from armillary.studies.quality import labels

    config = labels.Config(features=tuple(features), side=side, n_top=shape.n_top, seed=shape.seed)
    return labels.run(subject, config=config, judge=judge)


def _as_json(fit: str, found: Mapping[int, Label], judge: Asking | None) -> dict[str, Any]:
    """The file of labels: labels with their evidence, and what the judge did."""
    asked = None if judge is None else {"name": judge.name, "settings": judge.settings, "tally": judge.tally.describe()}
    return {"schema": SCHEMA, "fit": fit, "judge": asked, "labels": [one.to_json() for one in found.values()]}


def _table(fit: Decomposition, found: Mapping[int, Label]) -> Any:
    """A line per feature."""
    from rich.table import Table
    from rich.text import Text

    table = Table("feature", "label", "from", title=repr(fit), box=None, pad_edge=False)
    for feature, one in found.items():
        text = Text(f"no label: {one.reason}", style="dim") if one.text is None else Text(one.text)
        table.add_row(str(feature), text, one.kind)
    return table
