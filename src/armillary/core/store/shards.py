"""Files of the store: safetensors written in one go with their checksum, and read through a memory map.

Letters: N rows, D width.

`safetensors` files are written here by hand (an 8-byte length, a JSON header, the data) because that allows data to be hashed while it is
written, from pieces that never lie in memory together. Any safetensors reader opens them.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from armillary.core.artifact import file_sha256, writing
from armillary.errors import CorruptFileError, unknown

#: What rows may be stored as, and the torch dtype of each.
DTYPES: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16, "int8": torch.int8}

# safetensors' own names of the types that occur, the numpy type that holds them, and the torch type to view them as
_NUMPY = {"BF16": np.uint16, "F32": np.float32, "F16": np.float16, "I8": np.int8, "I64": np.int64, "BOOL": np.bool_}
_CODES = {
    torch.bfloat16: "BF16", torch.float32: "F32", torch.float16: "F16", torch.int8: "I8", torch.int64: "I64", torch.bool: "BOOL",
}  # fmt: skip
_PAD = 8


class FileEntry(BaseModel):
    """A finished file: its name inside the store, its size and its checksum."""

    model_config = ConfigDict(frozen=True)

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Column:
    """One tensor on its way into a file.

    Args:
        dtype: its type.
        shape: its shape.
        chunks: its data, piece after piece.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: Iterable[Tensor]


def column(value: Tensor) -> Column:
    """A column that lies in memory."""
    return Column(value.dtype, tuple(value.shape), [value])


def write_columns(folder: Path, name: str, columns: Mapping[str, Column]) -> FileEntry:
    """Write tensors as one safetensors file that appears whole or not at all.

    The widest types come first, so that every tensor is aligned.
    """
    ordered = dict(sorted(columns.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    return write_chunks(folder, name, _encoded(ordered))


def _encoded(columns: Mapping[str, Column]) -> Iterator[memoryview | bytes]:
    header: dict[str, Any] = {}
    end = 0
    for name, part in columns.items():
        start, end = end, end + int(np.prod(part.shape)) * part.dtype.itemsize
        header[name] = {"dtype": _CODES[part.dtype], "shape": list(part.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _PAD)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for part in columns.values():
        for chunk in part.chunks:
            yield chunk.contiguous().flatten().view(torch.uint8).numpy().data if chunk.numel() else b""


def write_chunks(folder: Path, name: str, chunks: Iterable[memoryview | bytes]) -> FileEntry:
    """Write a file that appears whole or not at all, flushed to the disk, and hash it in a second thread on the way.

    Raises:
        DiskFullError: names the file; nothing of it is left.
    """
    path, digest, size = folder / name, hashlib.sha256(), 0
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path):
            with open(scratch, "wb") as file, ThreadPoolExecutor(1, "armillary-hash") as second:
                hashed: Future[None] | None = None
                for chunk in chunks:
                    if hashed is not None:
                        hashed.result()  # so that at most two chunks are alive
                    hashed = second.submit(digest.update, chunk)
                    file.write(chunk)
                    size += len(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    return FileEntry(name=name, bytes=size, sha256=digest.hexdigest())


def check_size(folder: Path, entry: FileEntry) -> None:
    """Raise `CorruptFileError` where a listed file is missing or has another length."""
    path = folder / entry.name
    if not path.is_file():
        raise CorruptFileError(f"{path} is missing; restore it, or harvest again into a new folder")
    size = path.stat().st_size
    if size != entry.bytes:
        raise CorruptFileError(f"{path} has {size:,} bytes, {entry.bytes:,} were written; restore it, or harvest again into a new folder")


def check_bytes(folder: Path, entry: FileEntry) -> None:
    """Raise `CorruptFileError` where a listed file's bytes are not those that were written."""
    check_size(folder, entry)
    if file_sha256(folder / entry.name) != entry.sha256:
        raise CorruptFileError(f"{folder / entry.name} differs from what was written (checksum); restore it, or harvest again")


def read_columns(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file as memory-mapped arrays (bf16 as uint16); writes to them stay private.

    Raises:
        CorruptFileError: the file is cut short or its header is damaged.
    """
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return _parse(mapped)
    except FileNotFoundError:
        raise CorruptFileError(f"{path} is missing; restore it, or harvest again into a new folder") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"{path} is cut short or its header is damaged ({error}); restore it, or harvest again") from None


def _parse(mapped: mmap.mmap) -> dict[str, NDArray[Any]]:
    size = int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8 : 8 + size])
    start = 8 + size
    end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    if start + end != len(mapped):
        raise ValueError(f"{len(mapped):,} bytes instead of {start + end:,}")
    return {name: _array(mapped, start, entry) for name, entry in header.items()}


def _array(mapped: mmap.mmap, start: int, entry: Mapping[str, Any]) -> NDArray[Any]:
    shape = entry["shape"]
    flat: NDArray[Any] = np.frombuffer(
        mapped, dtype=_NUMPY[entry["dtype"]], count=int(np.prod(shape)), offset=start + entry["data_offsets"][0]
    )
    return flat.reshape(shape)


class MappedFiles:
    """Keeps files mapped between reads, up to a limit, so that their pages need not be found again.

    Mapped pages are the operating system's cache, but they count as resident memory of the process; hence the limit.

    Args:
        limit: bytes of files that are mapped at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._open: dict[Path, dict[str, NDArray[Any]]] = {}

    def columns(self, path: Path) -> dict[str, NDArray[Any]]:
        """See `read_columns`."""
        if path not in self._open:
            columns = read_columns(path)
            self._size += sum(array.nbytes for array in columns.values())
            if self._size > self._limit:
                self._open.clear()
                self._size = sum(array.nbytes for array in columns.values())
            self._open[path] = columns
        return self._open[path]


# ---------------------------------------------------------------- rows to stored values, and back


def check_dtype(dtype: str) -> None:
    """Raise `UnknownNameError` for a dtype that no store has."""
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)


def encode(x: Tensor, dtype: str) -> dict[str, Tensor]:
    """Rows [N, D] as the store keeps them: {"rows": [N, D]}, and for int8 also {"scale": [N] float32} with x = rows * scale.

    A row's scale maps its largest magnitude to 127.
    """
    if dtype != "int8":
        return {"rows": x.to(DTYPES[dtype])}
    x = x.float()
    scale = x.abs().amax(dim=1) / 127  # [N]
    whole = torch.round(x / torch.where(scale > 0, scale, 1)[:, None])  # [N, D]
    return {"rows": whole.to(torch.int8), "scale": scale}


def decode(stored: Mapping[str, Tensor]) -> Tensor:
    """Rows [N, D] in the dtype of the store; int8 comes back as float32."""
    if "scale" in stored:
        return stored["rows"].float() * stored["scale"][:, None]
    return stored["rows"]


def as_tensor(array: NDArray[Any]) -> Tensor:
    """A tensor over a stored array; uint16 is bf16."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor


def take(stored: NDArray[Any], index: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Rows `index` [m] of a stored array, into `out` if given; without it a run of neighbours is a view."""
    if len(index) and int(index[-1]) - int(index[0]) + 1 == len(index) and (np.diff(index) == 1).all():
        run = stored[int(index[0]) : int(index[-1]) + 1]
        if out is None:
            return run
        out[:] = run
        return out
    return stored.take(index, axis=0, out=out, mode="clip")  # "raise" would go through a copy
