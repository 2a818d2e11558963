"""Examine a reference model: `python -m armillary.lm.reference.evaluate NAME_OR_FOLDER`.

Three questions. Does it know the world: is the greedy continuation of a prompt the answer, token by token, in wordings of
the training text and in others? Does it read: multiple-choice questions whose answer stands in front of it. Does it model
real text: cross-entropy on held-out library documents, beside a Kneser-Ney 5-gram model with the same tokenizer and text.
Writes `evaluation.json` into the model's folder (or to --out).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from armillary.core.tokens import Document
from armillary.lm import reference
from armillary.lm.reference.corpus import compare_manifest, real_documents, world_documents
from armillary.lm.reference.ngram import NGram
from armillary.lm.reference.reading import context_questions
from armillary.lm.reference.tokenizer import BOS
from armillary.lm.reference.world import Question, World

Item = TypeVar("Item")
Floats = NDArray[np.float64]
UNSEEN_SEED = 1_000_003  # world documents of this seed are in no training run
BATCH = 32


@dataclass(frozen=True)
class Examination:
    """How much is asked. The defaults are what the shipped figures were measured with."""

    per_entity: int = 4
    n_choices: int = 600
    world_documents: int = 400
    real_documents: int | None = None  # all
    with_ngram: bool = True


QUICK = Examination(per_entity=1, n_choices=100, world_documents=50, real_documents=10, with_ngram=False)


@dataclass(frozen=True)
class Figure:
    """One result: a share of right answers, or nats per token; `low` and `high` bound the 95 % interval.

    `n` counts what the interval is over: questions (Wilson) or documents (bootstrap).
    """

    name: str
    value: float
    low: float
    high: float
    n: int


class Examinee:
    """A model with its tokenizer, in float32 on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.context: int = self.model.config.max_position_embeddings

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @torch.no_grad()
    def log_probabilities(self, rows: Sequence[list[int]]) -> list[torch.Tensor]:
        """For each row of ids [T]: log probabilities [T - 1, V] of its tokens after the first."""
        longest = max(map(len, rows))
        batch = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        logits = self.model(batch[:, :-1], use_cache=False).logits.log_softmax(-1)
        return [logits[i, : len(row) - 1] for i, row in enumerate(rows)]

    def answers(self, questions: Sequence[Question]) -> list[bool]:
        """Whether the greedy continuation of each prompt is its answer.

        It is if and only if every token of the answer has the highest logit after the prompt and the answer's earlier tokens.
        """
        right = []
        for batch in _batches(questions, BATCH):
            prompts = [list(self.tokenizer(q.prompt)["input_ids"]) for q in batch]
            wanted = [self.ids(q.answer) for q in batch]
            scored = self.log_probabilities([p + w for p, w in zip(prompts, wanted, strict=True)])
            right += [s.argmax(-1)[-len(w) :].tolist() == w for s, w in zip(scored, wanted, strict=True)]
        return right

    def nats(self, text: str) -> Floats:
        """Surprise [T] of each token of a document, BOS before it, with at least half a context of what precedes."""
        ids = self.ids(text)
        span, step = self.context - 1, self.context // 2
        starts = range(0, max(1, len(ids) - span + step), step)
        windows = [[BOS, *ids[s : s + span]] for s in starts]
        surprise, done = np.zeros(len(ids)), 0
        for batch in _batches(list(zip(starts, windows, strict=True)), BATCH):
            for (start, row), scored in zip(batch, self.log_probabilities([w for _, w in batch]), strict=True):
                taken = -scored.gather(1, torch.tensor(row[1:])[:, None])[:, 0].double().numpy()
                surprise[done : start + len(taken)] = taken[done - start :]
                done = start + len(taken)
        return surprise


def _batches(items: Sequence[Item], size: int) -> Iterable[Sequence[Item]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def share(name: str, right: Sequence[bool]) -> Figure:
    """A share with its Wilson score interval."""
    n, p, z = len(right), float(np.mean(right)), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Figure(name, p, middle - half, middle + half, n)


def per_token(name: str, sums: Floats, tokens: Floats, *, draws: int = 2000) -> Figure:
    """Nats per token over documents (`sums` [n] nats, `tokens` [n]), with a bootstrap over documents."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(sums), (draws, len(sums)))
    low, high = np.quantile(sums[picks].sum(1) / tokens[picks].sum(1), [0.025, 0.975])
    return Figure(name, float(sums.sum() / tokens.sum()), float(low), float(high), len(sums))


def knowledge(examinee: Examinee, exam: Examination) -> tuple[list[Figure], dict[str, dict[str, float]]]:
    """Attribute questions in seen and in held-out wordings: overall, by form, and per attribute."""
    world, figures, table = World.default(), [], {}
    for split in ("seen", "held_out"):
        asked = [q for a in world.attributes for q in world.questions(a, templates=split, per_entity=exam.per_entity)]
        right = examinee.answers(asked)
        figures.append(share(f"attributes/{split}", right))
        for form, ends in (("question", True), ("statement", False)):
            kept = [r for r, q in zip(right, asked, strict=True) if q.is_question == ends]
            figures.append(share(f"attributes/{split}/{form}", kept))
        table[split] = {a: float(np.mean([r for r, q in zip(right, asked, strict=True) if q.attribute == a])) for a in world.attributes}
        sentences = [q for a in world.attributes for q in world.sentences(a, templates=split)]
        figures.append(share(f"attributes/{split}/own sentences", examinee.answers(sentences)))
        figures.append(_macro(f"attributes/{split}/mean over attributes", table[split]))
    return figures, table


def _macro(name: str, table: dict[str, float]) -> Figure:
    values = np.array(list(table.values()))
    return per_token(name, values, np.ones(len(values)))


def reading(examinee: Examinee, exam: Examination) -> list[Figure]:
    """Questions whose answer stands in the prompt: colours of seen and unseen objects, lives of unseen people."""
    world = World.default()
    figures = [
        share(f"colour choice/{split} objects", examinee.answers(list(world.colour_questions(exam.n_choices, objects=split))))
        for split in ("seen", "held_out")
    ]
    rng = random.Random(0)
    told = [q for person in world.held_out_people for _ in range(8) for q in context_questions(rng, person)]
    return [*figures, share("reading/held-out people", examinee.answers(told))]


def modelling(examinee: Examinee, exam: Examination) -> list[Figure]:
    """Held-out cross-entropy: world documents by kind, real documents by label, and the 5-gram model's on the latter."""
    world = list(world_documents(UNSEEN_SEED, exam.world_documents, mcq_share=0.1))
    real = list(real_documents("held_out"))[: exam.real_documents]
    nats = [examinee.nats(document.text) for document in real]
    figures = _entropies("world", world, [examinee.nats(document.text) for document in world])
    figures += _entropies("real", real, nats)
    sums = np.array([n.sum() for n in nats])
    size = np.array([len(d.text.encode()) for d in real], float)
    figures.append(per_token("real/bits per byte", sums / math.log(2), size))
    if exam.with_ngram:
        yardstick = kneser_ney(examinee)
        other = np.array([-yardstick.log_probabilities(np.array(examinee.ids(d.text))).sum() for d in real])
        tokens = np.array([len(n) for n in nats], float)
        figures.append(per_token("real/5-gram", other, tokens))
        figures.append(per_token("real/5-gram minus model", other - sums, tokens))
    return figures


def _entropies(name: str, documents: Sequence[Document], nats: Sequence[Floats]) -> list[Figure]:
    """Nats per token of all documents and of each kind."""
    kinds = [document.labels["kind"] for document in documents]
    figures = [_entropy(name, nats)]
    for kind in sorted(set(kinds)):
        figures.append(_entropy(f"{name}/{kind}", [n for k, n in zip(kinds, nats, strict=True) if k == kind]))
    return figures


def _entropy(name: str, surprises: Sequence[Floats]) -> Figure:
    return per_token(name, np.array([s.sum() for s in surprises]), np.array([len(s) for s in surprises], float))


def kneser_ney(examinee: Examinee) -> NGram:
    """The 5-gram model of the training half of the real text, in the examinee's tokens."""
    documents = (np.array(examinee.ids(document.text), np.int64) for document in real_documents("seen"))
    return NGram.fit(documents, examinee.model.config.vocab_size, bos=BOS)


def evaluate(folder: Path, exam: Examination = Examination()) -> dict[str, Any]:
    """All figures of the model in `folder`, as the content of `evaluation.json`."""
    examinee = Examinee(folder)
    known, table = knowledge(examinee, exam)
    figures = [*known, *reading(examinee, exam), *modelling(examinee, exam)]
    return {
        "parameters": sum(p.numel() for p in examinee.model.parameters()),
        "python": platform.python_version(),
        "library": str(compare_manifest()),
        "examination": asdict(exam),
        "figures": {f.name: {k: v for k, v in asdict(f).items() if k != "name"} for f in figures},
        "attributes": table,
    }


def show(result: dict[str, Any]) -> str:
    """The figures as lines of text."""
    lines = [result["library"], f"{result['parameters']:,} parameters"]
    for name, f in result["figures"].items():
        lines.append(f"{name:42s} {f['value']:7.3f}  [{f['low']:.3f}, {f['high']:.3f}]  n = {f['n']}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m armillary.lm.reference.evaluate", description=__doc__)
    parser.add_argument("model", help="arm-small, arm-tiny, or a folder")
    parser.add_argument("--out", type=Path, help="where to write; default: evaluation.json in the model's folder")
    parser.add_argument("--quick", action="store_true", help="a small sample, without the 5-gram model")
    options = parser.parse_args(arguments)
    folder = reference.path(options.model) if options.model in reference.NAMES else Path(options.model)
    result = evaluate(folder, QUICK if options.quick else Examination())
    print(show(result))
    out = options.out or folder / "evaluation.json"
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
