"""Stores at fsspec URLs ("s3://...", "hf://..."): mirrored into a folder of this machine to be read, copied there when complete.

A store is whole at the URL as soon as its manifest is there, which is copied last.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from armillary.core.artifact import write_atomic
from armillary.core.filesystem import filesystem
from armillary.core.store.manifest import MANIFEST, SHARDS, Manifest, parse_manifest, read_manifest
from armillary.core.store.shards import FileEntry
from armillary.errors import CorruptFileError, InputError


def is_remote(path: str | os.PathLike[str]) -> bool:
    return "://" in str(path)


def mirror(url: str) -> Path:
    """The folder that stands for a URL: below $XDG_CACHE_HOME/armillary, or ~/.cache/armillary."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "armillary" / hashlib.sha256(url.encode()).hexdigest()[:16] / url.rstrip("/").rpartition("/")[2]


def pull(url: str) -> Path:
    """The mirror of a store, with every file that is not there yet; where the URL holds no store, whatever the mirror holds."""
    system, root = _system(url)
    folder = mirror(url)
    if system.exists(f"{root}/{MANIFEST}"):
        data = system.cat_file(f"{root}/{MANIFEST}")
        _fetch(system, root, folder, parse_manifest(Path(f"{url}/{MANIFEST}"), data))
        write_atomic(folder / MANIFEST, data)
    return folder


def _fetch(system: Any, root: str, folder: Path, manifest: Manifest) -> None:
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    listed = set(_listed(folder))
    for entry in manifest.files:
        path = folder / entry.name
        if entry not in listed or not path.is_file() or path.stat().st_size != entry.bytes:
            _get(system, f"{root}/{entry.name}", path)


def _get(system: Any, source: str, path: Path) -> None:
    """Fetch a file that appears whole or not at all, whoever else is fetching it."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        system.get_file(source, str(scratch))
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _listed(folder: Path) -> list[FileEntry]:
    """The files the mirror says it holds; none where its manifest is missing or torn."""
    try:
        return read_manifest(folder).files
    except (InputError, CorruptFileError):
        return []


def push(folder: Path, url: str) -> None:
    """Copy a store to a URL, its manifest last; nothing to do where that manifest is there already."""
    system, root = _system(url)
    if system.exists(f"{root}/{MANIFEST}") and system.cat_file(f"{root}/{MANIFEST}") == (folder / MANIFEST).read_bytes():
        return
    system.makedirs(f"{root}/{SHARDS}", exist_ok=True)
    for name in [*(entry.name for entry in read_manifest(folder).files), MANIFEST]:
        system.put_file(str(folder / name), f"{root}/{name}")


def _system(url: str) -> tuple[Any, str]:
    system, root = filesystem(url)
    return system, root.rstrip("/")
