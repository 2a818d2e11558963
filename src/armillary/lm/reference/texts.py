"""Text to try things on, offline: half of it real, half about the reference models' world, none of it what they were trained on.

The real half are the modules and topics of Python's standard library that are held out of the training; the world half are documents of
another seed. The two alternate, so that any beginning of the list holds about as much of each.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from armillary.core.tokens import Document
from armillary.lm.reference import corpus

#: Of the world documents (the shipped models were trained on others), and of the order of the real ones.
SEED = 20_261
#: World documents in all: more text than the real half has.
N_WORLD = 4_000
#: Characters of a real document, so that a few long modules do not make up the text.
LONGEST = 12_000
DESCRIPTION = "half source code and documentation of Python's standard library, half documents about a small world of facts"


def reference_texts(n: int | None = None) -> list[Document]:
    """The first `n` documents, or all; each has labels: `source` (real, world), `kind` (code, prose, fact, story, ...) and `domain`."""
    return list(islice(_documents(), n))


def _documents() -> Iterator[Document]:
    """Documents whose two sources have about the same number of characters at any point."""
    held_out = list(corpus.real_documents("held_out"))
    random.Random(SEED).shuffle(held_out)
    real, world = iter(held_out), corpus.world_documents(SEED, N_WORLD)
    lead = 0  # characters by which the real half is ahead
    while (found := next(world if lead > 0 else real, None)) is not None:
        text = found.text[:LONGEST]
        lead += len(text) * (-1 if lead > 0 else 1)
        yield Document(text, found.name, found.labels)
