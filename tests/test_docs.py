"""The documentation is tested: its Python runs, its links lead somewhere, and nothing public is left out."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from armillary import errors

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def blocks(page: Path) -> str:
    return "\n".join(CODE.findall(page.read_text()))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.slow
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(page), str(page), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    missing = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert not missing


def test_every_error_has_a_page() -> None:
    names = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, errors.ArmillaryError)}
    pages = {page.stem for page in (ROOT / "docs" / "errors").glob("*.md")} - {"README"}
    assert pages == names - {"ArmillaryError"}


def test_every_method_and_study_has_a_page() -> None:
    from armillary.methods import METHODS
    from armillary.studies import STUDIES

    assert {name.replace("-", "_") for name in METHODS} == {page.stem for page in (ROOT / "docs" / "methods").glob("*.md")}
    assert set(STUDIES) == {page.stem for page in (ROOT / "docs" / "studies").glob("*.md")}


def test_the_changelog_speaks_of_this_version() -> None:
    import armillary

    text = (ROOT / "CHANGELOG.md").read_text()
    assert "[Unreleased]" in text or f"[{armillary.__version__}]" in text
    assert f'version = "{armillary.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_python_reference_is_current() -> None:
    import runpy

    page = ROOT / "docs" / "reference" / "api.md"
    made = runpy.run_path(str(page.with_name("make_api.py")))["markdown"]()
    assert page.read_text(encoding="utf-8") == made, "run: python docs/reference/make_api.py > docs/reference/api.md"
