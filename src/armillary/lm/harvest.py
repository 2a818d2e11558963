"""harvest: text through a model into a store of activations; LiveRows: the same rows without the store.

Letters: N rows, D width.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core import activations
from armillary.core.activations import Harvest
from armillary.core.progress import progress
from armillary.core.provenance import versions
from armillary.core.rows import Batch, Layout, Permutation
from armillary.core.site import Site, Source
from armillary.core.store.manifest import Manifest, ModelEntry
from armillary.core.store.prefetch import prefetch
from armillary.core.store.remote import is_remote, pull, push
from armillary.core.store.shards import DTYPES, check_dtype, decode
from armillary.core.store.writer import ShardData, StoreWriter, site_entries
from armillary.core.texts import OnError, TextErrors, TextFiles, add_to_fingerprint, checked
from armillary.core.tokens import Document, Tokens, concatenate
from armillary.errors import InputError, TextError
from armillary.lm.capture import capture_block
from armillary.lm.packing import Block, Harvested, Packing, Start, check_same_texts, read_blocks

#: What can be harvested: one text, texts, documents, or a stream of either (`TextFiles` reads files).
Texts = str | Iterable[str] | Iterable[Document]
#: Windows are no longer than this unless `context` says so: most of what a site holds is decided by the last few hundred tokens.
DEFAULT_CONTEXT = 512
#: A shard holds about so many bytes of its widest site, unless `shard_rows` says otherwise. From 32 MiB on, glibc takes fresh pages from
#: the system for every buffer, which costs as much as writing it.
SHARD_BYTES = 31 << 20
#: Rows among which a live stream is shuffled.
BUFFER_ROWS = 1 << 16
_PROBE = "The quick brown fox, 1234567890!  Naïve café\n\tdef f(x): return x ** 2  # 数 🙂"


def harvest(
    lm: Harvested,
    texts: Texts,
    sites: Site | str | Sequence[Site | str],
    *,
    out: str | os.PathLike[str],
    dtype: str = "bf16",
    context: int | None = None,
    stride: int | None = None,
    exclude_special: bool = True,
    exclude_first: int = 0,
    batch_tokens: int = 4096,
    shard_rows: int | None = None,
    n_tokens: int | None = None,
    resume: bool = True,
    on_error: OnError = "stop",
) -> Harvest:
    """Run texts through a model and keep the activations of some sites.

    Every document is cut into windows of at most `context` tokens, each with the special tokens the tokenizer puts around a text;
    windows of similar length are run together and stored in document order. Killed at any moment, the same call goes on after the last
    finished shard and ends with the same bytes; when nothing is left to do it checks that the texts are the same and returns the store.

    Args:
        lm: a `LanguageModel`.
        texts: a text, texts, documents, or a stream of them such as `TextFiles`.
        sites: one or more places of the model.
        out: a folder that is empty, does not exist, or holds this very harvest; or an fsspec URL, to which the finished store is copied
            from below ~/.cache/armillary.
        dtype: bf16, fp32, fp16, or int8 with one scale per row.
        context: tokens of a window at most; None is the model's own, capped at 512.
        stride: tokens between the starts of a long document's windows; None is `context`, no overlap. See `Packing`.
        exclude_special: leave out tokens the tokenizer added.
        exclude_first: leave out the first so many positions of every window.
        batch_tokens: tokens of one forward pass, padding included.
        shard_rows: rows of a shard at most, and what an interruption loses at most; None is about 31 MiB of the widest site.
        n_tokens: stop after so many rows; None reads all text.
        resume: go on where an interrupted harvest into `out` stopped; otherwise `out` must be new.
        on_error: what to do with empty texts and texts that UTF-8 cannot hold: stop, skip, or replace.

    Raises:
        OutputExistsError: `out` holds something else.
        MismatchError: `out` is a harvest of another model, other texts or other settings.
        TextError: a text is empty, or no text was given at all.
        NonFiniteError: the model gives NaN or infinity.
        DiskFullError: no room left; the finished shards are intact.
    """
    check_dtype(dtype)
    errors = TextErrors(on_error)
    found = resolve_sites(lm, sites)
    packing = make_packing(
        lm, found, dtype=dtype, context=context, stride=stride, exclude_special=exclude_special, exclude_first=exclude_first,
        batch_tokens=batch_tokens, shard_rows=shard_rows, n_tokens=n_tokens,
    )  # fmt: skip
    folder = pull(str(out)) if is_remote(out) else Path(out)
    was_there = folder.exists()
    writer = StoreWriter.begin(folder, _manifest(lm, found, packing, dtype), resume=resume)
    if writer.manifest.complete:
        check_same_texts(checked(texts, errors), _start(writer.manifest), is_cut=writer.manifest.n_rows == n_tokens)
    else:
        with _nothing_left_behind(writer, keep_folder=was_there):
            _write(lm, checked(texts, errors), found, packing, writer)
        writer.finish(_all_counts(texts, errors))
    if is_remote(out):
        push(folder, str(out))
    return activations.open(folder)


@contextmanager
def _nothing_left_behind(writer: StoreWriter, *, keep_folder: bool) -> Iterator[None]:
    """An error of the user's takes back what was made for a store that has no row yet."""
    try:
        yield
    except InputError:
        if writer.manifest.n_rows == 0:
            writer.remove()
            if not keep_folder:
                writer.folder.rmdir()
        raise


def _write(lm: Harvested, documents: Iterable[Document], sites: list[Site], packing: Packing, writer: StoreWriter) -> None:
    """Capture block after block; the next block's text is tokenized, and the last one's rows are written, in threads of their own."""
    start = _start(writer.manifest)
    blocks = prefetch(read_blocks(lm, documents, packing, start))
    written: Future[None] | None = None
    bar = progress("harvest", total=packing.n_tokens, unit="tokens", done=start.n_rows)
    with bar as shown, ThreadPoolExecutor(1, "armillary-write") as writing, closing(blocks):
        for block in blocks:
            if block.tokens.n_rows == 0:  # every token of the text is excluded
                continue
            rows = capture_block(lm, block, sites, packing.batch_tokens, writer.manifest.dtype)
            if written is not None:
                written.result()
            data = ShardData(rows, block.tokens, block.documents, block.next, block.text_sha256)
            written = writing.submit(writer.commit, data)
            shown.advance(block.tokens.n_rows)
        if written is not None:
            written.result()
    if writer.manifest.n_rows == 0:
        raise TextError("the texts give no rows: there is no text, or every token is excluded; check --text, and exclude_first")


def _start(manifest: Manifest) -> Start:
    shards = manifest.shards
    if not shards:
        return Start()
    return Start(shards[-1].next, sum(shard.n_documents for shard in shards), manifest.n_rows, shards[-1].text_sha256)


def _all_counts(texts: Texts, errors: TextErrors) -> dict[str, int]:
    read = texts.errors.counts() if isinstance(texts, TextFiles) else {}
    return {name: count + read.get(name, 0) for name, count in errors.counts().items()}


def resolve_sites(lm: Harvested, sites: Site | str | Sequence[Site | str]) -> list[Site]:
    """Sites as the model names them, each once."""
    given = [sites] if isinstance(sites, Site | str) else list(sites)
    if not given:
        raise InputError("no site was given; name at least one, e.g. 'resid_post.0'")
    return list(dict.fromkeys(lm.source(Site.parse(site)).site for site in given))


def make_packing(
    lm: Harvested, sites: Sequence[Site], *, dtype: str, context: int | None, stride: int | None, shard_rows: int | None, **settings: Any
) -> Packing:
    """The packing with everything that was left open filled in.

    Raises:
        InputError: a context beyond the model's, or numbers that do not fit together.
    """
    longest = lm.context or context or DEFAULT_CONTEXT
    length = min(longest, DEFAULT_CONTEXT) if context is None else context
    if length > longest:
        raise InputError(f"context must be at most the model's, {longest}, got {length}; use --context {longest}")
    widest = max(lm.width(site) for site in sites) * DTYPES[dtype].itemsize
    rows = min(max(SHARD_BYTES // widest, 1 << 10), 1 << 16) if shard_rows is None else shard_rows
    return Packing(length, length if stride is None else stride, shard_rows=rows, **settings)


def _manifest(lm: Harvested, sites: Sequence[Site], packing: Packing, dtype: str) -> Manifest:
    return Manifest(
        model=ModelEntry(
            name=lm.name,
            revision=lm.revision,
            n_layers=lm.n_layers,
            dtype=str(lm.dtype).removeprefix("torch."),
            tokenizer=tokenizer_hash(lm),
        ),
        sites=site_entries({site: lm.width(site) for site in sites}),
        dtype=dtype,
        policy=packing.to_json(),
        versions=versions(),
    )


def tokenizer_hash(lm: Harvested) -> str:
    """Equal for tokenizers with the same vocabulary that cut a probe text alike."""
    probe = lm.tokenize([Document(_PROBE)])
    told = json.dumps([lm.vocabulary(), probe.ids.tolist(), probe.is_special.tolist()])
    return hashlib.sha256(told.encode(errors="surrogatepass")).hexdigest()


# ---------------------------------------------------------------- without a store


@final
class LiveRows:
    """Rows straight from the model, with nothing on disk; satisfies `core.rows.Rows`.

    In stored order they are the rows that `harvest` with equal settings would store, bit for bit. A shuffled pass fills a buffer,
    shuffles it and hands it out; a buffer that holds all rows gives the order of a store. On several ranks every rank runs the model
    over all of the text.

    Args:
        lm: a `LanguageModel`.
        texts: texts that can be read again: a list, or a stream like `TextFiles` whose iterator starts anew each time.
        sites: one or more places, side by side.
        dtype: the precision rows are rounded to, as a store's.
        buffer_rows: rows among which a shuffled pass is shuffled, at least; it holds whole blocks.
        on_error: see `harvest`; so are the other settings, with `shard_rows` the rows that are captured together.

    `n_rows` and `tokens` are known for a list (all of it is tokenized when they are first asked for) and None for a stream.
    """

    def __init__(
        self,
        lm: Harvested,
        texts: Texts,
        sites: Site | str | Sequence[Site | str],
        *,
        dtype: str = "fp32",
        context: int | None = None,
        stride: int | None = None,
        exclude_special: bool = True,
        exclude_first: int = 0,
        batch_tokens: int = 4096,
        shard_rows: int | None = None,
        n_tokens: int | None = None,
        buffer_rows: int = BUFFER_ROWS,
        on_error: OnError = "stop",
    ) -> None:
        check_dtype(dtype)
        if isinstance(texts, Iterator):
            raise InputError("texts can be read once only, but a fit may need several passes; pass a list, or TextFiles")
        self._lm, self._texts, self._dtype, self._on_error = lm, texts, dtype, on_error
        self._sites = resolve_sites(lm, sites)
        self._buffer_rows = buffer_rows
        self._packing = make_packing(
            lm, self._sites, dtype=dtype, context=context, stride=stride, exclude_special=exclude_special, exclude_first=exclude_first,
            batch_tokens=batch_tokens, shard_rows=shard_rows, n_tokens=n_tokens,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"LiveRows({self._lm.name} at {', '.join(map(str, self._sites))}, {self._dtype})"

    @property
    def layout(self) -> Layout:
        sources: list[tuple[Source, int]] = [(self._lm.source(site), self._lm.width(site)) for site in self._sites]
        return tuple(sources)

    @property
    def n_rows(self) -> int | None:
        return None if self.tokens is None else self.tokens.n_rows

    @cached_property
    def tokens(self) -> Tokens | None:
        if not isinstance(self._texts, Sequence):
            return None
        blocks = list(self._blocks())
        joined = concatenate([block.tokens for block in blocks], [d for block in blocks for d in block.documents]) if blocks else None
        if joined is None or joined.n_rows == 0:
            raise TextError("the texts give no rows: there is no text, or every token is excluded")
        return joined

    @property
    def record(self) -> Mapping[str, Any]:
        """Where the rows come from, for the provenance of what is made from them."""
        order = f"live, shuffled within {self._buffer_rows:,} rows"
        return {"text_sha256": self._text_sha256, "policy": self._packing.to_json(), "dtype": self._dtype, "order": order}

    @cached_property
    def _text_sha256(self) -> str:
        """Fingerprint of all texts in their order."""
        fingerprint = ""
        for document in checked(self._texts, TextErrors(self._on_error)):
            fingerprint = add_to_fingerprint(fingerprint, document)
        return fingerprint

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """See `core.rows.Rows.batches`. Blocks that are skipped are tokenized but not run."""
        if size < 1:
            raise InputError(f"batch size must be at least 1, got {size}")
        for x, row in _cut(self._ordered(skip * size, seed, epoch), size):
            yield Batch(x[rank::world], row[rank::world])

    def _blocks(self) -> Iterator[Block]:
        return read_blocks(self._lm, checked(self._texts, TextErrors(self._on_error)), self._packing)

    def _ordered(self, skip: int, seed: int | None, epoch: int) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Stretches (x [m, D], row [m]) in the order of the pass, without its first `skip` rows."""
        for number, blocks in enumerate(self._buffers(1 if seed is None else self._buffer_rows)):
            first, n = blocks[0].n_rows_before, sum(block.tokens.n_rows for block in blocks)
            if first + n <= skip:
                continue
            # The first buffer has the key of a whole pass, so that one which holds everything gives the order of `Permutation`.
            key = (seed, epoch, number) if number else (seed, epoch)
            order = np.arange(n) if seed is None else Permutation(n, *(part for part in key if part is not None))(np.arange(n))
            order = order[max(0, skip - first) :]
            yield torch.cat([self._captured(block) for block in blocks])[torch.from_numpy(order)], first + order

    def _buffers(self, n_rows: int) -> Iterator[list[Block]]:
        """Consecutive blocks with at least `n_rows` rows together."""
        held: list[Block] = []
        for block in self._blocks():
            held.append(block)
            if sum(block.tokens.n_rows for block in held) >= n_rows:
                yield held
                held = []
        if held:
            yield held

    def _captured(self, block: Block) -> Tensor:
        """[n, D] rows of a block."""
        found = capture_block(self._lm, block, self._sites, self._packing.batch_tokens, self._dtype)
        return torch.cat([decode(found[site]) for site in self._sites], dim=1)


def _cut(stretches: Iterable[tuple[Tensor, NDArray[np.int64]]], size: int) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """The same rows in batches of `size`; the last may be smaller."""
    held: tuple[Tensor, NDArray[np.int64]] | None = None
    for more in stretches:
        x, row = more if held is None else (torch.cat([held[0], more[0]]), np.concatenate([held[1], more[1]]))
        whole = len(row) // size * size
        for start in range(0, whole, size):
            yield x[start : start + size], row[start : start + size]
        held = (x[whole:], row[whole:])
    if held is not None and len(held[1]):
        yield held
