"""Journals: what fits write as they go, and what happens when they diverge or a package is missing."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import armillary as arm
from armillary.core.journal import JsonLines, Sink, journal, record
from armillary.core.rows import TensorRows
from armillary.core.run import drive
from armillary.errors import MissingExtraError, NonFiniteError

METHOD = arm.TopKSAE(n_features=8, k=2, n_steps=20, batch_size=64)


def rows() -> torch.Tensor:
    return torch.randn(200, 6, generator=torch.Generator().manual_seed(0))


def test_every_point_of_the_curve_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.jsonl"
    with journal(path):
        fits = arm.fit_many([METHOD, arm.BatchTopKSAE(n_features=8, k=2, n_steps=20, batch_size=64), METHOD], rows())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["fit"] for line in lines} == {"TopKSAE 1", "BatchTopKSAE", "TopKSAE 2"}
    for name, fit in zip(("TopKSAE 1", "BatchTopKSAE", "TopKSAE 2"), fits, strict=True):
        assert [{**line, "fit": None} for line in lines if line["fit"] == name] == [{**p, "fit": None} for p in fit.provenance["curve"]]
    record("nobody", 1, {"loss": 1.0})
    assert len(path.read_text().splitlines()) == len(lines), "outside of the context nothing is written"


def test_a_file_is_gone_on_with(tmp_path: Path) -> None:
    for step in (1, 2):
        with journal(JsonLines(tmp_path / "run.jsonl")):
            record("fit", step, {"loss": 0.5})
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 2


def test_a_saved_fit_has_its_curve_as_a_log(tmp_path: Path) -> None:
    fit = METHOD.fit(rows())
    fit.save(tmp_path / "fit")
    lines = [json.loads(line) for line in (tmp_path / "fit" / "log.jsonl").read_text().splitlines()]
    assert lines == list(fit.provenance["curve"])


class Note(Sink):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def open(self) -> None:
        self.told.append("open")

    def write(self, fit: str, step: int, values: Mapping[str, float]) -> None:
        self.told.append((fit, step))

    def close(self) -> None:
        self.told.append("close")


def test_a_sink_is_closed_after_an_error() -> None:
    note = Note()
    with pytest.raises(ZeroDivisionError), journal(note):
        record("fit", 3, {})
        raise ZeroDivisionError
    assert note.told == ["open", ("fit", 3), "close"]


@pytest.mark.parametrize("sink, module", [(arm.WandB(project="x"), "wandb"), (arm.Trackio(project="x"), "trackio")])
def test_services_are_started_told_and_finished(sink: Sink, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    run = SimpleNamespace(define_metric=lambda name, step_metric: told.append((name, step_metric)))
    fake = SimpleNamespace(
        init=lambda **settings: told.append(settings) or run,
        log=told.append,
        finish=lambda: told.append("finish"),
    )
    monkeypatch.setitem(sys.modules, module, fake)
    with journal(sink):
        record("a", 7, {"loss": 0.5})
        record("a", 2, {"loss": 0.25})
    axis = [("a/*", "a/step")] if module == "wandb" else []
    assert told == [{"project": "x"}, *axis, {"a/loss": 0.5, "a/step": 7}, {"a/loss": 0.25, "a/step": 2}, "finish"]


@pytest.mark.parametrize("sink, module", [(arm.WandB(), "wandb"), (arm.Trackio(), "trackio"), (arm.TensorBoard("t"), "tensorboard")])
def test_a_missing_package_is_named(sink: Sink, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=rf"armillary\[{module}\]"), journal(sink):
        pass


def test_divergence_stops_the_training_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """Batches are fine until the seventh, which throws the weights out of all bounds."""
    x = rows()
    whole, checkpoint = METHOD.consumer(TensorRows(x), seed=0, start=None), tmp_path / "c"
    update = whole.update
    seen = [0]

    def breaking(batch: Any) -> None:
        seen[0] += 1
        if seen[0] == 7:
            whole._run.trainer.parameters["W_enc"].fill_(torch.inf)  # type: ignore[attr-defined]
        update(batch)

    whole.update = breaking  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match=r"TopKSAE diverged: its loss is nan at step 7.*Try lr="):
        drive([whole], TensorRows(x), checkpoint=checkpoint, every=0.0)
    again = METHOD.consumer(TensorRows(x), seed=0, start=None)
    drive([again], TensorRows(x), checkpoint=checkpoint)
    assert torch.equal(again.finish().dictionary.atoms, METHOD.fit(x).dictionary.atoms)
