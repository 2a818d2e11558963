"""Writing an activation store: shard after shard, each listed in the manifest only when its files are on the disk.

Letters: n tokens, N rows, D width.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.artifact import refuse_existing, writing
from armillary.core.site import Site
from armillary.core.store.manifest import (
    DOCUMENTS,
    MANIFEST,
    SHARDS,
    TOKENS,
    Cursor,
    Manifest,
    Shard,
    SiteEntry,
    check_same_run,
    is_store,
    read_manifest,
    write_manifest,
)
from armillary.core.store.shards import Column, FileEntry, check_size, column, read_columns, write_chunks, write_columns
from armillary.core.tokens import Document, Tokens

#: Arrays of `Tokens` that have one entry per token.
PER_TOKEN = ("ids", "document", "position", "span", "is_special", "is_row")
# Names this writer gives to files, finished or not
_OWN = re.compile(rf"{SHARDS}/\.?\d{{5,}}\.[^/]*\.(safetensors|jsonl)(\.tmp)?|\.?({TOKENS}|{DOCUMENTS})(\.tmp)?|\.{MANIFEST}\.tmp")


@dataclass(frozen=True)
class ShardData:
    """What one shard is written from.

    Args:
        rows: per site the stored columns (see `shards.encode`).
        tokens: its windows, `document` counting from the first text of the run.
        documents: the texts that begin in it.
        next, text_sha256: see `manifest.Shard`.
    """

    rows: Mapping[Site, Mapping[str, Tensor]]
    tokens: Tokens
    documents: Sequence[Document]
    next: Cursor
    text_sha256: str


def site_entries(widths: Mapping[Site, int]) -> tuple[SiteEntry, ...]:
    """Sites with file names of their own."""
    slugs: list[str] = []
    for site in widths:
        slug = re.sub(r"[^\w.-]", "_", str(site))
        slugs.append(slug if slug not in slugs else f"{slug}-{len(slugs)}")
    return tuple(SiteEntry(site=str(site), width=d, slug=slug) for (site, d), slug in zip(widths.items(), slugs, strict=True))


class StoreWriter:
    """Appends shards to a folder; what it has committed survives any interruption."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @staticmethod
    def begin(folder: Path, wanted: Manifest, *, resume: bool) -> StoreWriter:
        """A writer for a new store, or one that goes on where an equal run stopped.

        Raises:
            OutputExistsError: the folder holds something else, or a store while `resume` is off.
            MismatchError: a store of another run.
            CorruptFileError: a finished file is missing or has another length.
        """
        if not is_store(folder):
            _refuse_foreign(folder)
            with writing(folder):
                (folder / SHARDS).mkdir(parents=True, exist_ok=True)
            write_manifest(folder, wanted)
            return StoreWriter(folder, wanted)
        if not resume:
            refuse_existing(folder)
        found = read_manifest(folder)
        if found.n_rows == 0:  # nothing to lose: begin anew, with whatever settings
            found = wanted
            write_manifest(folder, wanted)
        check_same_run(folder, found, wanted)
        for entry in found.files:
            check_size(folder, entry)
        writer = StoreWriter(folder, found)
        writer._remove_leftovers()
        return writer

    def commit(self, data: ShardData) -> None:
        """Write one shard and then list it."""
        number = f"{SHARDS}/{len(self.manifest.shards):05d}"
        rows = [
            write_columns(self.folder, f"{number}.{entry.slug}.safetensors", {name: column(part) for name, part in stored.items()})
            for entry, stored in zip(self.manifest.sites, data.rows.values(), strict=True)
        ]
        shard = Shard(
            n_rows=data.tokens.n_rows,
            n_tokens=len(data.tokens),
            n_sequences=data.tokens.n_sequences,
            n_documents=len(data.documents),
            next=data.next,
            text_sha256=data.text_sha256,
            rows=tuple(rows),
            tokens=write_columns(self.folder, f"{number}.{TOKENS}", _token_columns(data.tokens)),
            documents=write_chunks(self.folder, f"{number}.{DOCUMENTS}", map(document_line, data.documents)),
        )
        self._list(shards=(*self.manifest.shards, shard))

    def finish(self, skipped: Mapping[str, int]) -> None:
        """Join the shards' tokens and texts into one file each, and mark the store complete."""
        if self.manifest.complete:
            return
        tokens = write_columns(self.folder, TOKENS, self._joined_tokens())
        documents = write_chunks(self.folder, DOCUMENTS, self._joined_documents())
        bare = tuple(shard.model_copy(update={"tokens": None, "documents": None}) for shard in self.manifest.shards)
        self._list(shards=bare, tokens=tokens, documents=documents, skipped=dict(skipped), complete=True)
        self._remove_leftovers()

    def remove(self) -> None:
        """Take back a store without rows: its manifest and what no manifest lists."""
        self._remove_leftovers()
        (self.folder / SHARDS).rmdir()
        (self.folder / MANIFEST).unlink()

    def _list(self, **changes: Any) -> None:
        self.manifest = self.manifest.model_copy(update=changes)
        write_manifest(self.folder, self.manifest)

    def _joined_tokens(self) -> dict[str, Column]:
        """The columns of the whole store, read piece by piece; `line_end` is where each line of documents.jsonl ends."""
        shards = self.manifest.shards
        n, b = sum(s.n_tokens for s in shards), sum(s.n_sequences for s in shards)
        files = [shard.tokens for shard in shards if shard.tokens is not None]

        def whole(name: str, dtype: torch.dtype, *shape: int) -> Column:
            return Column(dtype, shape, map(torch.from_numpy, token_pieces(self.folder, files, name)))

        ends = torch.from_numpy(np.cumsum(np.fromiter(map(len, self._joined_documents()), np.int64)))
        return {
            **{name: whole(name, torch.int64, n) for name in ("ids", "document", "position")},
            "span": whole("span", torch.int64, n, 2),
            "starts": whole("starts", torch.int64, b + 1),
            **{name: whole(name, torch.bool, n) for name in ("is_special", "is_row")},
            "line_end": column(ends),
        }

    def _joined_documents(self) -> Iterator[bytes]:
        for shard in self.manifest.shards:
            assert shard.documents is not None
            with open(self.folder / shard.documents.name, "rb") as lines:
                yield from lines

    def _remove_leftovers(self) -> None:
        """Delete files with names of this writer's that the manifest does not list: what an interruption left half done."""
        listed = {entry.name for entry in self.manifest.files}
        for path in [*self.folder.iterdir(), *(self.folder / SHARDS).iterdir()]:
            name = path.relative_to(self.folder).as_posix()
            if _OWN.fullmatch(name) and name not in listed:
                path.unlink()


def _refuse_foreign(folder: Path) -> None:
    """A folder without a manifest must be empty, but for what a run leaves that was killed before its first manifest."""
    own = {SHARDS, f".{MANIFEST}.tmp"}
    if not folder.is_dir() or {entry.name for entry in folder.iterdir()} - own or any((folder / SHARDS).glob("*")):
        refuse_existing(folder)


def _token_columns(tokens: Tokens) -> dict[str, Column]:
    return {name: column(torch.from_numpy(np.ascontiguousarray(getattr(tokens, name)))) for name in (*PER_TOKEN, "starts")}


def token_pieces(folder: Path, files: Sequence[FileEntry], name: str) -> Iterator[NDArray[Any]]:
    """One token array shard by shard; `starts` is counted on over the shards."""
    offset = 0
    if name == "starts":
        yield np.zeros(1, np.int64)
    for entry in files:
        piece = read_columns(folder / entry.name)[name]
        yield piece[1:] + offset if name == "starts" else piece
        offset += int(piece[-1]) if name == "starts" else 0


def document_line(document: Document) -> bytes:
    """A document as one line of JSON."""
    record = {"text": document.text, "name": document.name, "labels": dict(document.labels), "sha256": document.sha256}
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
