"""The text the demo reads when none is given: real text that every Python carries, and stories about a small made-up world.

The real half are the modules and topics that the shipped models were not trained on; the world half are documents of another seed than
the training's. The two alternate, so that any beginning of the stream holds about as much of each.
"""

from __future__ import annotations

from collections.abc import Iterator

from armillary.core.tokens import Document
from armillary.lm.reference import corpus

#: Of the world documents; the shipped models were trained on others.
WORLD_SEED = 20_261
#: World documents in all: more text than the real half has.
N_WORLD = 4_000
DESCRIPTION = "half source code and documentation of Python's standard library, half documents about a made-up world"


def documents() -> Iterator[Document]:
    """Documents whose two sources have about the same number of characters at any point of the stream."""
    real, world = corpus.real_documents("held_out"), corpus.world_documents(WORLD_SEED, N_WORLD)
    lead = 0  # characters by which the real half is ahead
    while True:
        found = next(world if lead > 0 else real, None)
        if found is None:
            return
        lead += len(found.text) * (-1 if lead > 0 else 1)
        yield Document(found.text, found.name, found.labels)
