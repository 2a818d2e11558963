"""Zstandard files as readable streams. Several frames are one file, and a frame that is cut short is an error, not an early end."""

from __future__ import annotations

import io
from typing import IO, Any

from armillary.errors import missing_extra

_CHUNK = 1 << 17


class ZstdReader(io.RawIOBase):
    """Unpacked bytes of a .zst file.

    Raises:
        MissingExtraError: `zstandard` is not installed.
        OSError, EOFError: while reading, where the file is damaged or cut short.
    """

    def __init__(self, packed: IO[bytes]) -> None:
        try:
            import zstandard
        except ImportError:
            raise missing_extra("zstandard", "zst", "reading .zst files") from None
        self._packed, self._package = packed, zstandard
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and self._advance():
            pass
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n

    def _advance(self) -> bool:
        """Unpack one more chunk; False at the end of the file."""
        leftover = self._frame.unused_data if self._frame is not None and self._frame.eof else b""
        data = leftover or self._packed.read(_CHUNK)
        if not data:
            if self._frame is not None and not self._frame.eof:
                raise EOFError("the last frame is not complete")
            return False
        if self._frame is None or self._frame.eof:
            self._frame = self._package.ZstdDecompressor().decompressobj()
        try:
            self._ready = self._frame.decompress(data)
        except self._package.ZstdError as error:
            raise OSError(str(error)) from None
        return True
