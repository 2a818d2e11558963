"""How labels are scored: by the area under the curve of texts on which the feature is active against texts on which it is silent.

    detection      a judge: does this text hold something that fits the label?                  (one text per question)
    fuzzing        a judge: are the marked parts those that fit the label?
    embedding      cosine of the label's embedding and the text's
    surprisal      by how much the label lowers a model's loss on active texts, less the same on silent ones       (nats per token)
    token_rule     the largest share, among the tokens of the summary, of one that is in the text                   (no label)
    bag_of_words   naive Bayes on the tokens of active and of silent texts                                          (no label)
    top_token      whether the feature's commonest token is in the text                                             (no label)

Detection and fuzzing after Paulo et al. 2024 (arXiv 2410.13928), whose judge answers a list of texts; surprisal and embedding likewise.

Letters: V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from armillary.core.model import Model
from armillary.core.progress import progress
from armillary.core.remembering import Remembering, remembered
from armillary.core.tokens import Tokens
from armillary.errors import InputError
from armillary.inspect.activity import Example
from armillary.inspect.answers import parse_yes_no
from armillary.inspect.asking import Asking, Judge, by_odds, in_words
from armillary.inspect.embedding import Embedder
from armillary.inspect.evidence import Evidence
from armillary.inspect.judges import ReplayJudge
from armillary.inspect.labels import one_line, summary_tokens
from armillary.studies.quality.concept_score import auroc
from armillary.studies.quality.label_examples import Trial

#: Answers of each kind below which a label is not scored.
LEAST_ANSWERS = 2
#: Texts that a model reads together.
TOGETHER = 16


def area(active: Sequence[float], silent: Sequence[float]) -> float:
    """Share of pairs in which the first is larger, ties counting half; of yes (1) and no (0) that is the balanced accuracy."""
    return auroc(np.asarray(active, np.float64), np.asarray(silent, np.float64))


# ---------------------------------------------------------------- a judge


@dataclass(frozen=True)
class Question:
    """One question to a judge.

    Args:
        feature: whose label is scored.
        task: "detection" or "fuzzing".
        label_of: whose label is shown: the feature's, or for the null another's.
        expected: the answer that speaks for the label.
        prompt: the question.
    """

    feature: int
    task: str
    label_of: int
    expected: bool
    prompt: str


def questions(trial: Trial, labels: Mapping[int, str]) -> list[Question]:
    """Of one feature, with each of the labels (by the feature they are of)."""
    out = []
    for of, label in labels.items():
        texts = [(one.text, True) for one in trial.active] + [(one.text, False) for one in trial.silent]
        out += [Question(trial.feature, "detection", of, is_active, detection_prompt(label, text)) for text, is_active in texts]
        out += [Question(trial.feature, "fuzzing", of, one.is_right, fuzzing_prompt(label, one.text)) for one in trial.fuzzed]
    return out


def detection_prompt(label: str, text: str) -> str:
    return (
        f"Description: {label}\n\nText: {one_line(text)}\n\n"
        "Does this text hold something that fits the description? Answer yes or no.\nAnswer:"
    )


def fuzzing_prompt(label: str, text: str) -> str:
    return (
        f"Description: {label}\n\nText, with parts marked <<like this>>: {one_line(text)}\n\n"
        "Are the marked parts those that fit the description? Answer yes or no.\nAnswer:"
    )


@dataclass(frozen=True)
class Verdicts:
    """What a judge made of questions.

    Args:
        score: of each question, log odds of yes or 1 and 0; None where there is no answer.
        by_odds: whether these are log odds.
    """

    score: Sequence[float | None]
    by_odds: bool


def verdicts(judge: Judge, asked: Sequence[Question]) -> Verdicts:
    """Ask; by probabilities where the judge tells them, else by a yes or no, and nothing else, in words.

    A file tells what it holds: one with probabilities for other questions may hold words for these.
    """
    prompts = [one.prompt for one in asked]
    odds = by_odds(judge, prompts, "yes", "no")
    tells_odds = isinstance(judge, Asking) and judge.has_odds and not isinstance(judge, ReplayJudge)
    if tells_odds or any(one is not None for one in odds):
        return Verdicts(odds, True)
    words = [parse_yes_no(answer) for answer in in_words(judge, prompts)]
    return Verdicts([None if word is None else float(word) for word in words], False)


def score_answers(asked: Sequence[Question], score: Sequence[float | None]) -> float | str:
    """The score of one label on one task, or why there is none."""
    sides = [[s for q, s in zip(asked, score, strict=True) if q.expected == side and s is not None] for side in (True, False)]
    if not any(sides):
        return f"the judge gave no answer that can be read to {len(asked)} questions"
    if min(map(len, sides)) < LEAST_ANSWERS:
        n = [sum(q.expected == side for q in asked) for side in (True, False)]
        return f"the judge answered {len(sides[0])} of {n[0]} questions that want a yes and {len(sides[1])} of {n[1]} that want a no"
    return area(*sides)


# ---------------------------------------------------------------- rules


class Rule(Protocol):
    """Scores a text."""

    def __call__(self, example: Example) -> float: ...


def token_rule(evidence: Evidence, tokens: Tokens) -> Rule:
    """The largest share of a token of the summary that is in the text."""
    share = {token.id: token.share for token in summary_tokens(evidence)}
    return lambda example: max((share.get(int(i), 0.0) for i in tokens.ids[example.token]), default=0.0)


def top_token(evidence: Evidence, tokens: Tokens) -> Rule:
    """Whether the commonest token is in the text."""
    top = max(evidence.tokens, key=lambda token: token.share, default=None)
    return lambda example: float(top is not None and bool((tokens.ids[example.token] == top.id).any()))


def bag_of_words(trial: Trial, tokens: Tokens) -> Rule:
    """Multinomial naive Bayes with one count added to each token: mean log ratio of a token's share in active and in silent texts."""
    sides = [np.concatenate([tokens.ids[one] for one in some]) for some in (trial.learn_active, trial.learn_silent)]
    known, place = np.unique(np.concatenate(sides), return_inverse=True)
    counts = [np.bincount(some, minlength=len(known)) + 1.0 for some in np.split(place, [len(sides[0])])]
    weight = np.log(counts[0] / counts[0].sum()) - np.log(counts[1] / counts[1].sum())
    of: dict[int, float] = dict(zip(known.tolist(), weight.tolist(), strict=True))
    return lambda example: float(np.mean([of.get(int(i), 0.0) for i in tokens.ids[example.token]]))


def score_rule(rule: Rule, trial: Trial) -> float:
    return area([rule(one) for one in trial.active], [rule(one) for one in trial.silent])


# ---------------------------------------------------------------- embeddings

#: Texts to unit vectors [n, D]; a row of zeros where a text has none.
Embed = Callable[[Sequence[str]], Any]


def tfidf(texts: Sequence[str]) -> Embed | str:
    """Embedding by words, whose frequencies are those of `texts`, or why there is none."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words: Any = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
    try:
        words.fit(texts)
    except ValueError:
        return "the texts that labels are made from hold no words"
    return lambda some: words.transform(some).toarray()


def by_model(model: Model) -> Embed:
    """Embedding by a model, each text read once."""
    embed = Embedder(model)
    return lambda some: embed(some).numpy()


def score_embedding(embed: Embed, label: str, trial: Trial) -> float | str:
    """The score of a label by its cosine with texts."""
    try:
        one = embed([label])[0]
        sides = [np.round(embed([text.text for text in some]) @ one, 9).tolist() for some in (trial.active, trial.silent)]
    except InputError as error:
        return f"the embedding model cannot read a text: {error}"
    return area(*sides) if np.any(one) else "the label has no word that is in the texts"


# ---------------------------------------------------------------- surprisal


class Reader:
    """A causal model's loss on texts behind a line that may hold a label; no text is read behind the same line twice.

    Args:
        model: with logits.
    """

    def __init__(self, model: Model) -> None:
        self.model = model if isinstance(model, Remembering) else Remembering(model)

    def losses(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int] | None]:
        """(nats, tokens) of each text behind its line, for pairs (line, text); None where the model cannot read it."""
        return remembered(self.model, "surprisal", pairs, lambda places: self._all([pairs[i] for i in places]))

    def _all(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int] | None]:
        found: list[tuple[float, int] | None] = []
        with progress("surprisal", total=len(pairs), unit="texts") as bar:
            for start in range(0, len(pairs), TOGETHER):
                part = pairs[start : start + TOGETHER]
                found += self._read(part)
                bar.advance(len(part))
        return found

    def _read(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int] | None]:
        try:
            return list(_losses(self.model, pairs))
        except InputError:  # one of them is too long, say
            return [None] if len(pairs) == 1 else [found for pair in pairs for found in self._read([pair])]


@torch.no_grad()
def _losses(model: Model, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
    tokens = model.tokenize([f"{line}\n{text}" for line, text in pairs])
    logits = model.logits(tokens)  # [B, T, V]
    found = []
    for i, (line, _) in enumerate(pairs):
        first, end = int(tokens.starts[i]), int(tokens.starts[i + 1])
        t = first + np.flatnonzero((tokens.span[first:end, 1] > len(f"{line}\n".encode())) & ~tokens.is_special[first:end])
        t = t[t > first]
        at, following = torch.from_numpy(t - first - 1), torch.from_numpy(tokens.ids[t])
        log_p = logits[i, at.to(logits.device)].double().log_softmax(-1).cpu()
        found.append((-float(log_p.gather(1, following[:, None]).sum()), len(t)))
    return found


def label_line(label: str | None) -> str:
    """The line that a text is read behind."""
    return "Text:" if label is None else f"Text with {label}:"


def score_surprisal(reader: Reader, label: str, trial: Trial) -> float | str:
    """Nats per token that the label spares on active texts, less those on silent ones."""
    means = []
    for some in (trial.active, trial.silent):
        told, plain = (reader.losses([(label_line(one), text.text) for text in some]) for one in (label, None))
        spared = [(b[0] - a[0]) / max(b[1], 1) for a, b in zip(told, plain, strict=True) if a is not None and b is not None]
        if not spared:
            return "the model could not read the texts with the label, which may be longer than its context"
        means.append(float(np.mean(spared)))
    return means[0] - means[1]
