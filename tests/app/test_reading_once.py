"""A comparison as a whole: every text passes the model as it is once, whatever the studies, their fits and their sites are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import armillary as arm
from armillary.app.comparing.run import Asked, compare, reading_once
from armillary.app.tasks import load_task
from armillary.core.rows import Rows
from armillary.core.study import Subject
from armillary.studies.causal import localization, steering
from armillary.studies.quality import fidelity, labels
from counted_lm import Counted

SITES = ("resid_post.1", "mlp_out.1")


def asked() -> list[Asked]:
    task = load_task("recall", 0)
    looked = localization.Config(max_pairs=24, n_steps=(2,), penalties=(0.01,), n_random=1, n_bootstrap=100)
    return [
        Asked("fidelity", fidelity.Config(n_tokens=2000, n_bootstrap=100)),
        Asked("labels", labels.Config(n_features=2, n_active=6, n_silent=6, n_bootstrap=100)),
        Asked("steering", steering.Config(n_features=1, n_prompts=2, n_tokens=4, targets=(0.1,), alphas=(), n_bootstrap=100)),
        *(Asked("localization", looked.model_copy(update={"variables": (name,)}), task=task) for name in task.variables[:2]),
    ]


def counted_subjects(folder: Path) -> tuple[Any, list[Subject]]:
    """Fits to two sites of a model that counts."""
    lm = arm.LanguageModel("arm-tiny")
    counted: Any = Counted(lm)
    texts = arm.reference_texts(24)
    rows: dict[str, Rows] = {site: arm.harvest(lm, texts, [site], out=folder / site)[site] for site in SITES}
    fits = {
        f"{type(kind).__name__} {site}": kind.fit(rows[site])
        for site in SITES
        for kind in (arm.PCA(n_components=8), arm.KMeans(n_features=8))
    }
    return counted, [Subject(fit, rows=rows[name.split()[1]], model=counted, name=name) for name, fit in fits.items()]


def test_every_text_passes_the_model_once_in_all_studies(tmp_path: Path) -> None:
    counted, subjects = counted_subjects(tmp_path)
    found = compare(asked(), subjects, folder=tmp_path / "measured", title="t")
    measured = {row.study.partition(":")[0] for row in found.rows if any(cell.estimate.value is not None for cell in row.cells.values())}
    assert measured == {"fidelity", "labels", "steering", "localization"}
    assert len(counted.seen) > 200 and set(counted.seen.values()) == {1}


def test_fits_to_several_sites_share_the_clean_run_with_nothing_remembered(tmp_path: Path) -> None:
    counted, subjects = counted_subjects(tmp_path)
    report = fidelity.run(subjects, config=fidelity.Config(n_tokens=2000, n_bootstrap=100))
    assert all(report.estimates[f"{one.label}: ce_increase"].value is not None for one in subjects)
    assert len(counted.seen) > 10 and set(counted.seen.values()) == {1}


def test_subjects_of_one_model_share_what_it_remembers() -> None:
    lm = arm.LanguageModel("arm-tiny")
    fit = arm.PCA(n_components=2).fit(lm.rows(arm.reference_texts(4), SITES[0]))
    one, two, none = reading_once([Subject(fit, model=lm), Subject(fit, model=lm), Subject(fit)])
    assert one.model is two.model and one.model is not lm and none.model is None
    assert reading_once([one])[0].model is one.model
