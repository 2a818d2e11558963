"""A random model, two topics whose words are known, and a fit with a feature for each: what the steering study is tried on."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

import armillary as arm
from armillary.core.dictionary import Dictionary
from armillary.core.report import Report
from armillary.core.rows import TensorRows
from armillary.core.site import Source
from armillary.core.tokens import Tokens
from armillary.studies.causal import steering
from armillary.studies.causal.steering import Config
from support import tiny_lm
from toys import ReluEncoder

SITE = arm.Site("resid_post", 2)
WORDS = (("Lisbon", "Portugal", "Paris", "France"), ("cat", "sat", "mat", "the"))
SMALL = Config(prompts=("We", "It"), n_continuations=6, n_tokens=10, targets=(0.3, 1.0, 2.5), n_bootstrap=200, n_passages=24, n_own=6)


@cache
def world() -> tuple[Any, Tokens, torch.Tensor]:
    """A random model, documents about either of two topics, and rows in which each topic is a coordinate of its own; special tokens are
    rows too, and large."""
    lm = tiny_lm("llama")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS[i % 2], 12)) for i in range(64)]
    tokens = replace(lm.tokenize(texts), is_row=np.ones_like(lm.tokenize(texts).is_row))
    topic = np.repeat(np.arange(64) % 2, tokens.lengths)
    x = torch.from_numpy(0.01 * rng.normal(size=(len(tokens), lm.d_model))).float()
    x[np.arange(len(x)), topic] += 1 + torch.from_numpy(rng.random(len(x))).float()
    x[tokens.is_special] = 1e6
    return lm, tokens, x


@cache
def rows() -> TensorRows:
    lm, tokens, x = world()
    return TensorRows(x, source=Source(lm.name, lm.revision, SITE), tokens=tokens)


def pushes(lm: Any) -> torch.Tensor:
    """[2, D] directions that raise the tokens of each topic."""
    head = lm.module.get_output_embeddings().weight.detach()
    ids = [sorted({int(i) for i in lm.tokenize([" ".join(words)]).ids if i > 1}) for words in WORDS]
    return torch.stack([head[some].mean(0) - head.mean(0) for some in ids])


def planted(n_dead: int = 1) -> arm.Decomposition:
    """A feature per topic that fires on its documents and writes its words, and some that never fire."""
    lm, _, _ = world()
    d = lm.d_model
    weight = torch.cat([torch.eye(d)[:2], torch.zeros(n_dead, d)])
    atoms = torch.cat([pushes(lm), torch.ones(n_dead, d)])
    bias = torch.full((len(atoms),), -0.5)
    layout = ((Source(lm.name, lm.revision, SITE), d),)
    return arm.Decomposition(Dictionary.of_directions(atoms), ReluEncoder(weight, bias), layout, layout)


def subject(**fields: Any) -> arm.Subject:
    return arm.Subject(**{"what": planted(), "rows": rows(), "model": world()[0], "name": "planted", **fields})


@cache
def report() -> Report:
    return steering.run(subject(), config=SMALL)
