"""armillary fit METHOD ACTS: from activations to a decomposition. The options of a method are made from its settings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from armillary import methods
from armillary.app.cli.options import Command, Family, Several, given, of_config
from armillary.app.cli.screen import Screen
from armillary.app.cli.summaries import first_sentence, help_text
from armillary.errors import InputError

if TYPE_CHECKING:
    from armillary.core.activations import Harvest, StoredRows
    from armillary.core.method import Labelled, Method


class Methods(Family):
    """One command per method of `armillary.methods.METHODS`."""

    what = "method"

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(methods.METHODS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name.startswith("-"):
            return None
        name = self.find(cmd_name, methods.METHODS)
        return _command(name, methods.load(name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of methods, without importing one."""
        with formatter.section("Methods"):
            formatter.write_dl([(name, first_sentence(methods.METHODS[name])) for name in self.list_commands(ctx)])


command = Methods(
    "fit",
    short_help="Fit a decomposition to activations.",
    help="Fit METHOD to the activations at ACTS. `armillary fit METHOD --help` lists a method's own options.",
    subcommand_metavar="METHOD ACTS [OPTIONS]",
)


def _command(name: str, method: type[Method]) -> click.Command:
    params: list[click.Parameter] = [
        click.Argument(["acts"]),
        Several(["--site"], help="Site to fit; may be left out where ACTS holds one. Several are put side by side."),
        click.Option(["--out"], required=True, help="Folder to write; it must not exist or be empty."),
        click.Option(["--held-out"], type=float, default=0.0, help="Share of the rows, the last texts, to leave to studies.  [default: 0]"),
        click.Option(["--seed"], type=int, default=0, show_default=True, help="Same seed, same bits."),
    ]
    if method.needs == "labelled":
        params.append(click.Option(["--label"], required=True, help="Label of the documents to learn, such as a field of the .jsonl."))

    @click.pass_context
    def run(ctx: click.Context, /, **options: Any) -> None:
        _run(method(**given(ctx, method.model_fields)), **{key: options[key] for key in options if key not in method.model_fields})

    own = of_config(method)
    return Command(name, resumes=True, params=[*params, *own], callback=run, help=help_text(method.__doc__))


def _run(
    method: Method, *, screen: Screen, acts: str, site: tuple[str, ...], out: str, held_out: float, seed: int, label: str | None = None
) -> None:
    from armillary.core import activations
    from armillary.core.artifact import refuse_existing

    refuse_existing(Path(out))
    harvest = activations.open(acts)
    if not harvest.is_complete:
        screen.remark(f"note: '{acts}' is not finished; its {harvest.n_rows:,} rows so far are fitted")
    rows = chosen(harvest, site)
    if not 0 <= held_out < 1:
        raise InputError(f"--held-out is a share from 0 up to 1, got {held_out:g}; try 0.2")
    if held_out:
        rows = rows.split(1 - held_out)[0]
    data = rows if label is None else _labelled(rows, label)
    fit = method.fit(data, seed=seed, checkpoint=_checkpoint(Path(out), method, rows, seed))
    fit.save(out)
    if fit.provenance.get("is_converged") is False:
        screen.remark("note: the fit has not converged; more iterations may help")
    screen.answer({"out": out, "n_features": fit.n_features, "provenance": dict(fit.provenance)}, f"{fit!r}\n{out}")


def chosen(harvest: Harvest, sites: tuple[str, ...]) -> StoredRows:
    """The rows of the named sites side by side, or of the only site there is.

    Raises:
        InputError: none was named and there are several.
    """
    if not sites and len(harvest.sites) > 1:
        names = ", ".join(map(str, harvest.sites))
        raise InputError(f"'{harvest.path}' holds {len(harvest.sites)} sites ({names}); choose with --site {harvest.sites[0]}")
    return harvest[list(dict.fromkeys(sites)) or list(map(str, harvest.sites))]


def _labelled(rows: StoredRows, label: str) -> Labelled:
    """Rows with their document's label as the class.

    Raises:
        InputError: a document without that label.
    """
    from armillary.core.method import Labelled

    documents = [rows.tokens.documents[i] for i in range(len(rows.tokens.documents))]
    for document in documents:
        if label not in document.labels:
            raise InputError(f"document '{document.name}' has no label {label!r}; it has: {', '.join(document.labels) or 'none'}")
    values = [document.labels[label] for document in documents]
    return Labelled.of(rows, [values[i] for i in rows.tokens.document[rows.tokens.rows]])


def _checkpoint(out: Path, method: Method, rows: StoredRows, seed: int) -> Path:
    """Where an interrupted fit is kept: beside `out`, under a name that only an equal run finds."""
    options = method.model_dump(mode="json")
    same = json.dumps([type(method).__name__, options, str(rows.layout), dict(rows.record), seed], sort_keys=True, default=str)
    return out.with_name(f".{out.name}.{hashlib.sha256(same.encode()).hexdigest()[:12]}.checkpoint")
