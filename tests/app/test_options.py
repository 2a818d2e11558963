"""Options: several values, generated from a Config, from YAML; the command line wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click
import pytest

from armillary.app.cli import options
from armillary.app.cli.errors import guarded
from armillary.app.cli.options import Command, Several, given, metavar, of_config, spread, typed
from armillary.app.cli.screen import Screen
from armillary.core.config import Config


class Shape(Config):
    """Settings of a made-up method."""

    n_features: int
    """How many features."""
    fraction: int | float = 0.5
    """A count or a share."""
    mode: Literal["a", "b"] = "a"
    """Which way."""
    is_unit: bool = True
    """Whether rows have unit length."""
    n_steps: int | None = None
    """Steps; none means one pass."""


NAMES = tuple(Shape.model_fields)


@click.pass_context
def _shape(ctx: click.Context, screen: Screen, text: tuple[str, ...], acts: str, **_: Any) -> None:
    """Make a shape."""
    settings = Shape(**given(ctx, NAMES))
    screen.answer({"acts": acts, "text": list(text), **settings.model_dump()}, f"{acts} {settings.n_features}")


def run(*arguments: str) -> int:
    params = [click.Argument(["acts"]), Several(["--text"]), *of_config(Shape)]
    command = Command("shape", params=params, callback=_shape, help="Make a shape.")

    def program() -> None:
        with command.make_context("shape", list(arguments)) as ctx:
            command.invoke(ctx)

    return guarded(program, arguments)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(*arguments, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_defaults_come_from_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "x", "--n-features", "3")
    assert found == {"ok": True, "acts": "x", "text": [], "n_features": 3, "fraction": 0.5, "mode": "a", "is_unit": True, "n_steps": None}


def test_values_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "x", "--n-features", "3", "--fraction", "7", "--mode", "b", "--no-is-unit", "--n-steps", "none")
    assert (found["fraction"], found["mode"], found["is_unit"], found["n_steps"]) == (7, "b", False, None)
    assert isinstance(found["fraction"], int)


def test_help_lists_every_field_with_its_description_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    pieces = ("--n-features INT", "How many features.", "--fraction INT|FLOAT", "[default: 0.5]", "--mode a|b", "--is-unit / --no-is-unit")
    assert [piece for piece in (*pieces, "one pass.") if piece not in text] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "--n-features", "3", "--fractoin", "1"), "unknown option '--fractoin'. Did you mean '--fraction'"),
        (("x", "--n-features", "many"), "option 'n_features' of Shape: should be a valid integer"),
        (("x", "--n-features", "3", "--mode", "c"), "option 'mode' of Shape: should be 'a' or 'b', got 'c'"),
        (("x",), "missing option '--n-features'"),
        (("--n-features", "3"), "missing argument 'ACTS'"),
    ],
)
def test_bad_options_name_the_value_and_the_fix(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_several_values_up_to_the_next_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "x", "--text", "a", "b", "--n-features", "3", "--text", "c")["text"] == ["a", "b", "c"]


def test_spread() -> None:
    assert spread(["m", "--text", "a", "-", "--out", "o", "p"], ["--text"]) == ["m", "--text", "a", "--text", "-", "--out", "o", "p"]
    assert spread(["--text", "--out", "o"], ["--text"]) == ["--text", "--out", "o"]
    assert spread(["--text", "a", "--", "b", "c"], ["--text"]) == ["--text", "a", "--", "b", "c"]


def test_typed() -> None:
    assert [typed(text) for text in ("3", "1e-3", "true", "None", "a", "1,2", "-1")] == [3, 0.001, True, None, "a", [1, 2], -1]


def test_metavar() -> None:
    assert [metavar(kind) for kind in (int, int | float | None, Literal["a", "b"], str)] == ["INT", "INT|FLOAT", "a|b", "STR"]


# ---------------------------------------------------------------- YAML


def test_yaml_sets_every_option_and_the_command_line_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("n-features: 4\nn_steps: 9\nis_unit: false\ntext: a.txt\nfraction: 0.25\njson: true\nmode:\n")
    assert run("x", "--config", str(file), "--n-steps", "8") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_features"] == 4 and found["n_steps"] == 8 and found["is_unit"] is False
    assert found["text"] == ["a.txt"] and found["fraction"] == 0.25 and found["mode"] == "a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("n_feature: 4", "unknown option in "),
        ("- 1\n- 2", "must hold 'option: value' lines, got a list"),
        ("a: [1", "is not valid YAML"),
    ],
)
def test_bad_yaml(content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(content)
    assert run("x", "--config", str(file)) == 2
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1


def test_an_unknown_key_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("n_feature: 4")
    run("x", "--config", str(tmp_path / "run.yaml"))
    assert "'n_feature'. Did you mean 'n_features'" in capsys.readouterr().err


def test_a_missing_config_file_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("")
    assert run("x", "--config", str(tmp_path / "rum.yaml")) == 2
    assert f"(did you mean '{tmp_path / 'run.yaml'}'?)" in capsys.readouterr().err


def test_plain_names() -> None:
    assert options.plain("TopK_SAE") == options.plain("topk-sae") == "topksae"
