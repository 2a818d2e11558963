"""What a plan counts is what the studies ask of a model, and seconds follow from how fast that one is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import armillary as arm
from armillary.app.comparing import costs, plans
from armillary.app.comparing.run import Asked
from armillary.app.tasks import load_task
from armillary.core.study import Subject
from armillary.lm.model import LanguageModel
from armillary.studies.causal import localization, steering
from armillary.studies.quality import fidelity

#: Smaller than any budget, so that it is done in seconds.
CONFIGS: dict[str, Any] = {
    "fidelity": fidelity.Config(n_tokens=1500),
    "steering": steering.Config(n_features=3, n_prompts=2, n_continuations=2, n_tokens=6, targets=(0.1, 0.5), alphas=(0.5, 1.0)),
    "localization": localization.Config(max_pairs=60, penalties=(0.01,), n_steps=(8,), n_random=1),
}


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    lm = arm.LanguageModel("arm-tiny")
    rows = arm.harvest(lm, arm.reference_texts(40), ["resid_post.2"], out=tmp_path_factory.mktemp("run") / "acts")["resid_post.2"]
    fits = {"pca": arm.PCA(n_components=8).fit(rows), "kmeans": arm.KMeans(n_features=8).fit(rows)}
    return [Subject(fit, rows=rows, model=lm, name=name) for name, fit in fits.items()]


@pytest.fixture
def asked_of_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Tokens that the model is asked to read, those to be differentiated as often as a plan counts them, and those that it wrote."""
    count: Counter[str] = Counter()
    logits, generate = LanguageModel.logits, LanguageModel.generate

    def read(self: Any, tokens: Any, **settings: Any) -> Any:
        found = logits(self, tokens, **settings)
        count["read"] += found.shape[0] * found.shape[1] * (costs.BACK if settings.get("grad") else 1)
        return found

    def write(self: Any, tokens: Any, **settings: Any) -> Any:
        found = generate(self, tokens, **settings)
        count["written"] += sum(len(one.ids) for one in found)
        return found

    monkeypatch.setattr(LanguageModel, "logits", read)
    monkeypatch.setattr(LanguageModel, "generate", write)
    return count


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_plan_counts_what_a_study_asks_for(name: str, subjects: list[Subject], asked_of_model: Counter[str]) -> None:
    """Within a factor of two, in tokens read and tokens written; the clean run and what a task's pairs are asked for is shared by all."""
    task = load_task("recall", 0) if name == "localization" else None
    asked = Asked(name, CONFIGS[name], task=task)
    (cost,) = costs.costs([asked], subjects)
    asked_of_model.clear()
    given = [Subject(one.what, rows=one.rows, model=one.model, name=one.name, task=task) for one in subjects]
    {"fidelity": fidelity, "steering": steering, "localization": localization}[name].run(given, config=CONFIGS[name])
    assert asked_of_model["read"] / 2 <= cost.work.read <= 2 * asked_of_model["read"]
    assert asked_of_model["written"] / 2 <= cost.work.written <= 2 * asked_of_model["written"]


def test_pairs_that_a_model_cannot_do_are_not_counted_as_learnt_from(subjects: list[Subject]) -> None:
    task = load_task("recall", 0)
    asked = [Asked("localization", CONFIGS["localization"], task=task)]
    unknown = [Subject(subjects[0].what, name="pca")]
    assert costs.costs(asked, subjects[:1])[0].tokens < costs.costs(asked, unknown)[0].tokens


class Slow:
    """A model that takes so long: 4 ms a pass and 0.1 ms a token, 2 ms a step and 1 ms a text."""

    has_logits = True

    @dataclass(frozen=True)
    class Tokens:
        n: int

        def __len__(self) -> int:
            return 10 * self.n

    def tokenize(self, texts: list[str]) -> Tokens:
        return self.Tokens(len(texts))

    def logits(self, tokens: Tokens) -> None:
        time.sleep(0.004 + 0.0001 * len(tokens))

    def generate(self, tokens: Tokens, *, max_new_tokens: int, **_: Any) -> None:
        time.sleep(max_new_tokens * (0.002 + 0.001 * tokens.n))


def test_the_pace_of_a_model_is_taken_with_one_text_and_with_many() -> None:
    model: Any = Slow()
    pace = costs.pace(model)
    assert pace.read == pytest.approx((0.004, 0.0001), rel=0.3) and pace.write == pytest.approx((0.002, 0.001), rel=0.3)
    assert pace.seconds(costs.Work(passes=10, read=100, steps=5, written=20, besides=3.0)) == pytest.approx(3.08, rel=0.05)


def test_lines_say_seconds_where_a_pace_is_known(subjects: list[Subject]) -> None:
    found = [costs.Cost("steering", "much", costs.Work(read=600, written=100)), costs.Cost("concepts", "a reading", costs.Work())]
    assert costs.lines(found, costs.Pace((0.0, 0.1), (0.0, 1.0)))[:2] == ["steering: much, about 2 min 40 s", "concepts: a reading"]
    assert costs.lines(found, None)[2] == "in all 700 tokens, besides what reading the store takes"
    assert costs.speed_of([Subject(subjects[0].what)]) is None
    assert plans.costs is costs.costs
