"""Documents are a function of the seed, carry labels, and real text is split by module."""

from __future__ import annotations

from pathlib import Path

import pytest

from armillary.lm.reference import corpus
from armillary.lm.reference.world import World


def test_world_documents_depend_on_seed_and_number_only() -> None:
    whole = list(corpus.world_documents(5, 40))
    assert list(corpus.world_documents(5, 10, start=30)) == whole[30:]
    assert [d.text for d in corpus.world_documents(6, 40)] != [d.text for d in whole]


@pytest.mark.parametrize("kind", corpus.WRITERS)
def test_every_kind_is_written_and_labelled(kind: str) -> None:
    for document in corpus.world_documents(0, 50, only=kind):
        assert document.labels["source"] == "world" and document.labels["kind"] == corpus.WRITERS[kind][1]
        assert document.labels["domain"] and document.text.strip() and not set("{}") & set(document.text)


def test_the_share_of_multiple_choice() -> None:
    kinds = [document.labels["kind"] for document in corpus.world_documents(0, 2000, mcq_share=0.25)]
    assert 0.2 < kinds.count("mcq") / len(kinds) < 0.3


def test_held_out_people_and_objects_are_never_written_about() -> None:
    text = "\n".join(document.text for document in corpus.world_documents(1, 4000))
    world = World.default()
    assert not [p.name for p in world.held_out_people if p.name in text]
    assert not [o for o in world.held_out_objects if f"the {o} " in text.lower()]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    long = "A docstring that is long enough to be a document of its own. " * 5
    (tmp_path / "first.py").write_text(f'"""{long}"""\nx = 1\n', encoding="utf-8")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "second.py").write_text("y = 2\n", encoding="utf-8")
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "third.py").write_text('def f():\n    """Short."""\n', encoding="utf-8")
    return tmp_path


def test_library_files_leave_tests_out(library: Path) -> None:
    assert list(corpus.library_files(library)) == ["first.py", "json/third.py"]


def test_modules_become_code_and_prose(library: Path) -> None:
    documents = [d for d in corpus.real_documents(root=library) if d.labels["domain"] != "topics"]
    assert [(d.name, d.labels["kind"]) for d in documents] == [
        ("first.py", "code"), ("first.py:@0", "prose"), ("json/third.py", "code"),
    ]  # fmt: skip


@pytest.mark.slow
def test_held_out_documents_are_whole_modules() -> None:
    seen, held_out = (list(corpus.real_documents(split)) for split in ("seen", "held_out"))
    assert {d.name.split(":")[0] for d in seen}.isdisjoint(d.name.split(":")[0] for d in held_out)
    size = [sum(len(d.text) for d in documents) for documents in (seen, held_out)]
    assert 0.01 < size[1] / sum(size) < 0.1
    assert {d.labels["kind"] for d in held_out} == {"code", "prose"}


def test_a_different_library_is_reported(library: Path) -> None:
    there = corpus.manifest(library)
    (library / "first.py").write_text("changed = True\n", encoding="utf-8")
    (library / "json" / "third.py").unlink()
    (library / "fourth.py").write_text("z = 3\n", encoding="utf-8")
    difference = corpus.compare_manifest(corpus.manifest(library), {**there, "python": "3.0.0"})
    assert (difference.changed, difference.missing, difference.added) == (("first.py",), ("json/third.py",), ("fourth.py",))
    assert not difference.is_same and "3.0.0" in str(difference) and "1 files changed, 1 missing, 1 added" in str(difference)


def test_the_same_library_is_recognised(library: Path) -> None:
    here = corpus.manifest(library)
    assert corpus.compare_manifest(here, here).is_same


def test_the_shipped_manifest_names_the_python_of_training() -> None:
    shipped = corpus.shipped_manifest()
    assert shipped["python"] == "3.11.7"
    assert isinstance(shipped["files"], dict) and "argparse.py" in shipped["files"] and "pydoc_data.topics" in shipped["files"]
