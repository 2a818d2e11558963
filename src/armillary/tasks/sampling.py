"""Seeded halves and draws that every builder of tasks uses."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from armillary.core.task import Prompt
from armillary.errors import InputError, unknown

Item = TypeVar("Item")
Draw = tuple[Prompt, Prompt]
#: Draws per wanted one before we say that there are not as many.
_PATIENCE = 100


def halves(what: str, items: Iterable[Item], *, seed: str, test_share: float, least: int = 1) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """(train, test): all items, shuffled, with at least `least` on each side.

    Raises:
        InputError: too few of them, or a share that is none.
    """
    pool = list(items)
    if not 0 < test_share < 1:
        raise InputError(f"test_share must lie between 0 and 1, got {test_share}")
    if len(pool) < 2 * least:
        raise InputError(f"{len(pool)} {what}; train and test share none and need {least} each, so at least {2 * least}")
    random.Random(seed).shuffle(pool)
    n_test = min(max(round(test_share * len(pool)), least), len(pool) - least)
    return tuple(pool[n_test:]), tuple(pool[:n_test])


def distinct(what: str, draw: Callable[[], Item], n: int, key: Callable[[Item], Hashable]) -> list[Item]:
    """`n` draws with different keys.

    Raises:
        InputError: there are not as many.
    """
    found: dict[Hashable, Item] = {}
    for _ in range(_PATIENCE * n):
        if len(found) == n:
            break
        drawn = draw()
        found.setdefault(key(drawn), drawn)
    if len(found) < n:
        raise InputError(f"{what}: {n} different pairs were asked for and {len(found)} found; ask for fewer, or give more to make them of")
    return list(found.values())


def by_kind(name: str, kinds: Sequence[str], n: int, draw: Callable[[str], Draw]) -> list[tuple[str, Draw]]:
    """(kind, base and source) of `n` draws with different texts, spread evenly over kinds and in turn."""
    counts = {kind: len(range(i, n, len(kinds))) for i, kind in enumerate(kinds)}
    drawn = {kind: _draws(f"task {name!r}, kind {kind!r}", draw, kind, count) for kind, count in counts.items()}
    return [(kind, drawn[kind][i]) for i in range(n) for kind in kinds if i < counts[kind]]


def _draws(what: str, draw: Callable[[str], Draw], kind: str, n: int) -> list[Draw]:
    return distinct(what, lambda: draw(kind), n, lambda pair: (pair[0].text, pair[1].text))


def known(what: str, wanted: Sequence[str], allowed: Sequence[str]) -> None:
    """Stop at a name that is not allowed, or when there is none.

    Raises:
        UnknownNameError: which.
        InputError: none at all.
    """
    for name in wanted:
        if name not in allowed:
            raise unknown(what, name, allowed)
    if not wanted:
        raise InputError(f"name at least one {what} of {', '.join(allowed)}")


def other(rng: random.Random, items: Sequence[Item], than: Item) -> Item:
    """A random item that is not the given one."""
    return rng.choice([item for item in items if item != than])
