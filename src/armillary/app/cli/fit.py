"""armillary fit METHOD ACTS: from activations to decompositions. The options of a method are made from its settings."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from armillary import methods
from armillary.app.cli.options import Command, Registry, Several, given, of_config, plain, typed
from armillary.app.cli.screen import Screen
from armillary.app.cli.summaries import help_text
from armillary.errors import InputError, MismatchError, unknown

if TYPE_CHECKING:
    from armillary.core.activations import Harvest, StoredRows
    from armillary.core.decomposition import Decomposition
    from armillary.core.journal import Sink
    from armillary.core.method import Labelled, Method
    from armillary.core.pairs import Pairs
    from armillary.core.rows import Rows
    from armillary.core.targeted import Targeted

#: Memory from which on a fit says beforehand what it will hold.
MUCH = 1 << 30
#: Names that stand for the usual member of a family.
ALIASES = {"sae": "topk-sae"}


command = Registry(
    "fit",
    "method",
    methods.METHODS,
    lambda name: _command(name, methods.load(name)),
    aliases=ALIASES,
    short_help="Fit a decomposition to activations.",
    help="Fit METHOD to the activations at ACTS. `armillary fit METHOD --help` lists a method's own options.",
    subcommand_metavar="METHOD ACTS [OPTIONS]",
)


class FitCommand(Command):
    """A command whose required options may be given to --sweep instead."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        swept = {plain(arg.removeprefix("--sweep=").partition("=")[0]) for arg in args if "=" in arg}
        for param in self.params:
            if param.name is not None and plain(param.name) in swept and isinstance(param, click.Option):
                param.required = False
        return super().parse_args(ctx, args)


def _command(name: str, method: type[Method]) -> click.Command:
    params: list[click.Parameter] = [
        click.Argument(["acts"]),
        Several(["--site"], help="Site to fit; may be left out where ACTS holds one. Several are put side by side."),
        click.Option(["--each"], is_flag=True, help="Give every site a fit of its own, all from one pass, in folders of OUT."),
        click.Option(["--out"], required=True, help="Folder to write; it must not exist or be empty."),
        click.Option(["--held-out"], type=float, default=0.0, help="Share of the rows, the last texts, to leave to studies.  [default: 0]"),
        click.Option(["--seed"], type=int, default=0, show_default=True, help="Same seed, same bits."),
        Several(["--sweep"], metavar="NAME=A,B", help="Try every combination of these settings, all from one pass, in folders of OUT."),
        click.Option(["--log"], multiple=True, type=click.Choice(["wandb", "trackio", "tensorboard"]), help="Also show the curve there."),
    ]
    if method.needs == "labelled":
        params.append(click.Option(["--label"], required=True, help="Label of the documents to learn, such as a field of the .jsonl."))
    if method.needs == "pairs":
        params += [
            click.Option(["--task"], required=True, help="Prompts and pairs: a task's name, or a file or folder that holds one."),
            click.Option(["--variable"], help="Variable of the task to look for.  [default: its only one]"),
            click.Option(["--position"], default="last", show_default=True, help="Token whose activation is exchanged, such as entity."),
        ]
    if method.takes_targets:
        params.append(Several(["--target"], help="Site to rebuild, where that is not the one that is read: a transcoder."))

    @click.pass_context
    def run(ctx: click.Context, /, **options: Any) -> None:
        own = given(ctx, method.model_fields)
        rest = {key: options[key] for key in options if key not in method.model_fields}
        sweep = _swept(method, rest.pop("sweep"))
        _run([_Trial(label, method(**{**own, **more})) for label, more in sweep], _Places(**_places(rest)), **rest)

    own = of_config(method)
    return FitCommand(name, resumes=True, params=[*params, *own], callback=run, help=help_text(method.__doc__))


# ---------------------------------------------------------------- what is to be fitted


@dataclass(frozen=True)
class _Trial:
    """One fit of a command.

    Args:
        label: its folder below OUT; "" where it is the only one.
        method: the settings.
        data: what it is given, once the store is open.
    """

    label: str
    method: Method
    data: Any = None


@dataclass(frozen=True)
class _Places:
    """Which sites a command is about: `--site`, `--target`, `--each`."""

    site: tuple[str, ...]
    target: tuple[str, ...]
    each: bool


def _places(options: dict[str, Any]) -> dict[str, Any]:
    """The options that `_Places` holds, taken out of the others."""
    return {"site": options.pop("site"), "target": options.pop("target", ()), "each": options.pop("each")}


def _swept(method: type[Method], sweep: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Every combination of the settings of --sweep, with a name; one combination of none where there are none.

    Raises:
        InputError: one is not NAME=A,B.
        UnknownNameError: the method has no such setting.
    """
    axes: dict[str, list[Any]] = {}
    for text in sweep:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise InputError(f"--sweep {text!r} is not NAME=A,B, such as k=16,32,64")
        known = {plain(field): field for field in method.model_fields}
        if plain(name) not in known:
            raise unknown(f"option of {method.__name__}", name, method.model_fields)
        if known[plain(name)] in axes:
            raise InputError(f"--sweep names {name} twice; give all its values at once, {name}=A,B")
        if "tuple" in str(method.model_fields[known[plain(name)]].annotation):
            raise InputError(f"--sweep cannot try lists of {name}; fit them one by one")
        axes[known[plain(name)]] = list(dict.fromkeys(typed(value) for value in values.split(",")))
    chosen = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    return [(",".join(f"{name}={value}" for name, value in settings.items()), settings) for settings in chosen]


def _with_data(trials: Sequence[_Trial], rows: StoredRows, places: _Places, label: str | None) -> list[_Trial]:
    """The trials with what each is given: one per site with --each.

    Raises:
        InputError: --each with --target, or with a method that needs labels.
    """
    from armillary.core.targeted import Targeted

    if places.target:
        if places.each:
            raise InputError("--each gives every site a fit of its own and --target one site to rebuild; use one of them")
        if not places.site:
            raise InputError(f"--target {places.target[0]} is what is rebuilt; name what is read too, with --site")
        data: Targeted | Labelled | StoredRows = Targeted.of(rows, inputs=list(places.site), targets=list(places.target))
        return [replace(trial, data=data) for trial in trials]
    if not places.each:
        from armillary.app.subjects import labelled

        data = rows if label is None else labelled(rows, label)
        return [replace(trial, data=data) for trial in trials]
    if label is not None:
        raise InputError("--each is for methods without labels")
    names = [str(source.site) for source, _ in rows.layout if source is not None]
    pairs = product(enumerate(names), trials)
    return [replace(t, label=f"{name}/{t.label}".rstrip("/"), data=Targeted.of(rows, inputs=i)) for (i, name), t in pairs]


# ---------------------------------------------------------------- the command


def _run(
    trials: list[_Trial],
    places: _Places,
    *,
    screen: Screen,
    acts: str,
    out: str,
    held_out: float,
    seed: int,
    log: tuple[str, ...],
    label: str | None = None,
    **asked: Any,
) -> None:
    from armillary.core import activations, distributed
    from armillary.core.artifact import refuse_existing
    from armillary.core.method import fit_many

    out = str(Path(out).absolute()) if Path(out).name == "" else out
    refuse_existing(Path(out))
    harvest = activations.open(acts)
    if not harvest.is_complete:
        screen.remark(f"note: '{acts}' is not finished; its {harvest.n_rows:,} rows so far are fitted")
    rows = _split(chosen(harvest, (*places.site, *places.target), all_of_them=places.each), held_out)
    trials = _with_data(trials, rows, places, label)
    if asked:
        if places.each:
            raise InputError("--each is for methods that read activations; fit pairs at one site after the other")
        pairs = _pairs(harvest, rows, seed=seed, **asked)
        trials = [replace(trial, data=pairs) for trial in trials]
    kept = _kept(Path(out), trials, pairs.rows if asked else rows, seed)
    data = [trial.data for trial in trials] if places.each else trials[0].data
    _tell_memory(screen, trials, rows)
    labels = [trial.label or type(trial.method).__name__ for trial in trials]
    try:
        with _journal(kept, log, Path(out)):
            fits = fit_many([trial.method for trial in trials], data, seed=seed, checkpoint=kept, labels=labels)
    except InputError:
        if not kept.exists():  # nothing was begun that could be gone on with
            _live_log(kept).unlink(missing_ok=True)
        raise
    found = {trial.label: fit for trial, fit in zip(trials, fits, strict=True)}
    if distributed.rank() == 0:
        _save(found, Path(out))
    _live_log(kept).unlink(missing_ok=True)
    if any(fit.provenance.get("is_converged") is False for fit in fits):
        screen.remark("note: the fit has not converged; more iterations may help")
    _answer(screen, out, found)


def _tell_memory(screen: Screen, trials: Sequence[_Trial], rows: Rows) -> None:
    """What the fits will hold in memory, where that is much."""
    import psutil

    from armillary.core import distributed
    from armillary.core.rows import width
    from armillary.core.targeted import Targeted
    from armillary.lm.plan import human

    distributed.start()
    parts: Counter[str] = Counter()
    for trial in trials:
        seen = trial.data.view() if isinstance(trial.data, Targeted) else rows
        parts.update(trial.method.memory(width(seen.layout), rows.n_rows, world=distributed.world()))
    needed, there = sum(parts.values()), psutil.virtual_memory().available
    if needed > MUCH:
        each = ", ".join(f"{name} {human(size)}" for name, size in parts.items())
        short = "" if needed <= there else "; that is more than there is, and the fit may be stopped by the system"
        screen.remark(f"memory: about {human(needed)} ({each}); {human(there)} are free{short}")


def _save(found: Mapping[str, Decomposition], out: Path) -> None:
    """Write every fit to its folder below OUT, which appears whole or not at all."""
    from armillary.core.artifact import appearing

    if list(found) == [""]:
        found[""].save(out)
        return
    with appearing(out) as scratch:
        for name, fit in found.items():
            fit.save(scratch / name)


def _split(rows: StoredRows, held_out: float) -> StoredRows:
    if not 0 <= held_out < 1:
        raise InputError(f"--held-out is a share from 0 up to 1, got {held_out:g}; try 0.2")
    return rows.split(1 - held_out)[0] if held_out else rows


def _answer(screen: Screen, out: str, found: Mapping[str, Any]) -> None:
    """What was fitted: of several, a line each with how it ended."""
    if list(found) == [""]:
        fit = found[""]
        screen.answer({"out": out, "n_features": fit.n_features, "provenance": dict(fit.provenance)}, f"{fit!r}\n{out}")
        return
    fits = {label: {"n_features": fit.n_features, **dict(fit.provenance.get("final", {}))} for label, fit in found.items()}
    told = {
        label: ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key in ("fvu", "l0", "dead")) for label, row in fits.items()
    }
    screen.answer({"out": out, "fits": fits}, *(f"{out}/{label}: {words or 'done'}" for label, words in told.items()))


def chosen(harvest: Harvest, sites: tuple[str, ...], *, all_of_them: bool = False) -> StoredRows:
    """The rows of the named sites side by side, or of the only site there is.

    Raises:
        InputError: none was named and there are several, unless all of them are wanted.
    """
    if not sites and len(harvest.sites) > 1 and not all_of_them:
        names = ", ".join(map(str, harvest.sites))
        raise InputError(f"'{harvest.path}' holds {len(harvest.sites)} sites ({names}); choose with --site {harvest.sites[0]}")
    return harvest[list(dict.fromkeys(sites)) or list(map(str, harvest.sites))]


def _pairs(harvest: Harvest, rows: Rows, *, seed: int, task: str, position: str, variable: str | None) -> Pairs:
    """A task's training pairs, put to the model and at the site that the activations are of.

    Raises:
        InputError: several sites or variables and none chosen, or a task the model cannot do.
        MismatchError: the model has other weights than it had.
    """
    from armillary.app.subjects import model_name
    from armillary.app.tasks import load_task
    from armillary.core.pairs import Pairs
    from armillary.lm.model import LanguageModel

    entry, loaded = harvest.manifest.model, load_task(task, seed)
    if variable is None and len(loaded.variables) > 1:
        raise InputError(f"the task {loaded.name!r} has {len(loaded.variables)} variables; choose with --variable {loaded.variables[0]}")
    lm = LanguageModel(model_name(entry.name))
    if lm.revision != entry.revision:
        raise MismatchError(f"{lm.name!r} is no longer the model '{harvest.path}' is of: {lm.revision[:8]}, not {entry.revision[:8]}")
    found = [source.site for source, _ in rows.layout if source is not None]
    if len(found) != 1:
        raise InputError(f"pairs are exchanged at one site, got {', '.join(map(str, found))}; choose one with --site")
    return Pairs.of(lm, found[0], position, loaded.train, variable=variable)


# ---------------------------------------------------------------- what is kept while it runs


def _kept(out: Path, trials: Sequence[_Trial], rows: Rows, seed: int) -> Path:
    """Where an interrupted fit is kept: beside `out`, under a name that only an equal run finds."""
    options = [[type(trial.method).__name__, trial.method.model_dump(mode="json"), trial.label] for trial in trials]
    same = json.dumps([options, str(rows.layout), dict(rows.record), seed], sort_keys=True, default=str)
    return out.with_name(f".{out.name}.{hashlib.sha256(same.encode()).hexdigest()[:12]}.checkpoint")


def _live_log(kept: Path) -> Path:
    """The curve as it is drawn; log.jsonl of the finished fit takes its place."""
    return kept.with_suffix(".jsonl")


@contextmanager
def _journal(kept: Path, log: Sequence[str], out: Path) -> Iterator[None]:
    from armillary.core.journal import JsonLines, TensorBoard, Trackio, WandB, journal

    made: dict[str, Sink] = {
        "wandb": WandB(project="armillary", name=out.name),
        "trackio": Trackio(project="armillary", name=out.name),
        "tensorboard": TensorBoard(out.with_name(f"{out.name}.tensorboard")),
    }
    with journal(JsonLines(_live_log(kept)), *(made[name] for name in log)):
        yield
