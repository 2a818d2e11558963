"""plan: what a harvest will take, before it is started.

Letters: n tokens, N rows, D width.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from armillary.core.progress import duration
from armillary.core.site import Site
from armillary.core.store.shards import DTYPES, check_dtype
from armillary.core.tokens import Document, Tokens, concatenate
from armillary.errors import InputError
from armillary.lm.harvest import make_packing, resolve_sites
from armillary.lm.packing import Harvested, Packing, windows

#: A token in tokens.safetensors: ids, document and position, span, two flags.
TOKEN_BYTES = 8 * 3 + 16 + 2
#: A warm-up is a forward pass of as many tokens as take about this long.
WARM_UP_SECONDS = 0.5
_SAMPLE = "Armillary spheres show how the sky is put together: rings for the equator, the tropics and the ecliptic, and the Earth within.\n"


@dataclass(frozen=True)
class Plan:
    """An estimate of a harvest.

    Args:
        n_rows: rows that will be stored.
        widths: per site (its spelling) the width D.
        dtype: of the stored rows.
        disk_bytes: the finished store; while it is written another 42 bytes per token are needed.
        memory_bytes: of the process at its peak: what it holds now (the model), and the buffers of two shards.
        seconds: forward passes alone, from the measured rate.
        tokens_per_second: measured by a short forward pass on this machine.
        disk_free, memory_free: what there is now.
    """

    n_rows: int
    widths: dict[str, int]
    dtype: str
    disk_bytes: int
    memory_bytes: int
    seconds: float
    tokens_per_second: float
    disk_free: int
    memory_free: int

    @property
    def fits(self) -> bool:
        """Whether disk and memory suffice."""
        return not self.shortages

    @property
    def shortages(self) -> list[str]:
        """What does not suffice, in words."""
        disk = f"disk: {human(self.disk_bytes)} needed, {human(self.disk_free)} free; use another --out, fewer --n-tokens or --dtype int8"
        memory = f"memory: {human(self.memory_bytes)} needed, {human(self.memory_free)} there; use a smaller --batch-tokens or --shard-rows"
        return [disk] * (self.disk_bytes > self.disk_free) + [memory] * (self.memory_bytes > self.memory_free)

    def __str__(self) -> str:
        sites = ", ".join(f"{site} [{d}]" for site, d in self.widths.items())
        return (
            f"{self.n_rows:,} rows of {sites} in {self.dtype}: {human(self.disk_bytes)} on disk, {human(self.memory_bytes)} of memory, "
            f"about {duration(self.seconds)} at {self.tokens_per_second:,.0f} tokens/s"
        )

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=f"{self.n_rows:,} rows of {', '.join(self.widths)} in {self.dtype}")
        for heading in ("", "needed", "there is"):
            table.add_column(heading, justify="left" if not heading else "right")
        table.add_row("disk", human(self.disk_bytes), human(self.disk_free))
        table.add_row("memory", human(self.memory_bytes), human(self.memory_free))
        table.add_row("time", f"about {duration(self.seconds)}", f"{self.tokens_per_second:,.0f} tokens/s")
        table.caption = "\n".join(self.shortages) or None
        return table


def plan(
    lm: Harvested,
    sites: Site | str | Sequence[Site | str],
    *,
    n_tokens: int,
    dtype: str = "bf16",
    out: str | os.PathLike[str] = ".",
    context: int | None = None,
    stride: int | None = None,
    shard_rows: int | None = None,
    batch_tokens: int = 4096,
) -> Plan:
    """Estimate disk, memory and time of a harvest of `n_tokens` rows; the settings are those of `harvest`.

    Takes a second or so: the forward pass is measured on as many tokens as run in about half a second.

    Raises:
        InputError: `n_tokens` below 1, or settings that do not fit the model.
    """
    check_dtype(dtype)
    if n_tokens < 1:
        raise InputError(f"n_tokens must be at least 1, got {n_tokens}")
    found = resolve_sites(lm, sites)
    packing = make_packing(
        lm, found, dtype=dtype, context=context, stride=stride, shard_rows=shard_rows, batch_tokens=batch_tokens, n_tokens=n_tokens
    )
    rate = tokens_per_second(lm, found, packing)
    row_bytes = sum(lm.width(site) * DTYPES[dtype].itemsize + 4 * (dtype == "int8") for site in found)
    held = min(n_tokens, packing.shard_rows)
    return Plan(
        n_rows=n_tokens,
        widths={str(site): lm.width(site) for site in found},
        dtype=dtype,
        disk_bytes=n_tokens * (row_bytes + TOKEN_BYTES + _text_bytes_per_token(lm)),
        memory_bytes=psutil.Process().memory_info().rss + 2 * held * (row_bytes + 3 * TOKEN_BYTES),
        seconds=n_tokens * packing.context / packing.stride / rate,
        tokens_per_second=rate,
        disk_free=shutil.disk_usage(_existing(Path(out))).free,
        memory_free=psutil.virtual_memory().available + psutil.Process().memory_info().rss,
    )


def tokens_per_second(lm: Harvested, sites: Sequence[Site], packing: Packing) -> float:
    """Tokens per second of forward passes that stop after the last site, on windows of full length.

    The batch grows from one short window to a full one for as long as that is quick, so that a large model is not run for minutes.
    """
    full = _full_windows(lm, packing)
    seconds, tokens = 0.0, full.sequences(0, 1)
    for count in (1, 1, max(1, packing.batch_tokens // packing.context)):  # the first run pays for one-time work
        if count > 1 and seconds * count > WARM_UP_SECONDS:
            count = max(1, int(WARM_UP_SECONDS / seconds))  # noqa: PLW2901
        tokens = concatenate([full.sequences(0, 1)] * count)
        began = time.perf_counter()
        with torch.no_grad():
            captured = lm.capture(tokens, sites)
        for value in captured.values():
            value.flatten()[-1].item()  # waits for an accelerator
        seconds = max(time.perf_counter() - began, 1e-9)
    return len(tokens) / seconds


def _full_windows(lm: Harvested, packing: Packing) -> Tokens:
    text = _SAMPLE * (1 + packing.context * 8 // len(_SAMPLE))
    return windows(lm.tokenize([Document(text)]).sequences(0, 1), 0, packing)


def _text_bytes_per_token(lm: Harvested) -> int:
    """Bytes of documents.jsonl per token, from a sample of English."""
    return int(np.ceil(len(_SAMPLE) / lm.tokenize([Document(_SAMPLE)]).n_rows))


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return path if path.exists() else _existing(path.absolute().parent)


def human(size: float) -> str:
    """Bytes as "12.3 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
