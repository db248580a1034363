"""The one place where zstandard is imported: it belongs to an extra."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import BinaryIO, Final, cast

#: How to install what copies of runs need.
EXTRA: Final = "pip install 'scalable-otel[store]'"

_LEVEL: Final = 3
_READ: Final = 1024 * 1024


@cache
def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError:
        raise ImportError(f"compression needs the package zstandard: {EXTRA}") from None
    return zstandard


def check_installed() -> None:
    """Check that compression works.

    Raises
    ------
    ImportError
        zstandard is not installed; the message names the extra.
    """
    _zstandard()


def compressed(data: bytes) -> bytes:
    """Return one zstd frame, which has the size of its content."""
    frame: bytes = _zstandard().ZstdCompressor(level=_LEVEL).compress(data)
    return frame


def decompressed(frame: bytes, size: int) -> bytes:
    """Return the content of one zstd frame.

    Parameters
    ----------
    frame
        The frame.
    size
        Bytes of its content: nothing larger is ever made of it.

    Raises
    ------
    ValueError
        It is not such a frame.
    """
    zstandard = _zstandard()
    try:
        if zstandard.frame_content_size(frame) != size:
            raise ValueError("a frame has not the size that was announced")
        data: bytes = zstandard.ZstdDecompressor().decompress(frame, max_output_size=max(size, 1))
    except zstandard.ZstdError as error:
        raise ValueError(f"not a zstd frame: {error}") from None
    return data


def decompressed_parts(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the content of frames that follow one another, in parts of bounded size.

    Raises
    ------
    ValueError
        They are not zstd frames.
    """
    zstandard = _zstandard()
    reader = zstandard.ZstdDecompressor().stream_reader(_Parts(parts), read_across_frames=True)
    try:
        while data := reader.read(_READ):
            yield data
    except zstandard.ZstdError as error:
        raise ValueError(f"not a zstd frame: {error}") from None


def stream(file: BinaryIO) -> BinaryIO:
    """Return a file that reads the content of frames that follow one another in another file.

    Its `read` raises ValueError if they are not zstd frames.
    """
    return cast("BinaryIO", _Frames(file))


class _Frames:
    """A file for a reader of it, which need not know the library's errors."""

    def __init__(self, file: BinaryIO) -> None:
        zstandard = _zstandard()
        self._reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        self._error: type[Exception] = zstandard.ZstdError

    def read(self, size: int = -1) -> bytes:
        try:
            return self._reader.read(size)
        except self._error as error:
            raise ValueError(f"not a zstd frame: {error}") from None


class _Parts:
    """A file for a reader of it, from parts that follow one another."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        if self._at >= len(self._rest):
            self._rest, self._at = next(self._parts, b""), 0
        view = self._rest[self._at : self._at + size]
        self._at += size
        return view
