"""Writing an activation store: whole files or none, resumed to the same bytes, and a full disk that loses nothing."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import armillary.core.activations as store
from armillary.core import artifact
from armillary.core.site import Site
from armillary.core.store import shards
from armillary.core.store.manifest import Cursor, Manifest, ModelEntry
from armillary.core.store.shards import encode, write_chunks
from armillary.core.store.writer import ShardData, StoreWriter, site_entries
from armillary.core.tokens import Document, Tokens
from armillary.errors import CorruptFileError, DiskFullError, MismatchError, OutputExistsError

SITE = Site("resid_post", 0)
N_SHARDS, ROWS = 3, 20


def header(**changes: Any) -> Manifest:
    model = ModelEntry(name="m", revision=changes.pop("revision", "r"), n_layers=2, dtype="float32", tokenizer="t")
    policy = {"context": changes.pop("context", 64)}
    return Manifest(**({"model": model, "sites": site_entries({SITE: 4}), "dtype": "bf16", "policy": policy, "versions": {}} | changes))


def shard(number: int) -> ShardData:
    place, flags = np.arange(ROWS), np.zeros(ROWS, bool)
    tokens = Tokens(place, np.array([0, ROWS]), place * 0 + number, place, np.stack([place, place + 1], 1), flags, ~flags)
    x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(number))
    return ShardData({SITE: encode(x, "bf16")}, tokens, [Document("z" * ROWS)], Cursor(document=number + 1), f"hash{number}")


def write_rest(folder: Path) -> None:
    """Begin or go on, and finish."""
    writer = StoreWriter.begin(folder, header(), resume=True)
    for number in range(len(writer.manifest.shards), N_SHARDS):
        writer.commit(shard(number))
    writer.finish({})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "s"
    write_rest(folder)
    return contents(folder)


class Stop(BaseException):
    """Stands for a SIGKILL: nothing may catch it and tidy up."""


def test_stopped_before_any_system_call_it_goes_on_to_the_same_bytes(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write, flush, rename and removal of a whole run is the last one once; what a kill leaves is never tidied up."""
    calls = count_calls(monkeypatch, lambda: write_rest(tmp_path / "count"))
    assert calls > 40
    for last in range(calls):
        folder = tmp_path / str(last)
        with monkeypatch.context() as patch, pytest.raises(Stop):
            stop_at(patch, last)
            write_rest(folder)
        if (folder / "manifest.json").exists():
            store.open(folder)
        write_rest(folder)
        assert contents(folder) == expected, f"stopped at call {last}"


def count_calls(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> int:
    with monkeypatch.context() as patch:
        seen = stop_at(patch, 10**9)
        work()
    return len(seen)


def stop_at(patch: pytest.MonkeyPatch, last: int) -> list[str]:
    """Make the call number `last` of those that change the disk, and all after it, raise `Stop` without effect."""
    seen: list[str] = []

    def guarded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **settings: Any) -> Any:
            seen.append(name)
            if len(seen) > last:
                raise Stop(name)
            return call(*args, **settings)

        return wrapped

    patch.setattr(os, "fsync", guarded("fsync", lambda _: None))  # a kill leaves the page cache alone
    patch.setattr(os, "replace", guarded("replace", os.replace))
    patch.setattr(Path, "unlink", guarded("unlink", Path.unlink))
    patch.setattr(Path, "mkdir", guarded("mkdir", Path.mkdir))
    return seen


def test_leftovers_are_removed_and_strangers_are_not(tmp_path: Path, expected: dict[str, bytes]) -> None:
    folder = tmp_path / "s"
    writer = StoreWriter.begin(folder, header(), resume=True)
    writer.commit(shard(0))
    for name in (
        "shards/00001.resid_post.0.safetensors",
        "shards/.00001.tokens.safetensors.tmp",
        ".manifest.json.tmp",
        "tokens.safetensors",
    ):
        (folder / name).write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    (folder / "shards" / "notes.txt").write_text("mine")
    write_rest(folder)
    assert contents(folder) == expected | {"notes.txt": b"mine", "shards/notes.txt": b"mine"}


def test_a_finished_store_is_left_alone(tmp_path: Path) -> None:
    write_rest(tmp_path / "s")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    write_rest(tmp_path / "s")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")} == before


# ---------------------------------------------------------------- what is in the way


@pytest.mark.parametrize(("changes", "complaint"), [
    ({"revision": "other"}, "model revision 'r', now asked for 'other'"),
    ({"dtype": "fp32"}, "dtype 'bf16', now asked for 'fp32'"),
    ({"context": 32}, "context 64, now asked for 32"),
    ({"sites": site_entries({SITE: 8})}, r"sites 'resid_post.0 \[4\]', now asked for 'resid_post.0 \[8\]'"),
])  # fmt: skip
def test_a_store_of_another_run_is_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    folder = tmp_path / "s"
    StoreWriter.begin(folder, header(), resume=True).commit(shard(0))
    before = contents(folder)
    with pytest.raises(MismatchError, match=complaint) as caught:
        StoreWriter.begin(folder, header(**changes), resume=True)
    assert contents(folder) == before and "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_a_store_without_rows_may_begin_anew(tmp_path: Path) -> None:
    StoreWriter.begin(tmp_path / "s", header(), resume=True)
    assert StoreWriter.begin(tmp_path / "s", header(dtype="fp32"), resume=True).manifest.dtype == "fp32"


def test_outputs_that_hold_something_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"is not empty; nothing was overwritten. Try --out '.*s-2'"):
        StoreWriter.begin(folder, header(), resume=True)
    with pytest.raises(OutputExistsError):
        StoreWriter.begin(folder / "thesis.txt", header(), resume=True)
    assert contents(folder) == {"thesis.txt": b"mine"}


def test_without_resume_a_store_is_in_the_way_too(tmp_path: Path) -> None:
    write_rest(tmp_path / "s")
    with pytest.raises(OutputExistsError):
        StoreWriter.begin(tmp_path / "s", header(), resume=False)


def test_a_truncated_shard_is_named_before_going_on(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    StoreWriter.begin(folder, header(), resume=True).commit(shard(0))
    path = folder / "shards" / "00000.resid_post.0.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CorruptFileError, match=r"00000\.resid_post\.0\.safetensors has"):
        StoreWriter.begin(folder, header(), resume=True)


def test_sites_whose_names_look_alike_have_files_of_their_own() -> None:
    entries = site_entries({Site.module("a.b.output"): 2, Site.module("a.b.input"): 3})
    alike = site_entries({Site("path", path="a/b"): 2, Site("path", path="a_b"): 3})
    assert len({entry.slug for entry in entries}) == len({entry.slug for entry in alike}) == 2
    assert all(set(entry.slug) <= set("abcdefghijklmnopqrstuvwxyz_.-0123456789") for entry in (*entries, *alike))


# ---------------------------------------------------------------- the disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_full_disk_names_the_file_and_loses_nothing(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, code: int, at: int
) -> None:
    folder = tmp_path / "s"
    writer = StoreWriter.begin(folder, header(), resume=True)
    writer.commit(shard(0))
    before, calls, fsync = contents(folder), [0], os.fsync

    def full(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] >= at:
            raise OSError(code, "full")
        fsync(descriptor)

    with monkeypatch.context() as patch, pytest.raises(DiskFullError, match=str(folder)) as caught:
        patch.setattr(os, "fsync", full)
        for number in (1, 2):
            writer.commit(shard(number))
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1
    found = contents(folder)
    assert all(found[name] == data for name, data in before.items() if name != "manifest.json")
    store.open(folder).verify()
    write_rest(folder)
    assert contents(folder) == expected


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    """The real thing: a process that may write 64 KB per file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(DiskFullError, match=r"the disk is full: '.*big'"):
            write_chunks(tmp_path, "big", [bytes(50_000)] * 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_other_system_errors_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        write_chunks(tmp_path, "a", [b"x"])
    assert list(tmp_path.iterdir()) == []


def test_the_checksum_is_that_of_the_file(tmp_path: Path) -> None:
    entry = write_chunks(tmp_path, "a", [b"one", b"two"])
    assert entry.bytes == 6 and entry.sha256 == artifact.file_sha256(tmp_path / "a") and (tmp_path / "a").read_bytes() == b"onetwo"
    shards.check_bytes(tmp_path, entry)


def test_files_that_are_not_the_stores_are_left_alone(tmp_path: Path) -> None:
    write_rest(tmp_path / "s")
    for name in ("00001.corpus.jsonl", "12345.weights.safetensors", "documents.safetensors", "notes.txt"):
        (tmp_path / "s" / name).write_text("mine")
    write_rest(tmp_path / "s")
    assert {path.name for path in (tmp_path / "s").iterdir() if path.is_file() and path.read_bytes() == b"mine"} == {
        "00001.corpus.jsonl", "12345.weights.safetensors", "documents.safetensors", "notes.txt",
    }  # fmt: skip
