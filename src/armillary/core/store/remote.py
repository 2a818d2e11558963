"""Stores at fsspec URLs ("s3://...", "hf://..."): mirrored into a folder of this machine to be read, copied there when complete.

A store is whole at the URL as soon as its manifest is there, which is copied last.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from armillary.core.store.manifest import MANIFEST, SHARDS, Manifest, parse_manifest, read_manifest
from armillary.core.store.shards import FileEntry


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
        (folder / MANIFEST).write_bytes(data)
    return folder


def _fetch(system: Any, root: str, folder: Path, manifest: Manifest) -> None:
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    here = {entry for entry in _listed(folder) if (folder / entry.name).is_file()}
    for entry in manifest.files:
        if entry not in here:
            system.get_file(f"{root}/{entry.name}", str(folder / entry.name))


def _listed(folder: Path) -> list[FileEntry]:
    return read_manifest(folder).files if (folder / MANIFEST).is_file() else []


def push(folder: Path, url: str) -> None:
    """Copy a store to a URL, its manifest last."""
    system, root = _system(url)
    system.makedirs(f"{root}/{SHARDS}", exist_ok=True)
    for name in [*(entry.name for entry in read_manifest(folder).files), MANIFEST]:
        system.put_file(str(folder / name), f"{root}/{name}")


def _system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    system, root = url_to_fs(url)
    return system, root.rstrip("/")
