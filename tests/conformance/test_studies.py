"""What holds of every study. Entering a study in `armillary.studies.STUDIES` buys it these tests.

A study that needs more than fits, rows and a model is given its subjects in `SUBJECTS`.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import torch

import armillary as arm
import labelled_documents
import words
from armillary.core.artifact import take_apart
from armillary.core.config import Config
from armillary.core.report import Report
from armillary.core.rows import TensorRows
from armillary.core.study import Need, Subject
from armillary.core.tokens import Document
from armillary.errors import InputError
from armillary.studies import STUDIES, load
from planted_lm import STREAM, planted_lm
from support import TEXTS, tiny_lm
from toys import RESID, ToyLM, own_texts, random_sae, toy_rows

DOCS = Path(__file__).parents[2] / "docs" / "studies"
#: Settings that keep a study quick; defaults otherwise.
QUICK: dict[str, dict[str, Any]] = {
    "absorption": {"form": "letter", "min_classes": 2, "n_draws": 2, "n_bootstrap": 100},
    "concepts": {"n_draws": 5, "n_bootstrap": 100},
    "probing": {"ks": (1, 2), "n_random": 1, "n_bootstrap": 100},
    "spurious": {"include_unreliable": True, "ns": (2, 5), "n_bootstrap": 100},
    "fidelity": {"n_bootstrap": 100},
    "labels": {"n_features": 3, "least": 2, "length": 4, "n_bootstrap": 100, "surprisal": False},
    "localization": {"n_bootstrap": 100, "max_pairs": 40, "n_steps": (20,), "penalties": (0.0,), "n_random": 2},
    "regions": {"n_bootstrap": 100, "n_draws": 10},
    "core_exclusive": {"features": (0, 1), "words": ("Lisbon", "Porto"), "prompts": ("The capital is", "We went to"), "n_draws": 10},
    "steering": {"n_features": 2, "n_prompts": 2, "n_tokens": 4, "targets": (0.05, 0.2), "n_bootstrap": 100, "least_auroc": 0.5},
}

pytestmark = pytest.mark.parametrize("name", sorted(STUDIES))


def toy_subjects() -> list[Subject]:
    """Two untrained autoencoders at the end of the toy model's only block."""
    model = ToyLM()
    rows = toy_rows(model, model.tokenize(own_texts(model, 16)), RESID)
    return [Subject(random_sae(rows, seed=seed), rows=rows, model=model, name=f"sae {seed}") for seed in (0, 1)]


def sparse_subjects() -> list[Subject]:
    """Two factorisations of the neurons of a random model."""
    lm = tiny_lm("llama")
    rows = lm.rows(TEXTS * 8, "mlp_act.1")
    method = arm.SemiNMF(n_features=6, neurons_per_feature=12)
    return [Subject(method.fit(rows, seed=seed), rows=rows, model=lm, name=f"groups {seed}") for seed in (0, 1)]


def region_subjects() -> list[Subject]:
    """A mixture and a clustering of the toy model's words, whose first letter is their label."""
    model = ToyLM()
    texts = own_texts(model, 60)
    tokens = model.tokenize(texts)
    tokens = replace(tokens, documents=[Document(text, f"text {i}", {"first": text[0]}) for i, text in enumerate(texts)])
    x = toy_rows(model, tokens, RESID)
    noisy = x.x + 0.1 * torch.randn(x.x.shape, generator=torch.Generator().manual_seed(0), dtype=x.x.dtype)
    rows = TensorRows(noisy, source=model.source(RESID), tokens=tokens)
    fits = {"mixture": arm.MFA(n_regions=4, rank=2), "clusters": arm.KMeans(n_features=4)}
    return [Subject(method.fit(rows, seed=0), rows=rows, model=model, name=name) for name, method in fits.items()]


def steering_subjects() -> list[Subject]:
    """Two autoencoders of the residual stream of a random model."""
    lm = tiny_lm("llama")
    rows = lm.rows(TEXTS * 12, "resid_post.1")
    method = arm.TopKSAE(n_features=8, k=3, n_steps=20, batch_size=64)
    return [Subject(method.fit(rows, seed=seed), rows=rows, model=lm, name=f"sae {seed}") for seed in (0, 1)]


def labelled_subjects() -> list[Subject]:
    """A fit that tells a label of documents, and one that does not."""
    rows, fit = labelled_documents.planted()
    return [Subject(one, rows=rows, name=name) for name, one in (("planted", fit), ("sae", random_sae(rows)))]


def word_subjects() -> list[Subject]:
    """A fit that tells first letters, some of which another feature absorbs, and one that does not."""
    rows, fit = words.planted(0.5)
    return [Subject(one, rows=rows, name=name) for name, one in (("planted", fit), ("sae", random_sae(rows)))]


def task_subjects() -> list[Subject]:
    """Components and clusters of the stream of a model that knows colours and shapes."""
    planted = planted_lm()
    rows = TensorRows(planted.entities, source=planted.lm.source(STREAM))
    fits = {"components": arm.PCA(n_components=12).fit(rows), "clusters": arm.KMeans(n_features=9).fit(rows, seed=0)}
    return [Subject(fit, model=planted.lm, task=planted.task, name=name) for name, fit in fits.items()]


#: Study -> its subjects, where `toy_subjects` lack something it needs.
SUBJECTS: dict[str, Callable[[], list[Subject]]] = {
    "absorption": word_subjects, "concepts": labelled_subjects, "probing": labelled_subjects, "spurious": labelled_subjects,
    "core_exclusive": sparse_subjects, "localization": task_subjects, "regions": region_subjects, "shared_neurons": sparse_subjects,
    "steering": steering_subjects
}  # fmt: skip


def study(name: str) -> ModuleType:
    module = load(name)
    assert isinstance(module, ModuleType)
    return module


def settings(name: str) -> Config:
    found: Config = study(name).Config(**QUICK.get(name, {}))
    return found


def subjects(name: str) -> list[Subject]:
    return SUBJECTS.get(name, toy_subjects)()


@cache
def report_of(name: str, n: int) -> Report:
    found: Report = study(name).run(subjects(name)[:n], config=settings(name))
    return found


def plain(report: Report) -> dict[str, Any]:
    return {key: value for key, value in report.to_json().items() if key != "seconds"}


def test_has_the_shape_of_a_study(name: str) -> None:
    module = study(name)
    assert module.needs <= set(get_args(Need))
    assert getattr(module, "accepts", frozenset()) <= set(get_args(Need)) - module.needs
    assert issubclass(module.Config, Config)
    parameters = inspect.signature(module.run).parameters
    assert next(iter(parameters)) == "subjects"
    assert parameters["config"].default == module.Config()
    assert ast.get_docstring(ast.parse(inspect.getsource(module)))
    assert inspect.getdoc(module.run)


def test_every_setting_has_a_default_and_says_what_it_is(name: str) -> None:
    for field, info in study(name).Config.model_fields.items():
        assert not info.is_required(), field
        assert info.description, field


def test_every_number_can_be_read(name: str) -> None:
    report = report_of(name, 1)
    assert report.estimates
    for key, one in report.estimates.items():
        if one.value is None:
            assert one.reason, key
            continue
        assert one.n > 0, key
        if one.low is not None:
            assert one.low <= one.value + 1e-12, key
            assert one.value <= one.high + 1e-12, key
    for key, table in report.tables.items():
        assert len({len(column) for column in table.values()}) == 1, key
    assert report.provenance["study"] == name
    assert report.seconds > 0


def test_same_seed_same_numbers(name: str) -> None:
    again: Report = study(name).run(subjects(name)[:1], config=settings(name))
    assert plain(again) == plain(report_of(name, 1))


def test_subjects_are_not_changed(name: str) -> None:
    given = subjects(name)
    before: dict[str, torch.Tensor] = {}
    take_apart(given[0].fit().dictionary, before)
    study(name).run(given[:1], config=settings(name))
    after: dict[str, torch.Tensor] = {}
    take_apart(given[0].fit().dictionary, after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_several_subjects_keep_their_own_numbers(name: str) -> None:
    both, alone = report_of(name, 2), report_of(name, 1)
    label = alone.title
    for key, one in alone.estimates.items():
        assert both[f"{label}: {key}"] == one
    assert both.tables["subjects"]["subject"] == [subject.label for subject in subjects(name)]
    assert set(both.tables["differences"]) >= {"estimate", "difference", "verdict"}


def test_the_report_can_be_written(name: str, tmp_path: Path) -> None:
    for n in (1, 2):
        report = report_of(name, n)
        json.dumps(report.to_json(), allow_nan=False)
        for figure in report.figures.values():
            assert set(figure) == {"data", "layout"}
        assert json.loads(report.save(tmp_path / f"{n}.json").read_text())["title"] == report.title


def test_the_report_draws_itself(name: str, tmp_path: Path) -> None:
    pytest.importorskip("armillary.core.render")
    report = report_of(name, 1)
    for suffix in ("html", "md"):
        text = report.save(tmp_path / f"report.{suffix}").read_text()
        assert next(iter(report.estimates)) in text


def test_what_is_missing_is_an_input_error(name: str) -> None:
    bare = subjects(name)[0].what
    if study(name).needs > {"fit"}:
        with pytest.raises(InputError):
            study(name).run(bare, config=settings(name))
    with pytest.raises(InputError, match="at least one subject"):
        study(name).run([], config=settings(name))


def test_the_documentation_is_complete(name: str) -> None:
    """A page per study with every setting and every estimate, and an example that at least compiles."""
    text = (DOCS / f"{name}.md").read_text()
    for word in [*study(name).Config.model_fields, *report_of(name, 1).estimates]:
        assert f"`{word}`" in text, word
    for example in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        assert len(example.splitlines()) <= 15
        compile(example, f"{name}.md", "exec")
