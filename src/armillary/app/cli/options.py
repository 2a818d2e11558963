"""What the commands share: a command class with --config, --json and --quiet, options that take several values, and options made from
the fields of a `Config`."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click
from click.core import ParameterSource

from armillary.app.cli import config_file
from armillary.app.cli.screen import Screen
from armillary.app.cli.summaries import first_sentence
from armillary.core.progress import MODE
from armillary.errors import unknown

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from armillary.core.config import Config

#: Columns of a help page at most.
WIDTH = 110
_GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)


class Several(click.Option):
    """An option that takes every value up to the next option: `--text a.txt b.txt`; it may be repeated as well."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"multiple": True, **settings})


class Command(click.Command):
    """A command with the common options; its function is called with a `Screen`.

    Args:
        resumes: whether the same command, given again after an interruption, goes on with what was done.
    """

    def __init__(self, *args: Any, resumes: bool = False, **settings: Any) -> None:
        self.resumes = resumes
        super().__init__(*args, **{"context_settings": {"max_content_width": WIDTH}, **settings})
        self.params = [*self.params, *_common()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names = {name for param in self.params if isinstance(param, Several) for name in param.opts}
        try:
            return super().parse_args(ctx, spread(args, names))
        except click.MissingParameter as error:
            taken = next((arg for arg in args if arg in names), None)
            if isinstance(error.param, click.Argument) and taken is not None:
                where = f"put it before {taken}, which takes every value up to the next option"
                raise click.UsageError(f"missing argument {error.param.make_metavar(ctx)}; {where}", ctx) from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        del ctx.params["config"]
        screen = Screen(as_json=ctx.params.pop("json"), is_quiet=ctx.params.pop("quiet"))
        before = MODE.get()
        screen.start()
        try:
            ctx.params["screen"] = screen
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            kept = "what is done is kept; the same command goes on from there" if self.resumes else "nothing was written"
            raise KeyboardInterrupt(str(error) or kept) from None
        finally:
            MODE.set(before)


class Family(click.Group):
    """A command whose next word is a name: `fit METHOD`, `study NAME`. Without arguments it shows its help."""

    #: What the names are, for the error message: "method", "study".
    what = "command"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"context_settings": {"max_content_width": WIDTH}, "options_metavar": "", **settings})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def find(self, name: str, names: Iterable[str]) -> str:
        """The known name that `name` means: the same letters, whatever the case and the dashes.

        Raises:
            UnknownNameError: none; the message holds the nearest ones.
        """
        same = {plain(known): known for known in names}
        if plain(name) not in same:
            raise unknown(self.what, name, same.values())
        return same[plain(name)]


class Registry(Family):
    """A family with one command per entry of a registry, which is imported when it is asked for.

    Args:
        name: of the family.
        what: what an entry is, for the error message: "method", "study".
        entries: the module of each entry.
        build: makes the command of an entry.
        aliases: other names of entries.
        settings: of a click command.
    """

    def __init__(
        self,
        name: str,
        what: str,
        entries: Mapping[str, str],
        build: Callable[[str], click.Command],
        *,
        aliases: Mapping[str, str] = MappingProxyType({}),
        **settings: Any,
    ) -> None:
        super().__init__(name, **settings)
        self.what, self.entries, self.build, self.aliases = what, entries, build, aliases

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return None if cmd_name.startswith("-") else self.build(self.find(self.aliases.get(cmd_name, cmd_name), self.entries))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of entries, without importing one."""
        with formatter.section(f"Each {self.what}"):
            formatter.write_dl([(name, first_sentence(self.entries[name])) for name in self.list_commands(ctx)])


def plain(name: str) -> str:
    """A name without case, dashes and underscores, so that TopKSAE is topk-sae."""
    return name.lower().replace("-", "").replace("_", "")


def spread(args: Sequence[str], names: Iterable[str]) -> list[str]:
    """`--text a b --out x` as `--text a --text b --out x`, for the options in `names`; a lone "-" is a value (stdin)."""
    out: list[str] = []
    several: str | None = None
    has_value = False
    for place, arg in enumerate(args):
        if arg == "--":
            return [*out, *args[place:]]
        if arg.startswith("-") and arg != "-":
            several, has_value = (arg if arg in names else None), False
            out.append(arg)
            continue
        out.extend([several, arg] if several and has_value else [arg])
        has_value = True
    return out


def _common() -> list[click.Parameter]:
    return [
        click.Option(["--config"], metavar="FILE", is_eager=True, callback=_use_config, help="YAML file with options; what is typed wins."),
        click.Option(["--json"], is_flag=True, help="Print one JSON object on stdout and nothing else."),
        click.Option(["--quiet"], is_flag=True, help="No progress and no remarks on stderr."),
    ]  # fmt: skip


def _use_config(ctx: click.Context, _: click.Parameter, path: str | None) -> str | None:
    if path is not None:
        ctx.default_map = config_file.read(path, ctx.command.params)
    return path


# ---------------------------------------------------------------- options of a Config


def typed(text: Any) -> Any:
    """The number, truth value, None or list that a text looks like, else the text. What a YAML file gave is typed already."""
    if not isinstance(text, str):
        return text
    words = {"none": None, "null": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return [typed(part.strip()) for part in text.split(",")] if "," in text else text


def of_config(config: type[Config]) -> list[click.Parameter]:
    """One option per field of a Config, its help the field's description."""
    return [_of_field(name, field) for name, field in config.model_fields.items()]


def _of_field(name: str, field: FieldInfo) -> click.Option:
    dashed = name.replace("_", "-")
    is_switch = metavar(field.annotation) == "BOOL"
    spelling = f"--{dashed}/--no-{dashed}" if is_switch else f"--{dashed}"
    settings: dict[str, Any] = {"required": True} if field.is_required() else {"default": None}
    if get_origin(field.annotation) is tuple:
        kind = get_args(field.annotation)[0]
        settings |= {"type": str} if kind is str else {"type": typed, "callback": _flat}
        return Several([spelling, name], help=_help(field), metavar=f"{metavar(kind)}...", **settings)
    if is_switch:
        settings["is_flag"] = True
    else:
        settings |= {"type": str if field.annotation is str else typed, "metavar": metavar(field.annotation)}
    return click.Option([spelling, name], help=_help(field), **settings)


def _flat(ctx: click.Context, param: click.Parameter, values: Any) -> Any:
    """`--widths 2,4,8` as `--widths 2 4 8`."""
    parts = [value if isinstance(value, list) else [value] for value in values or ()]
    return tuple(one for part in parts for one in part) or None


def _help(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    if field.is_required():
        return text
    default = field.get_default(call_default_factory=True)
    if default is None:  # the text says what that means
        return text
    return f"{text}  [default: {str(default).lower() if isinstance(default, bool) else default}]"


def metavar(annotation: Any) -> str:
    """How a type is shown in the help: INT, FLOAT, INT|FLOAT, a|b|c."""
    if get_origin(annotation) is Annotated:
        return metavar(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return "|".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return "|".join(metavar(part) for part in get_args(annotation) if part is not type(None))
    return getattr(annotation, "__name__", "value").upper()


def given(ctx: click.Context, names: Iterable[str]) -> dict[str, Any]:
    """The values of those parameters that were typed or stand in the config file."""
    return {name: ctx.params[name] for name in names if ctx.get_parameter_source(name) in _GIVEN}
