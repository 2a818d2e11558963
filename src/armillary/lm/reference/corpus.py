"""The training text: documents with labels, rebuilt from a seed and from the files every Python carries.

Two halves. *World* documents are written by `writers.py` from the tables; document `i` of a seed depends on nothing but
(seed, i). *Real* documents are the standard library: each module's source (label `code`), its longer docstrings
and the language reference topics (`prose`). Hold-out is by module and by topic, so no text is on both sides.

Labels: `source` (world, real), `kind` (fact, story, dialogue, question, mcq, list, code, prose) and `domain` (country, city, ..., or the
module). Names are unique within their source.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from armillary.core.tokens import Document
from armillary.lm.reference.reading import write_colours, write_context, write_multiple_choice, write_repeat
from armillary.lm.reference.templates import Split
from armillary.lm.reference.world import World
from armillary.lm.reference.writers import (
    Writer,
    write_dialogue,
    write_emotions,
    write_facts,
    write_list,
    write_questions,
    write_story,
)

MANIFEST = Path(__file__).with_name("corpus_manifest.json")
# folders that are no prose and no program of general interest, or that distributions leave out
SKIPPED = {"test", "tests", "idlelib", "site-packages", "dist-packages", "encodings", "lib-dynload", "__pycache__",
           "ensurepip", "pydoc_data", "lib2to3", "turtledemo", "idle_test", "__phello__"}  # fmt: skip
SKIPPED_FILES = {"html/entities.py", "stringprep.py", "_sysconfigdata", "pydoc_data/topics.py"}
MIN_DOCSTRING = 200  # characters: shorter ones are one-liners that the source shows well enough
HELD_OUT_SHARE = 0.05


# kind of document -> (writer, label, how often per 100 world documents)
WRITERS: dict[str, tuple[Writer, str, int]] = {
    "facts": (write_facts, "fact", 28),
    "questions": (write_questions, "question", 30),
    "dialogue": (write_dialogue, "dialogue", 14),
    "story": (write_story, "story", 10),
    "list": (write_list, "list", 9),
    "emotions": (write_emotions, "story", 4),
    "context": (write_context, "question", 5),
    "multiple_choice": (write_multiple_choice, "mcq", 0),
    "repeat": (write_repeat, "list", 0),
    "colours": (write_colours, "question", 0),
}


def world_documents(seed: int, n: int, *, start: int = 0, mcq_share: float = 0.25, only: str | None = None) -> Iterator[Document]:
    """Documents `start` to `start + n` of a seed's endless world text.

    Args:
        seed: documents of different seeds differ.
        n: how many.
        start: the first document's number.
        mcq_share: share of documents that are multiple-choice questions.
        only: write this kind alone (a key of `WRITERS`).
    """
    world = World.default()
    for i in range(start, start + n):
        rng = random.Random(f"{seed}/{i}")
        yield _world_document(rng, world, only or _kind(rng, mcq_share), f"world/{seed}/{i}")


def _kind(rng: random.Random, mcq_share: float) -> str:
    if rng.random() < mcq_share:
        return "multiple_choice"
    return rng.choices(list(WRITERS), [weight for _, _, weight in WRITERS.values()])[0]


def _world_document(rng: random.Random, world: World, kind: str, name: str) -> Document:
    write, label, _ = WRITERS[kind]
    text, domain = write(rng, world)
    return Document(text, name, {"source": "world", "kind": label, "domain": domain})


def library_files(root: Path | None = None) -> dict[str, Path]:
    """The source files of the standard library that are read, by their path inside it, sorted."""
    root = root or Path(sysconfig.get_path("stdlib"))
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    return {name: files[name] for name in sorted(files) if _wanted(name)}


def _wanted(name: str) -> bool:
    if SKIPPED & set(name.split("/")[:-1]):
        return False
    return name not in SKIPPED_FILES and not name.startswith(("_sysconfigdata", "config-"))


def held_out(name: str) -> bool:
    """Whether a module or topic is kept for evaluation: by a hash of its name, so it never changes sides."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32 < HELD_OUT_SHARE


def real_documents(split: Split | None = None, *, root: Path | None = None) -> Iterator[Document]:
    """Source, docstrings and topics of the standard library of the running Python.

    Args:
        split: `seen` for the training half, `held_out` for the other, None for both.
        root: another library folder, instead of the running Python's.
    """
    for name, path in library_files(root).items():
        if _in_split(name, split):
            yield from _module_documents(name, path.read_text(encoding="utf-8", errors="replace"))
    for name, text in sorted(_topics().items()):
        if _in_split(name, split):
            yield Document(text.strip(), f"topics/{name}", {"source": "real", "kind": "prose", "domain": "topics"})


def _in_split(name: str, split: Split | None) -> bool:
    return split is None or held_out(name) == (split == "held_out")


def _topics() -> dict[str, str]:
    from pydoc_data.topics import topics  # 0.75 MB, only needed here

    return dict(topics)


def _module_documents(name: str, source: str) -> Iterator[Document]:
    domain = name.split("/", maxsplit=1)[0].removesuffix(".py")
    if source.strip():
        yield Document(source, name, {"source": "real", "kind": "code", "domain": domain})
    for place, text in _docstrings(source):
        yield Document(text, f"{name}:{place}", {"source": "real", "kind": "prose", "domain": domain})


def _docstrings(source: str) -> Iterator[tuple[str, str]]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        if text and len(text) >= MIN_DOCSTRING:
            yield f"{getattr(node, 'name', '')}@{getattr(node, 'lineno', 0)}", text


def manifest(root: Path | None = None) -> dict[str, object]:
    """What the real half was made from: the Python version and the sha256 of every file and of the topics."""
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in library_files(root).items()}
    topics = json.dumps(_topics(), sort_keys=True).encode()
    hashes["pydoc_data.topics"] = hashlib.sha256(topics).hexdigest()
    return {"python": platform.python_version(), "files": hashes}


@dataclass(frozen=True)
class Difference:
    """How a standard library differs from the one the shipped models were trained on."""

    python: tuple[str, str]
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether every file is the same, byte for byte."""
        return not (self.changed or self.missing or self.added)

    def __str__(self) -> str:
        if self.is_same:
            return f"standard library as in training (Python {self.python[0]})"
        return (
            f"the standard library differs from the one of training: Python {self.python[1]} here, {self.python[0]} "
            f"there; {len(self.changed)} files changed, {len(self.missing)} missing, {len(self.added)} added"
        )


def compare_manifest(here: dict[str, object] | None = None, there: dict[str, object] | None = None) -> Difference:
    """Compare the running Python's library (`here`) with the shipped manifest (`there`)."""
    here = here or manifest()
    there = there or shipped_manifest()
    ours, theirs = _files(here), _files(there)
    return Difference(
        (str(there["python"]), str(here["python"])),
        tuple(name for name in theirs if name in ours and ours[name] != theirs[name]),
        tuple(name for name in theirs if name not in ours),
        tuple(name for name in ours if name not in theirs),
    )


def _files(manifest: dict[str, object]) -> dict[str, str]:
    files = manifest["files"]
    assert isinstance(files, dict)
    return files


@cache
def shipped_manifest() -> dict[str, object]:
    """The manifest of the training corpus, as the package carries it."""
    loaded = json.loads(MANIFEST.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded
