"""The manifest of an activation store: what it holds, what it was made from, and which files are finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from armillary.core.artifact import _near_path, write_atomic
from armillary.core.site import Site
from armillary.core.store.shards import FileEntry
from armillary.errors import CorruptFileError, InputError, MismatchError

SCHEMA = 1
KIND = "activations"
MANIFEST, SHARDS, TOKENS, DOCUMENTS = "manifest.json", "shards", "tokens.safetensors", "documents.jsonl"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelEntry(_Frozen):
    """The model the rows come from; `dtype` is that of its weights, `tokenizer` a hash of its vocabulary and special tokens."""

    name: str
    revision: str
    n_layers: int
    dtype: str
    tokenizer: str


class SiteEntry(_Frozen):
    """One site, its width, and the name it has in file names."""

    site: str
    width: int
    slug: str


class Cursor(_Frozen):
    """Where reading goes on: the number of a document, and of the window in it."""

    document: int = 0
    window: int = 0


class Shard(_Frozen):
    """A finished stretch of windows.

    Args:
        n_rows, n_tokens, n_sequences: its size.
        n_documents: documents that begin in it.
        next: the first window that is not in it.
        text_sha256: the running hash of all documents that began up to its end.
        rows: one file per site, in the order of the sites.
        tokens, documents: its token arrays and texts; None once they were joined into the store's own.
    """

    n_rows: int
    n_tokens: int
    n_sequences: int
    n_documents: int
    next: Cursor
    text_sha256: str
    rows: tuple[FileEntry, ...]
    tokens: FileEntry | None
    documents: FileEntry | None


class Manifest(_Frozen):
    """See `armillary.core.activations` for the layout of a store.

    Args:
        model, sites, dtype, policy: what decides the bytes; a run that differs in one of them cannot be continued.
        versions: of the libraries that wrote it.
        shards: the finished ones; everything else in the folder is a leftover.
        tokens, documents: the joined files of a complete store.
        skipped: documents left out or mended because they could not be read, as {"skipped": n, "replaced": n}.
        complete: whether the text was read to its end, or to `n_tokens`.
    """

    kind: str = KIND
    schema_version: int = SCHEMA
    model: ModelEntry
    sites: tuple[SiteEntry, ...]
    dtype: str
    policy: dict[str, Any]
    versions: dict[str, str]
    shards: tuple[Shard, ...] = ()
    tokens: FileEntry | None = None
    documents: FileEntry | None = None
    skipped: dict[str, int] = {}
    complete: bool = False

    @property
    def n_rows(self) -> int:
        return sum(shard.n_rows for shard in self.shards)

    @property
    def files(self) -> list[FileEntry]:
        """Every file of the store but the manifest."""
        entries = [self.tokens, self.documents]
        for shard in self.shards:
            entries += [*shard.rows, shard.tokens, shard.documents]
        return [entry for entry in entries if entry is not None]

    def site_list(self) -> tuple[Site, ...]:
        return tuple(Site.parse(entry.site) for entry in self.sites)


def is_store(folder: Path) -> bool:
    """Whether there is a manifest."""
    return (folder / MANIFEST).is_file()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest in one step."""
    write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=1).encode())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a store.

    Raises:
        InputError: there is none.
        CorruptFileError: it cannot be read.
        MismatchError: it belongs to something else, or to a newer version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"no activations at '{folder}'{_near_path(folder)}: expected a folder with {MANIFEST}")
    return parse_manifest(path, path.read_bytes())


def parse_manifest(path: Path, data: bytes) -> Manifest:
    """The manifest in the bytes of a file; `path` is for complaints. Raises as `read_manifest` does."""
    try:
        found = json.loads(data)
        _check_kind(path.parent, found)
        return Manifest.model_validate(found)
    except MismatchError:
        raise
    except (ValidationError, ValueError, AttributeError, KeyError, TypeError):
        raise CorruptFileError(f"{path} cannot be read as a manifest of activations; it was cut short or edited") from None


def _check_kind(folder: Path, data: dict[str, Any]) -> None:
    if data.get("kind") != KIND:
        raise MismatchError(f"'{folder}' holds no activations; a folder written by `armillary harvest` is needed")
    if data["schema_version"] > SCHEMA:
        raise MismatchError(f"'{folder}' has schema {data['schema_version']}, this version reads up to {SCHEMA}; upgrade armillary")


def check_same_run(folder: Path, found: Manifest, wanted: Manifest) -> None:
    """Raise `MismatchError` naming the first thing in which two runs differ."""
    for name, old, new in _differences(found, wanted):
        raise MismatchError(f"'{folder}' was harvested with {name} {old!r}, now asked for {new!r}; use another --out, or the same {name}")


def _differences(found: Manifest, wanted: Manifest) -> list[tuple[str, Any, Any]]:
    old, new = ({**_flat(manifest), **manifest.policy} for manifest in (found, wanted))
    return [(name, old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)]


def _flat(manifest: Manifest) -> dict[str, Any]:
    model = {f"model {name}": value for name, value in manifest.model.model_dump().items()}
    return {**model, "sites": ", ".join(f"{entry.site} [{entry.width}]" for entry in manifest.sites), "dtype": manifest.dtype}
