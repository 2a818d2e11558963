"""The steering study runs nothing twice, all that it can together, and refuses early."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

import armillary as arm
from armillary.core.edits import Add
from armillary.core.model import Edit
from armillary.core.rows import TensorRows
from armillary.core.site import Source
from armillary.core.tokens import Tokens
from armillary.errors import InputError
from armillary.studies.causal import proxies, steering, steering_writing, strength
from armillary.studies.causal.edit_families import Beside, Family
from armillary.studies.causal.steering_concept import Concept
from armillary.studies.causal.steering_writing import Sampled, Writer
from counted_lm import Counted
from steered import SITE, SMALL, pushes, report, subject, world


def counting(lm: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of edits of every call that generates."""
    calls: list[int] = []
    run = lm.generate

    def generate(*args: Any, **options: Any) -> Any:
        calls.append(len(options["edits"]))
        return run(*args, **options)

    monkeypatch.setattr(lm, "generate", generate)
    return calls


def test_nothing_is_written_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counting(world()[0], monkeypatch)
    alone = steering.run(subject(), config=SMALL)
    n = len(calls)
    assert calls.count(0) == 1
    assert n - 1 == 1  # all strengths of all features and ways together
    both = steering.run([subject(), subject(name="again")], config=SMALL)
    assert calls[n:].count(0) == 1 and len(calls) == 2 * n
    assert both["again: area"].value == alone["area"].value == both["planted: area"].value


class EditsCounted(Counted):
    """A model that also counts, by edit, strength and token ids, how often each sequence is run, and how often it is gone on from."""

    def __init__(self, lm: Any) -> None:
        super().__init__(lm)
        self.run: Counter[Any] = Counter()
        self.written: Counter[Any] = Counter()

    def logits(self, tokens: Tokens, *, edits: Sequence[Edit] = (), grad: bool = False) -> Any:
        self.run.update(under(tokens, edits) if edits else [])
        return super().logits(tokens, edits=edits, grad=grad)

    def generate(self, tokens: Tokens, *, edits: Sequence[Edit] = (), **how: Any) -> Any:
        self.written.update(zip(under(tokens, edits), how["seed"], strict=True))
        return self.lm.generate(tokens, edits=edits, **how)


def under(tokens: Tokens, edits: Sequence[Edit]) -> list[Any]:
    """What is done to each sequence, and its token ids."""
    done: list[Any] = [()] * tokens.n_sequences
    parts = [part for edit in edits for part in (edit.parts if isinstance(edit, Beside) else [(slice(None), edit)])]
    for some, edit in parts:
        told = tuple(edit.direction.tolist() if isinstance(edit, Add) else [*edit.point.tolist(), "toward"])
        places = range(tokens.n_sequences)[some]
        strength = torch.as_tensor(edit.strength).expand(len(places)).tolist()
        for i, one in zip(places, strength, strict=True):
            done[i] = (edit.writes, told, one)
    ids = [tuple(tokens.ids[low:high].tolist()) for low, high in pairwise(tokens.starts)]
    return list(zip(done, ids, strict=True))


def regions() -> arm.Decomposition:
    lm, tokens, x = world()
    fit = arm.MFA(n_regions=2, rank=1).fit(TensorRows(x[~tokens.is_special]), seed=0)
    layout = ((Source(lm.name, lm.revision, SITE), lm.d_model),)
    return replace(fit, inputs=layout, targets=layout)


def test_no_text_passes_twice_under_the_same_edit_nor_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the ways, the strengths and the subjects: two that are the same, and regions, whose strengths are given too."""
    monkeypatch.setattr(steering_writing, "TOGETHER", 30)
    monkeypatch.setattr(strength, "ENTRIES", 40_000)
    counted: Any = EditsCounted(world()[0])
    asked = [subject(model=counted), subject(model=counted, name="again"), subject(what=regions(), model=counted)]
    found = steering.run(asked, config=SMALL.model_copy(update={"alphas": (0.5, 1.0), "targets": (0.001, 1.0, 2.5), "temperature": 0.0}))
    assert {"feature", "against it", "random direction", "DiffMeans"} == set(found.tables["planted: strengths"]["along"])
    assert len(counted.run) > 100 and set(counted.run.values()) == {1}
    assert len(counted.written) > 100 and set(counted.written.values()) == {1}
    assert len(counted.seen) > 20 and set(counted.seen.values()) == {1}


def test_families_without_a_name_do_not_share_their_texts() -> None:
    lm = world()[0]
    one, other = (Family(lambda strength, where, push=push: Add(SITE, push, strength, where)) for push in pushes(lm))
    writer = Writer(lm, ["We"], Sampled(n_continuations=1, n_tokens=6))
    first, second, nothing = writer.steered([(one, 20.0), (other, 20.0), (one, 0.0)])
    assert first.ids != second.ids and nothing.ids == writer.plain().ids
    assert writer.doses([(one, (1,))], [0.5], tolerance=0.02) != writer.doses([(other, (1,))], [0.5], tolerance=0.02)


def test_what_is_read_of_texts_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[Any] = Counter()
    read = Concept.log_odds

    def counting(self: Concept, texts: Any) -> Any:
        if isinstance(texts, tuple):  # of a `Texts`; lists are passages
            calls[id(self), texts] += 1
        return read(self, texts)

    monkeypatch.setattr(Concept, "log_odds", counting)
    steering.run(subject(), config=SMALL)
    assert len(calls) > 10 and max(calls.values()) == 1


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_read() -> None:
    class Unread(TensorRows):
        def batches(self, *args: Any, **options: Any) -> Any:
            raise AssertionError("rows were read")

    lm, tokens, x = world()
    given = Unread(x, source=Source(lm.name, lm.revision, SITE), tokens=tokens)
    nearly = next(" ".join(["We"] * n) for n in range(1, 99) if len(lm.tokenize([" ".join(["We"] * n)])) > lm.context - 30)
    for prompts in (("We", "We " * 200), (nearly,)):
        with pytest.raises(InputError, match="reads at most"):
            steering.run(subject(rows=given), config=SMALL.model_copy(update={"prompts": prompts, "n_tokens": 60}))
    with pytest.raises(AssertionError, match="rows were read"):
        steering.run(subject(rows=given), config=SMALL)


def test_a_model_has_one_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Writer] = []
    monkeypatch.setattr(steering, "Writer", lambda *args: made.append(Writer(*args)) or made[-1])
    steering.run([subject(), subject(name="again")], config=SMALL.model_copy(update={"features": (0,), "targets": (1.0,)}))
    assert len(made) == 1


def test_no_number_depends_on_batch_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "TOKENS", 20)
    monkeypatch.setattr(strength, "ENTRIES", 20_000)
    monkeypatch.setattr(steering_writing, "TOGETHER", 20)
    other = steering.run(subject(), config=SMALL.model_copy(update={"batch_size": 7}))
    for name, one in report().estimates.items():
        assert other[name].value == pytest.approx(one.value, rel=1e-3, abs=1e-6), name
    assert other.tables["texts"]["steered"] == report().tables["texts"]["steered"]
