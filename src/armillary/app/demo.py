"""The main job as one call: a model and a text become activations, fits, measurements and one page.

    result = demo.run(demo.Settings(model="gpt2", text=("notes.txt",)))
    result.report                                     # runs/demo-1/report.html

    RUN/acts                              the activations
    RUN/<method>-<site>                   a fit each
    RUN/reports/fidelity-<site>.json      how faithful they are
    RUN/report.html, RUN/run.json         the page; settings, versions, seconds and checksums

A run that was interrupted goes on when it is started again with the same settings and its folder as `out`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from armillary.app import report_page
from armillary.app.demo_sizes import LEAST_HELD_OUT, LOSS_SHARE, Sizes, n_tokens_for
from armillary.app.report_page import Run, SiteResult
from armillary.app.showcase import Shown, choose, look
from armillary.app.subjects import model_name
from armillary.core.artifact import file_sha256, load, refuse_existing, write_atomic
from armillary.core.config import Config
from armillary.core.provenance import versions
from armillary.core.site import Site
from armillary.core.study import Subject
from armillary.core.texts import OnError, TextFiles
from armillary.errors import CapabilityError, InputError
from armillary.lm.harvest import harvest
from armillary.lm.model import LanguageModel
from armillary.lm.reference import texts
from armillary.studies.quality import fidelity

if TYPE_CHECKING:
    from armillary.core.activations import StoredRows
    from armillary.core.decomposition import Decomposition
    from armillary.core.method import Method
    from armillary.core.report import Report
    from armillary.core.tokens import Document

RECORD, PAGE, ACTS, REPORTS = "run.json", "report.html", "acts", "reports"
KINDS = ("resid_post", "mlp_act")
Say = Callable[[str], None]


class Settings(Config):
    """What the demo is told."""

    model: str = "arm-small"
    """A model's name on the Hugging Face hub, a folder, or arm-small or arm-tiny, which ship with the package."""
    text: tuple[str, ...] = ()
    """Files, folders, - for stdin, or datasets:NAME; without any, the standard library and a small world of facts."""
    out: str | None = None
    """Run folder; without it a new runs/demo-<n>. An unfinished run of the same settings goes on."""
    site: tuple[str, ...] = ()
    """Places in the model; without any, resid_post and mlp_act of the middle layer."""
    tokens: int | None = Field(None, ge=1)
    """Tokens to read; without it 100,000, fewer for large models."""
    seed: int = Field(0, ge=0)
    """Same seed, same bits."""
    on_error: OnError = "stop"
    """What to do with texts that are empty or not UTF-8."""
    text_field: str = "text"
    """Field of .jsonl and .parquet that holds the text."""


@dataclass(frozen=True)
class Result:
    """Where the run is and what it found.

    Args:
        folder, report: the run folder and the page in it.
        seconds: from the call to the finished page.
        reports: the fidelity study's, by site.
        warnings: what the reader must know.
    """

    folder: Path
    report: Path
    seconds: float
    reports: dict[str, Report]
    warnings: tuple[str, ...]


def run(settings: Settings = Settings(), *, say: Say = lambda line: None) -> Result:
    """Harvest, fit, measure, look, and write the page.

    Args:
        settings: see `Settings`.
        say: told each step in a line.

    Raises:
        OutputExistsError: `out` holds something else.
        TooFewRowsError: the text is too short to fit anything.
        InputError: an unknown model or site, or text that cannot be read.
    """
    began = time.monotonic()
    lm = LanguageModel(model_name(settings.model))
    sites, remarks = _sites(lm, settings.site)
    with _claimed(settings) as folder:
        results = _Job(lm, settings, folder, say).results(sites)
        warnings = dict.fromkeys([*_lacks(lm), *remarks, *(warning for result in results for warning in result.warnings)])
        text = ", ".join(settings.text) if settings.text else texts.DESCRIPTION
        whole = Run(
            lm.name, lm.revision, lm.n_layers, text, results, folder, _identity(settings), tuple(warnings), time.monotonic() - began
        )
        write_atomic(folder / PAGE, report_page.page(whole).encode())
        seconds = time.monotonic() - began
        _write_record(folder, settings, "done", seconds)
    return Result(folder, folder / PAGE, seconds, {str(result.site): result.report for result in results}, tuple(warnings))


def _sites(lm: LanguageModel, given: tuple[str, ...]) -> tuple[list[Site], list[str]]:
    """The sites asked for, or those of `KINDS` that the middle layer has; and remarks on the ones it lacks."""
    if given:
        return list(dict.fromkeys(lm.source(Site.parse(site)).site for site in given)), []
    sites, warnings = [], []
    for kind in KINDS:
        try:
            sites.append(lm.source(Site(kind, lm.n_layers // 2)).site)
        except CapabilityError as error:
            warnings.append(f"Left out: {error}")
    if not sites:
        raise CapabilityError(f"{lm.name!r} has neither of the usual sites; name one with --site, e.g. --site path:<module>.output")
    return sites, warnings


def _lacks(lm: LanguageModel) -> list[str]:
    if lm.has_logits:
        return []
    return ["The model is an encoder without next-token predictions: the loss with the fits in place, and promoted tokens, are left out."]


@dataclass(frozen=True)
class _Job:
    """What every step needs."""

    lm: LanguageModel
    settings: Settings
    folder: Path
    say: Say

    def results(self, sites: list[Site]) -> tuple[SiteResult, ...]:
        n_tokens = self.settings.tokens or n_tokens_for(sum(parameter.numel() for parameter in self.lm.module.parameters()))
        self.say(f"reading up to {n_tokens:,} tokens through {self.lm.name} at {' and '.join(map(str, sites))}")
        acts = harvest(self.lm, self._texts(), sites, out=self.folder / ACTS, n_tokens=n_tokens, on_error=self.settings.on_error)
        return tuple(self._result(acts[site], site) for site in sites)

    def _texts(self) -> Iterable[Document]:
        settings = self.settings
        if not settings.text:
            return texts.reference_texts()
        return TextFiles(settings.text, on_error=settings.on_error, text_field=settings.text_field)

    def _result(self, rows: StoredRows, site: Site) -> SiteResult:
        """Everything at one site: fits, their report, and the features to show."""
        name_of = report_page.slug(site)
        fitted, held_out = _parted(rows)
        sizes = Sizes.of(fitted.n_rows, rows.layout[0][1])
        fits = {name: self._fit(f"{name}-{name_of}", method, fitted) for name, method in sizes.methods().items()}
        self.say(f"measuring fidelity at {site}")
        report = self._study(held_out or rows, fits)
        _save_report(report, self.folder / REPORTS / f"fidelity-{name_of}.json")
        self.say(f"looking at features at {site}")
        shown = {name: self._shown(fit, rows, report.tables[f"{name}: features"]) for name, fit in fits.items()}
        return SiteResult(site, rows, held_out, fits, report, shown, sizes, tuple(filter(None, [sizes.remark(rows.n_rows)])))

    def _fit(self, name: str, method: Method, rows: StoredRows) -> Decomposition:
        """The fit, made now or by the run that is gone on with."""
        path = self.folder / name
        if path.is_dir():
            return load(path)
        self.say(f"fitting {name}")
        fit = method.fit(rows, seed=self.settings.seed, checkpoint=path.with_name(f".{name}.checkpoint"))
        fit.save(path)
        return fit

    def _study(self, rows: StoredRows, fits: dict[str, Decomposition]) -> Report:
        subjects = [Subject(fit, rows=rows, model=self.lm, name=name) for name, fit in fits.items()]
        n_tokens = max(2_000, rows.n_rows // LOSS_SHARE)
        return fidelity.run(subjects, config=fidelity.Config(n_tokens=n_tokens, seed=self.settings.seed))

    def _shown(self, fit: Decomposition, rows: StoredRows, table: Mapping[str, Sequence[Any]]) -> list[Shown]:
        seed, model = self.settings.seed, self.lm if self.lm.has_logits else None
        return look(fit, rows, choose(table, seed=seed), model=model, seed=seed)


def _parted(rows: StoredRows) -> tuple[StoredRows, StoredRows | None]:
    """Rows to fit, and rows of other texts to measure on where there are enough of both."""
    if rows.n_rows < LEAST_HELD_OUT * 5 or rows.tokens.n_sequences == 1:
        return rows, None
    fitted, held_out = rows.split(0.8)
    return (fitted, held_out) if min(fitted.n_rows, held_out.n_rows) >= LEAST_HELD_OUT else (rows, None)


def _save_report(report: Report, path: Path) -> None:
    """Write the report, in place of the one an interrupted run may have left."""
    path.unlink(missing_ok=True)
    report.save(path)


# ---------------------------------------------------------------- the run folder


@contextmanager
def _claimed(settings: Settings) -> Iterator[Path]:
    """The run folder. An error of the user's leaves nothing of a new one behind; an interruption says how to go on.

    Raises:
        OutputExistsError: `out` holds something that is not this very run, unfinished.
    """
    folder = Path(settings.out) if settings.out else _fresh()
    is_new = not _is_unfinished(folder, settings)
    was_there = folder.is_dir()
    if is_new:
        refuse_existing(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write_record(folder, settings, "running", None)
    try:
        yield folder
    except InputError:
        if is_new:
            for path in list(folder.iterdir()):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not was_there:
                folder.rmdir()
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is done is kept in '{folder}'; the same command with --out {folder} goes on from there") from None


def _fresh() -> Path:
    return next(path for i in range(1, 1_000_000) if not (path := Path("runs") / f"demo-{i}").exists())


def _identity(settings: Settings) -> dict[str, Any]:
    """The settings that decide the result."""
    return settings.model_dump(mode="json", exclude={"out"})


def _is_unfinished(folder: Path, settings: Settings) -> bool:
    """Whether the folder holds a run of equal settings that did not come to its end."""
    if not (folder / RECORD).is_file():
        return False
    try:
        record = json.loads((folder / RECORD).read_text())
    except ValueError:
        return False
    return isinstance(record, dict) and record.get("state") == "running" and record.get("settings") == _identity(settings)


def _write_record(folder: Path, settings: Settings, state: str, seconds: float | None) -> None:
    files = [folder / PAGE, *sorted((folder / REPORTS).glob("*.json"))] if state == "done" else []
    record = {
        "kind": "demo",
        "state": state,
        "settings": _identity(settings),
        "versions": versions(),
        "seconds": seconds,
        "sha256": {path.relative_to(folder).as_posix(): file_sha256(path) for path in files},
    }
    write_atomic(folder / RECORD, json.dumps(record, indent=1).encode())
