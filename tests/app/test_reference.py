"""docs/reference/cli.md is what the commands say of themselves."""

from __future__ import annotations

from pathlib import Path

from armillary import methods, studies
from armillary.app.cli.fit import command as fit
from armillary.app.cli.reference import markdown
from armillary.app.cli.study import command as study

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run: python -m armillary.app.cli.reference > docs/reference/cli.md"


def test_it_has_every_command_method_and_study() -> None:
    titles = {line.lstrip("# ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("##")}
    assert {f"armillary {name}" for name in ("demo", "harvest", "fit", "study", "inspect", "plan", "verify")} <= titles
    assert {f"armillary fit {name}" for name in methods.METHODS} | {f"armillary study {name}" for name in studies.STUDIES} <= titles


def test_no_option_of_a_method_or_study_hides_one_of_the_command() -> None:
    import click

    for family, names in ((fit, methods.METHODS), (study, studies.STUDIES)):
        for name in names:
            command = family.get_command(click.Context(family), name)
            assert command is not None
            spellings = [opt for param in command.params for opt in (*param.opts, *param.secondary_opts)]
            assert len(spellings) == len(set(spellings)), name
