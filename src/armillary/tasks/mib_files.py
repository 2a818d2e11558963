"""Data files of MIB's causal-variable track (Mueller et al. 2025, arXiv 2504.13151), of all five tasks.

A folder with one or more files per split, `train...`, `test...` and perhaps `validation...` or `val...`, each .jsonl or .parquet, as the
benchmark's data sets are published. Nothing is downloaded. What a row is is seen from its fields: options with letters (`mib_choices`:
coloured things, ARC), two names (`mib_names`), sums (`mib_sums`), cities (`mib_facts`: RAVEL).

The fields are those that public descriptions of the published data name: what is read is checked, and a row that does not fit is an error.
Which splits share what is the benchmark's choice; the task's note counts what train and test have in common.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from armillary.core.task import Pair, Task
from armillary.errors import InputError
from armillary.tasks import mib_choices, mib_facts, mib_names, mib_sums
from armillary.tasks.reading import rows_of

ENDINGS = (".jsonl", ".parquet")
SPLITS = {"train": "train", "validation": "train", "val": "train", "test": "test"}
#: Rows of a split that are kept, drawn evenly from all.
MAX_ROWS = 4000


@dataclass(frozen=True)
class Kind:
    """What a row is about.

    Args:
        title: in words.
        pairs: of a row, and where it stands.
        positions: where its variables may be looked for.
    """

    title: str
    pairs: Callable[[dict[str, Any], str], Iterator[Pair]]
    positions: tuple[str, ...]


CHOICES = Kind("multiple choice", mib_choices.pairs, mib_choices.POSITIONS)
NAMES = Kind("indirect objects", mib_names.pairs, mib_names.POSITIONS)
SUMS = Kind("sums", mib_sums.pairs, mib_sums.POSITIONS)
FACTS = Kind("RAVEL", mib_facts.pairs, mib_facts.POSITIONS)


def kind_of(row: Mapping[str, Any], where: str) -> Kind:
    """What a row is about.

    Raises:
        InputError: it is none of MIB's.
    """
    if "operand1" in row:
        return SUMS
    if "choices" in row:
        return NAMES if isinstance(row["choices"], list) else CHOICES
    if {"entity", "attribute"} <= row.keys():
        return FACTS
    raise InputError(
        f"{where} has neither 'choices' nor 'entity' and 'attribute'; it has {', '.join(row)}. Multiple choice, indirect objects, sums "
        "and RAVEL are read, as MIB has them"
    )


def load(folder: str | os.PathLike[str], *, n_train: int = 400, n_test: int = 200, seed: int = 0) -> Task:
    """A task from MIB's files.

    Args:
        folder: where the splits lie.
        n_train, n_test: pairs per variable and kind at most, drawn evenly. Rows of a validation split belong to train.

    Raises:
        InputError: no such folder or split, or a row that does not fit (file, line and field).
        CorruptFileError: a damaged parquet file.
        MissingExtraError: parquet without pyarrow.
    """
    place = Path(folder)
    files = splits(place)
    kind = kind_of(_first_row(files["train"]), f"'{files['train'][0]}'")
    made = []
    for side, n in (("train", n_train), ("test", n_test)):
        rows = _sample(chain.from_iterable(map(rows_of, files[side])), random.Random(f"{seed}/{place.name}/{side}"))
        pairs = [pair for where, row in rows for pair in kind.pairs(row, where)]
        made.append(_limited(pairs, n, random.Random(f"{seed}/{side}")))
        if not pairs:
            raise InputError(f"'{place}': none of {len(rows)} {side} rows gives a pair; see `armillary.tasks.mib_files` for what is read")
    note = f"MIB, {kind.title}, its own splits; train and test have in common: {_shared(*made)}"
    return Task(place.name, made[0], made[1], kind.positions, note)


def splits(folder: Path) -> dict[str, list[Path]]:
    """{"train": files, "test": files} of a folder.

    Raises:
        InputError: a split has none.
    """
    if not folder.is_dir():
        raise InputError(f"'{folder}' is no folder; name the one with MIB's splits, such as train.jsonl and test.jsonl")
    files: dict[str, list[Path]] = {"train": [], "test": []}
    for path in sorted(folder.iterdir()):
        split = re.split(r"[-._]", path.name)[0]
        if split in SPLITS and path.suffix in ENDINGS:
            files[SPLITS[split]].append(path)
    for split, found in files.items():
        if not found:
            raise InputError(f"'{folder}' has no file of the split {split!r}, such as {split}.jsonl or {split}-00000-of-00001.parquet")
    return files


def _first_row(files: Sequence[Path]) -> dict[str, Any]:
    """A row to tell the kind of data by."""
    found = next((row for path in files for _, row in rows_of(path)), None)
    if found is None:
        raise InputError(f"'{files[0]}' has no rows")
    return found


def _sample(rows: Iterable[tuple[str, dict[str, Any]]], rng: random.Random) -> list[tuple[str, dict[str, Any]]]:
    """At most `MAX_ROWS` rows in their order, each as likely as any other (Vitter 1985, algorithm R)."""
    kept: dict[int, tuple[int, tuple[str, dict[str, Any]]]] = {}
    for number, row in enumerate(rows):
        place = number if number < MAX_ROWS else rng.randrange(number + 1)
        if place < MAX_ROWS:
            kept[place] = (number, row)
    return [row for _, row in sorted(kept.values(), key=lambda found: found[0])]


def _limited(pairs: Sequence[Pair], n: int, rng: random.Random) -> tuple[Pair, ...]:
    """At most `n` pairs of each variable and kind."""
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.variable, pair.kind), []).append(pair)
    return tuple(pair for found in groups.values() for pair in (found if len(found) <= n else rng.sample(found, n)))


def _shared(train: Iterable[Pair], test: Iterable[Pair]) -> str:
    sides = [{group for pair in pairs for prompt in (pair.base, pair.source) for group in prompt.groups.items()} for pairs in (train, test)]
    kinds = dict.fromkeys(kind for side in sides for kind, _ in sorted(side))
    both = sides[0] & sides[1]
    return ", ".join(f"{sum(of == kind for of, _ in both)} of {sum(of == kind for of, _ in sides[1])} {kind}" for kind in kinds)
