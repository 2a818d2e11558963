"""Reading texts: files, folders, stdin, remote paths and `datasets` names become Documents, and unreadable ones are dealt with as asked.

    for document in TextFiles(["notes.txt", "corpus/", "pile.jsonl.zst", "s3://bucket/x.parquet", "datasets:wikitext:wikitext-2-v1", "-"]):
        ...

A text file is one document (a very long one is cut at line ends), a line of .jsonl and a row of .parquet are one each.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Any, Literal, get_args

from armillary.core.filesystem import filesystem
from armillary.core.tokens import Document
from armillary.core.zst import ZstdReader
from armillary.errors import CorruptFileError, InputError, TextError, missing_extra, nearest, unknown

OnError = Literal["stop", "skip", "replace"]
#: A longer text file becomes several documents, cut at line ends, so that a file of any size is read in flat memory.
PIECE_BYTES = 1 << 20
_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}


@dataclass
class TextErrors:
    """What could not be read as it stood.

    Args:
        on_error: stop with a `TextError`, skip the document, or replace what is not UTF-8 by the replacement mark (a document that
            cannot be mended so is skipped).
        skipped, replaced: how many documents were.
        first: the first complaint.
    """

    on_error: OnError = "stop"
    skipped: int = 0
    replaced: int = 0
    first: str = ""

    def __post_init__(self) -> None:
        if self.on_error not in get_args(OnError):
            raise unknown("--on-error", self.on_error, get_args(OnError))

    def skip(self, complaint: str) -> None:
        """Count a document that is left out, or stop."""
        self._note(complaint, "leave such documents out with --on-error skip")
        self.skipped += 1

    def replace(self, complaint: str) -> bool:
        """Count a document whose bytes are not UTF-8, or stop. True when it is to be mended, False when left out."""
        self._note(complaint, "use --on-error replace or --on-error skip, or convert the file to UTF-8")
        is_mended = self.on_error == "replace"
        self.replaced += is_mended
        self.skipped += not is_mended
        return is_mended

    def _note(self, complaint: str, fix: str) -> None:
        if self.on_error == "stop":
            raise TextError(f"{complaint}; {fix}")
        self.first = self.first or complaint

    def counts(self) -> dict[str, int]:
        return {"skipped": self.skipped, "replaced": self.replaced}


@dataclass
class TextFiles:
    """Texts that can be read again and again, in the same order.

    Args:
        paths: files, folders (read recursively in sorted order, hidden entries left out), "-" for stdin, any fsspec URL, or
            "datasets:NAME[:CONFIG[:SPLIT]]". Endings .jsonl and .parquet hold many documents, .gz and .zst are unpacked, everything
            else is text.
        on_error: see `TextErrors`; `errors` has the counts of the latest reading.
        text_field: the field of .jsonl, .parquet and data sets that holds the text; other plain fields become labels.
    """

    paths: Sequence[str]
    on_error: OnError = "stop"
    text_field: str = "text"
    errors: TextErrors = field(init=False)

    def __post_init__(self) -> None:
        self.errors = TextErrors(self.on_error)

    def __iter__(self) -> Iterator[Document]:
        self.errors = TextErrors(self.on_error)
        return read_documents(self.paths, text_field=self.text_field, errors=self.errors)


def read_documents(
    paths: Iterable[str], *, on_error: OnError = "stop", text_field: str = "text", errors: TextErrors | None = None
) -> Iterator[Document]:
    """The documents of files, folders, stdin ("-"), fsspec URLs and `datasets` names; see `TextFiles`.

    Args:
        errors: counts what was skipped or replaced; its own `on_error` stands.

    Raises:
        InputError: a path that does not exist, with the nearest that does.
        TextError: an empty text, bytes that are not UTF-8 (with their offset), a line that is not JSON, a missing field.
        CorruptFileError: a compressed file that is damaged.
        MissingExtraError: a format whose package is not installed.
    """
    found = TextErrors(on_error) if errors is None else errors
    return _documents(list(paths), text_field, found)


def _documents(paths: list[str], text_field: str, errors: TextErrors) -> Iterator[Document]:
    for path in paths:
        if path.startswith("datasets:"):
            yield from _dataset(path, text_field, errors)
        elif path == "-":
            yield from _text(_Stream("stdin", sys.stdin.buffer), errors)
        else:
            yield from _path(path, text_field, errors)


def checked(documents: Iterable[str | Document], errors: TextErrors) -> Iterator[Document]:
    """Texts given in memory as Documents that are neither empty nor beyond UTF-8 (lone surrogates)."""
    for number, given in enumerate([documents] if isinstance(documents, str) else documents):
        document = given if isinstance(given, Document) else Document(given)
        yield from _checked(document, document.name or f"text {number}", errors)


def _checked(document: Document, where: str, errors: TextErrors) -> Iterator[Document]:
    if not document.text.strip():
        errors.skip(f"{where} is empty")
        return
    try:
        document.data  # noqa: B018
    except UnicodeEncodeError as error:
        if not errors.replace(f"{where}: character {error.start} is a lone surrogate, which UTF-8 cannot hold"):
            return
        document = Document(document.text.encode(errors="replace").decode(), document.name, document.labels)
    yield document


def add_to_fingerprint(fingerprint: str, document: Document) -> str:
    """The running sha256 of texts in their order, with one more; it begins with ""."""
    return hashlib.sha256(f"{fingerprint}{document.sha256}".encode()).hexdigest()


# ---------------------------------------------------------------- paths


@dataclass(frozen=True)
class _Stream:
    """An open file and the name its documents get."""

    name: str
    file: IO[bytes]


def _path(path: str, text_field: str, errors: TextErrors) -> Iterator[Document]:
    system, root = filesystem(path)
    if not system.exists(root):
        raise InputError(f"no file or folder at '{path}'{_nearest_path(system, root)}")
    if not system.isdir(root):
        yield from _file(system, root, path, text_field, errors)
        return
    for inner in sorted(system.find(root)):
        relative = inner.removeprefix(root).lstrip("/")
        if not any(part.startswith(".") or part == "__pycache__" for part in relative.split("/")):
            yield from _member(system, inner, f"{path.rstrip('/')}/{relative}", text_field, errors)


def _member(system: Any, inner: str, name: str, text_field: str, errors: TextErrors) -> Iterator[Document]:
    """A file of a folder; an empty one is no fault of who named the folder."""
    if system.size(inner) == 0:
        errors.skipped += 1
    else:
        yield from _file(system, inner, name, text_field, errors)


def _nearest_path(system: Any, root: str) -> str:
    parent, _, name = root.rpartition("/")
    siblings = [str(entry).rpartition("/")[2] for entry in system.ls(parent, detail=False)] if parent and system.isdir(parent) else []
    close = nearest(name, siblings, n=1)
    return f". Did you mean '{parent}/{close[0]}'?" if close else ""


def _file(system: Any, inner: str, name: str, text_field: str, errors: TextErrors) -> Iterator[Document]:
    path = PurePosixPath(inner.lower())
    compression = _COMPRESSION.get(path.suffix)
    kind = PurePosixPath(path.stem).suffix if compression else path.suffix
    try:
        with system.open(inner, "rb") as raw, _unpacked(raw, compression) as file:
            yield from _reader(kind, text_field)(_Stream(name, file), errors)
    except (EOFError, zlib.error, OSError) as error:
        if compression is None:
            raise InputError(f"'{name}' cannot be read: {error}") from None
        raise CorruptFileError(f"'{name}' is cut short or damaged ({error}); fetch it again") from None


def _unpacked(file: IO[bytes], compression: str | None) -> IO[bytes]:
    if compression == "gzip":
        return gzip.open(file)  # type: ignore[return-value]
    if compression == "zstd":
        return io.BufferedReader(ZstdReader(file))
    return file


def _reader(kind: str, text_field: str) -> Callable[[_Stream, TextErrors], Iterator[Document]]:
    if kind in (".jsonl", ".ndjson"):
        return lambda stream, errors: _jsonl(stream, text_field, errors)
    if kind == ".parquet":
        return lambda stream, errors: _parquet(stream, text_field, errors)
    return _text


# ---------------------------------------------------------------- formats


def _text(stream: _Stream, errors: TextErrors) -> Iterator[Document]:
    """A file as one document, or as several where it is longer than `PIECE_BYTES`."""
    offset = 0
    for number, data in enumerate(_pieces(stream.file)):
        name = stream.name if number == 0 else f"{stream.name}#{number + 1}"
        text = _decoded(data, offset, stream.name, errors)
        offset += len(data)
        if text is not None:
            yield from _checked(Document(text, name), name, errors)
    if offset == 0:
        errors.skip(f"'{stream.name}' is empty")


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Stretches of about `PIECE_BYTES` that end with a line, or at least with a character."""
    rest = b""
    while data := file.read(PIECE_BYTES):
        rest += data
        if len(rest) >= 2 * PIECE_BYTES:
            cut = _cut(rest)
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _cut(data: bytes) -> int:
    """The last place at or before `PIECE_BYTES` where a line ends, or else where a character begins."""
    line = data.rfind(b"\n", 0, PIECE_BYTES) + 1
    if line:
        return line
    return next((i for i in range(PIECE_BYTES, PIECE_BYTES - 4, -1) if data[i] & 0xC0 != 0x80), PIECE_BYTES)


def _decoded(data: bytes, offset: int, name: str, errors: TextErrors) -> str | None:
    """Text of bytes that begin at `offset` of the file; None when they are left out."""
    data = data.removeprefix(b"\xef\xbb\xbf") if offset == 0 else data
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        bad = data[error.start]
        if errors.replace(f"'{name}' is not UTF-8: byte 0x{bad:02x} at offset {offset + error.start}"):
            return data.decode(errors="replace")
        return None


def _jsonl(stream: _Stream, text_field: str, errors: TextErrors) -> Iterator[Document]:
    offset = 0
    for number, line in enumerate(stream.file, start=1):
        text = _decoded(line, offset, stream.name, errors)
        offset += len(line)
        if text is not None and text.strip():
            yield from _json_document(text, f"{stream.name}:{number}", text_field, errors)
    if offset == 0:
        errors.skip(f"'{stream.name}' is empty")


def _json_document(line: str, name: str, text_field: str, errors: TextErrors) -> Iterator[Document]:
    try:
        record = json.loads(line)
    except ValueError as error:
        errors.skip(f"'{name}' is not JSON ({error})")
        return
    yield from _record(record if isinstance(record, dict) else {"": record}, name, text_field, errors)


def _record(record: Mapping[str, Any], name: str, text_field: str, errors: TextErrors) -> Iterator[Document]:
    """A row of named fields: one holds the text, the plain ones among the others are labels."""
    text = record.get(text_field)
    if not isinstance(text, str):
        found = ", ".join(map(str, record)) or "nothing"
        errors.skip(f"'{name}' has no text in field {text_field!r} (fields: {found}; choose one with --text-field)")
        return
    labels = {key: str(value) for key, value in record.items() if key != text_field and isinstance(value, str | int | float)}
    yield from _checked(Document(text, name, labels), f"'{name}'", errors)


def _parquet(stream: _Stream, text_field: str, errors: TextErrors) -> Iterator[Document]:
    try:
        import pyarrow.parquet as pq
        from pyarrow import ArrowInvalid
    except ImportError:
        raise missing_extra("pyarrow", "parquet", "reading .parquet files") from None
    file = stream.file if stream.file.seekable() else io.BytesIO(stream.file.read())
    try:
        table = pq.ParquetFile(file)
    except ArrowInvalid as error:
        raise CorruptFileError(f"'{stream.name}' is not a whole parquet file ({error}); fetch it again") from None
    number = 0
    for batch in table.iter_batches(batch_size=256):
        for record in batch.to_pylist():
            yield from _record(record, f"{stream.name}:{number}", text_field, errors)
            number += 1


def _dataset(address: str, text_field: str, errors: TextErrors) -> Iterator[Document]:
    """datasets:NAME[:CONFIG[:SPLIT]], streamed."""
    name, config, split = (*address.split(":")[1:4], "", "")[:3]
    try:
        import datasets
    except ImportError:
        raise missing_extra("datasets", "datasets", f"reading '{address}'") from None
    for number, record in enumerate(datasets.load_dataset(name, config or None, split=split or "train", streaming=True)):
        yield from _record(record, f"{address}:{number}", text_field, errors)
