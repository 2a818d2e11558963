"""The activation store: rows of one or more sites on disk, with the tokens they belong to.

    manifest.json                    model, sites, dtype, token policy, finished shards; each file's size and sha256 (`manifest.Manifest`)
    shards/00000.<site>.safetensors  "rows" [N, D] in bf16, fp32, fp16, or int8 with "scale" [N] float32 (x = rows * scale)
    tokens.safetensors               `Tokens`, once for all sites: "ids", "document", "position" [n] and "span" [n, 2] int64, "is_special",
                                     "is_row" [n] bool, "starts" [B + 1] int64; and "line_end" [documents] int64, bytes into
    documents.jsonl                  one text per line: text, name, labels, sha256

While a store is being written each shard has tokens and documents of its own beside its rows (shards/00000.tokens.safetensors,
shards/00000.documents.jsonl). Every file is written under another name, flushed and renamed, and listed in the manifest after that, so
what the manifest lists is whole at any moment and everything else is a leftover. Row i of every site is the i-th token with is_row.

Letters: n tokens, N rows, D width.
"""

from __future__ import annotations

import builtins
import json
import os
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, final, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.rows import Batch, Layout, Permutation
from armillary.core.rows import width as total_width
from armillary.core.site import Site, Source
from armillary.core.store.manifest import Manifest, read_manifest
from armillary.core.store.prefetch import prefetch
from armillary.core.store.remote import is_remote, pull
from armillary.core.store.shards import MappedFiles, as_tensor, check_bytes, check_size, decode, read_columns, take
from armillary.core.store.shuffle import BlockPermutation
from armillary.core.store.writer import PER_TOKEN, token_pieces
from armillary.core.tokens import Document, Tokens
from armillary.errors import InputError, unknown

#: Rows that are fetched from disk together, in bytes; about three such groups are alive at a time.
GROUP_BYTES = 16 << 20
#: Files of a store that stay mapped during a pass, in bytes; the rest is mapped when it is needed.
MAPPED_BYTES = 256 << 20
#: Rows that lie together on disk where a store is too large to shuffle row by row, in bytes.
BLOCK_BYTES = 1 << 20
_DOCUMENTS_KEPT = 64
Shuffle = Permutation | BlockPermutation


def open(path: str | os.PathLike[str], *, memory_budget: int | None = None) -> Harvest:
    """Open a store, finished or not.

    Args:
        path: the folder `harvest` wrote, or an fsspec URL, of which a copy is kept below ~/.cache/armillary.
        memory_budget: bytes up to which a store is shuffled row by row (the operating system caches it); a larger one goes through a
            buffer of a quarter of this. None is half of the machine's memory.

    Raises:
        InputError: there is no store.
        MismatchError: the folder belongs to something else or to a newer version.
        CorruptFileError: a file is missing or has another length than was written; it is named.
    """
    folder = pull(str(path)) if is_remote(path) else Path(path)
    manifest = read_manifest(folder)
    for entry in manifest.files:
        check_size(folder, entry)
    return Harvest(folder, manifest, half_of_memory() if memory_budget is None else memory_budget)


def half_of_memory() -> int:
    """Half of the machine's memory in bytes. Not of what is free: the order of rows must not change with what else is running."""
    import psutil

    return int(psutil.virtual_memory().total) // 2


@final
class Harvest(Mapping[Site, "StoredRows"]):
    """An open store: a mapping from sites to their rows.

    Index it with a Site, with any spelling of one, or with a list of either for their columns side by side.
    """

    def __init__(self, path: Path, manifest: Manifest, memory_budget: int) -> None:
        self.path, self.manifest, self.memory_budget = path, manifest, memory_budget
        self.sites: tuple[Site, ...] = manifest.site_list()

    @overload
    def __getitem__(self, key: Site | str) -> StoredRows: ...
    @overload
    def __getitem__(self, key: list[Site] | list[str]) -> StoredRows: ...
    def __getitem__(self, key: Site | str | list[Site] | list[str]) -> StoredRows:
        keys = key if isinstance(key, list) else [key]
        columns = tuple(self._find(one) for one in keys)
        # The same object for the same columns: subjects that hold equal rows share one reading of them.
        return self._opened.setdefault(columns, StoredRows(self, columns))

    @cached_property
    def _opened(self) -> dict[tuple[int, ...], StoredRows]:
        return {}

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __contains__(self, key: object) -> bool:
        try:
            return isinstance(key, Site | str) and Site.parse(key).resolved(self.manifest.model.n_layers) in self.sites
        except InputError:  # no site of this model at all
            return False

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401

    def _find(self, key: Site | str) -> int:
        site = Site.parse(key).resolved(self.manifest.model.n_layers)
        if site not in self.sites:
            raise unknown(f"site in '{self.path}':", key, map(str, self.sites))
        return self.sites.index(site)

    def __repr__(self) -> str:
        sites = ", ".join(map(str, self.sites))
        state = "" if self.is_complete else ", not complete"
        return f"Harvest('{self.path}': {self.n_rows:,} rows of {self.manifest.model.name} at {sites}, {self.manifest.dtype}{state})"

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table("site", "width", "rows", "on disk", title=f"{self.path}  ({self.manifest.model.name}, {self.manifest.dtype})")
        for i, entry in enumerate(self.manifest.sites):
            size = sum(shard.rows[i].bytes for shard in self.manifest.shards)
            table.add_row(entry.site, f"{entry.width:,}", f"{self.n_rows:,}", f"{size / 1e6:,.1f} MB")
        return table

    @property
    def n_rows(self) -> int:
        return self.manifest.n_rows

    @property
    def is_complete(self) -> bool:
        """Whether the harvest came to its end."""
        return self.manifest.complete

    @property
    def text_sha256(self) -> str:
        """Fingerprint of all texts in their order."""
        return self.manifest.shards[-1].text_sha256 if self.manifest.shards else ""

    @cached_property
    def tokens(self) -> Tokens:
        """The tokens of all rows; memory-mapped where the store is complete, so only what is touched is read."""
        arrays: dict[str, Any] = {name: self._token_array(name) for name in (*PER_TOKEN, "starts")}
        return Tokens(**arrays, documents=self.documents)

    @cached_property
    def documents(self) -> Sequence[Document]:
        """The texts, read from disk one by one."""
        if self.manifest.documents is not None:
            return StoredDocuments(self.path / self.manifest.documents.name, self._joined["line_end"])
        entries = [shard.documents for shard in self.manifest.shards if shard.documents is not None]
        return [_document(line) for entry in entries for line in (self.path / entry.name).read_bytes().splitlines()]

    @cached_property
    def _joined(self) -> dict[str, NDArray[Any]]:
        assert self.manifest.tokens is not None
        return read_columns(self.path / self.manifest.tokens.name)

    def _token_array(self, name: str) -> NDArray[Any]:
        if self.manifest.tokens is not None:
            return self._joined[name]
        files = [shard.tokens for shard in self.manifest.shards if shard.tokens is not None]
        if not files:  # stopped before its first shard
            shape = (0, 2) if name == "span" else (int(name == "starts"),)
            return np.zeros(shape, bool if name.startswith("is_") else np.int64)
        return np.concatenate(list(token_pieces(self.path, files, name)))

    def verify(self) -> int:
        """Compare every file with its checksum; the number of bytes that were read.

        Raises:
            CorruptFileError: names the first file whose bytes are not the ones that were written.
        """
        for entry in self.manifest.files:
            check_bytes(self.path, entry)
        return sum(entry.bytes for entry in self.manifest.files)


@final
class StoredRows:
    """Rows of one site, or of several side by side; satisfies `core.rows.Rows`.

    Args:
        harvest: the open store.
        columns: which of its sites, from left to right.
        part: the first of its windows and the one after the last; None for all.
    """

    def __init__(self, harvest: Harvest, columns: Sequence[int], part: tuple[int, int] | None = None) -> None:
        self._harvest, self._columns, self._part = harvest, columns, part
        self._ends = np.cumsum([shard.n_rows for shard in harvest.manifest.shards], dtype=np.int64)
        self._row_bytes = total_width(self.layout) * {"fp32": 4, "int8": 4}.get(harvest.manifest.dtype, 2)

    def __repr__(self) -> str:
        sites = ", ".join(str(source.site) for source, _ in self.layout if source is not None)
        return f"StoredRows({self.n_rows:,} x {total_width(self.layout)}, {self._harvest.manifest.dtype}, {sites})"

    @property
    def layout(self) -> Layout:
        manifest = self._harvest.manifest
        entries = [manifest.sites[i] for i in self._columns]
        return tuple((Source(manifest.model.name, manifest.model.revision, Site.parse(e.site)), e.width) for e in entries)

    @cached_property
    def n_rows(self) -> int:
        return self._harvest.n_rows if self._part is None else self.tokens.n_rows

    @cached_property
    def tokens(self) -> Tokens:
        return self._harvest.tokens if self._part is None else self._harvest.tokens.sequences(*self._part)

    @cached_property
    def _low(self) -> int:
        """The store's row that is row 0 here."""
        return 0 if self._part is None else self._harvest.tokens.sequences(0, self._part[0]).n_rows

    def split(self, share: float = 0.8) -> tuple[StoredRows, StoredRows]:
        """The rows of the first texts, about `share` of all, and those of the others: to fit on the one and measure on the other.

        A single text is parted between two of its windows.

        Raises:
            InputError: `share` is not between 0 and 1, or there is a single window.
        """
        if not 0 < share < 1:
            raise InputError(f"share must be between 0 and 1, got {share}")
        tokens = self.tokens
        row = np.add.reduceat(tokens.is_row, tokens.starts[:-1], dtype=np.int64).cumsum()[:-1]  # [B - 1] rows before window 1, 2, ...
        text = np.maximum.reduceat(tokens.document, tokens.starts[:-1])
        is_inside = (row > 0) & (row < self.n_rows)
        is_between_texts = is_inside & (text[1:] != text[:-1])
        borders = np.flatnonzero(is_between_texts if is_between_texts.any() else is_inside) + 1
        if len(borders) == 0:
            raise InputError("rows of a single window cannot be split; harvest more text, or with a shorter context")
        middle = int(borders[np.abs(row[borders - 1] - share * self.n_rows).argmin()])
        return self.part(0, middle), self.part(middle, tokens.n_sequences)

    def part(self, first: int, last: int) -> StoredRows:
        """The rows of windows `first` to `last - 1`, counted from the first one here."""
        low = self._part[0] if self._part is not None else 0
        return StoredRows(self._harvest, self._columns, (low + first, low + last))

    def unseen_by(self, provenance: Mapping[str, Any]) -> StoredRows:
        """The windows that a fit of this provenance, made from a part of this store, has not seen; all rows for any other fit."""
        seen = provenance.get("windows")
        if seen is None or provenance.get("text_sha256") != self._harvest.text_sha256:
            return self
        first, last = int(seen[0]), int(seen[1])
        n = self._harvest.tokens.n_sequences
        return StoredRows(self._harvest, self._columns, (last, n) if last < n else (0, first))

    @property
    def record(self) -> Mapping[str, Any]:
        """Where the rows come from, for the provenance of what is made from them."""
        manifest = self._harvest.manifest
        return {
            "store": str(self._harvest.path.absolute()),
            "text_sha256": self._harvest.text_sha256,
            "policy": manifest.policy,
            "dtype": manifest.dtype,
            "order": self.order,
            **({} if self._part is None else {"windows": list(self._part)}),
        }

    @property
    def order(self) -> str:
        """How a shuffled pass is ordered."""
        if self._fits:
            return "permutation of all rows"
        return f"blocks of {self._block:,} rows through a shuffled buffer of {self._buffer:,} rows"

    @property
    def _fits(self) -> bool:
        return self.n_rows * self._row_bytes <= self._harvest.memory_budget

    @property
    def _block(self) -> int:
        return max(1, BLOCK_BYTES // self._row_bytes)

    @property
    def _buffer(self) -> int:
        rows = self._harvest.memory_budget // 4 // self._row_bytes
        return max(1, rows // self._block) * self._block

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """See `core.rows.Rows.batches`. Rows are read in a thread, ahead of the reader; close the iterator to stop it early."""
        if size < 1:
            raise InputError(f"batch size must be at least 1, got {size}")
        shuffle = self._shuffle(seed, epoch)
        near = self._buffer if isinstance(shuffle, BlockPermutation) else max(1, GROUP_BYTES // self._row_bytes)
        groups = groupby(range(skip * size, self.n_rows, size), lambda start: start // near)
        places = ([np.arange(start, min(start + size, self.n_rows))[rank::world] for start in starts] for _, starts in groups)
        files = MappedFiles(MAPPED_BYTES)
        read = prefetch(self._read(group, shuffle, files) for group in places)
        return _batches_of(read)

    def _shuffle(self, seed: int | None, epoch: int) -> Shuffle | None:
        if seed is None:
            return None
        if self._fits:
            return Permutation(self.n_rows, seed, epoch)
        return BlockPermutation(self.n_rows, self._block, self._buffer, seed, epoch)

    def _read(self, places: list[NDArray[np.int64]], shuffle: Shuffle | None, files: MappedFiles) -> _Group:
        """Batches that lie near each other in the order, fetched together."""
        index = np.concatenate(places)
        row = index if shuffle is None else shuffle(index)
        return self._fetch(row, [len(place) for place in places], files)

    def read(self, row: NDArray[np.int64]) -> Tensor:
        """Rows [m, D] at the given indices, in the dtype of the store (int8 becomes float32).

        Raises:
            InputError: an index that is not a row.
            CorruptFileError: a shard that was damaged since the store was opened.
        """
        if len(row) == 0:
            return torch.zeros(0, total_width(self.layout))
        if row.min() < 0 or row.max() >= self.n_rows:
            raise InputError(
                f"row {row.min() if row.min() < 0 else row.max()} is not one of the {self.n_rows:,} rows, 0 to {self.n_rows - 1:,}"
            )
        (batch,) = self._fetch(row, [len(row)], MappedFiles(0)).batches()
        return batch.x

    def _fetch(self, row: NDArray[np.int64], sizes: list[int], files: MappedFiles) -> _Group:
        """Read rows [m] from the disk in ascending order."""
        is_ascending = bool((np.diff(row) > 0).all())
        order = np.arange(len(row)) if is_ascending else np.argsort(row)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return _Group(row, place, sizes, [self._ascending(site, self._low + row[order], files) for site in self._columns])

    def _ascending(self, site: int, row: NDArray[np.int64], files: MappedFiles) -> dict[str, NDArray[Any]]:
        """The stored columns of one site at ascending rows [m]."""
        shards = self._harvest.manifest.shards
        first = files.columns(self._harvest.path / shards[0].rows[site].name)
        out = {name: np.empty((len(row), *stored.shape[1:]), stored.dtype) for name, stored in first.items()}
        for shard, (low, high) in enumerate(pairwise(np.searchsorted(row, [0, *self._ends]))):
            if low < high:
                start = self._ends[shard] - shards[shard].n_rows
                for name, stored in files.columns(self._harvest.path / shards[shard].rows[site].name).items():
                    take(stored, row[low:high] - start, out[name][low:high])
        return out


@dataclass(frozen=True)
class _Group:
    """Rows of several batches as they were read, still in ascending order.

    Args:
        row: [m] their indices in the order of the batches.
        place: [m] where each lies among the rows that were read.
        sizes: rows per batch.
        sites: per site the stored columns.
    """

    row: NDArray[np.int64]
    place: NDArray[np.int64]
    sizes: list[int]
    sites: list[dict[str, NDArray[Any]]]

    def batches(self) -> Iterator[Batch]:
        """The batches; rows are brought into their order here, in the reader's thread, beside the reading of the next group."""
        end = 0
        for size in self.sizes:
            start, end = end, end + size
            place = self.place[start:end]
            parts = [decode({name: as_tensor(take(stored, place)) for name, stored in site.items()}) for site in self.sites]
            yield Batch(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), self.row[start:end])


def _batches_of(groups: Generator[_Group]) -> Iterator[Batch]:
    with closing(groups):
        for group in groups:
            yield from group.batches()


@final
class StoredDocuments(Sequence[Document]):
    """The texts of a store, read from its documents.jsonl when they are asked for.

    Args:
        path: the file.
        line_end: [documents] int64 byte after each line.
    """

    def __init__(self, path: Path, line_end: NDArray[np.int64]) -> None:
        self._path, self._line_end = path, line_end
        self._recent: OrderedDict[int, Document] = OrderedDict()

    def __len__(self) -> int:
        return len(self._line_end)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        number = range(len(self))[index]
        if number not in self._recent:
            self._recent[number] = self._read(number)
            if len(self._recent) > _DOCUMENTS_KEPT:
                self._recent.popitem(last=False)
        return self._recent[number]

    def _read(self, number: int) -> Document:
        start = int(self._line_end[number - 1]) if number else 0
        with builtins.open(self._path, "rb") as file:
            file.seek(start)
            return _document(file.read(int(self._line_end[number]) - start))


def _document(line: bytes) -> Document:
    record = json.loads(line)
    return Document(record["text"], record["name"], record["labels"])
