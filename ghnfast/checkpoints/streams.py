"""Files as streams of bytes: compressed ones decompressed within bounds, and a part of one as a file of its own."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ..errors import CheckpointError
from .contents import ACCEPTED

CHUNK_BYTES = 1 << 16
BUFFER_BYTES = 1 << 13
# Weights hardly get smaller when they are compressed; what a file of a few kilobytes may become is not worth a message.
MOST_RATIO, ALWAYS_BYTES = 20, 32 << 20
MOST_DICTIONARY = 128 << 20  # of xz and lzma; their strongest setting has 64 MB
LZ4 = b"\x04\x22\x4d\x18"


class Decompressor(Protocol):
    """As the standard library's, of bz2 and lzma."""

    eof: bool
    needs_input: bool

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Zlib:
    """zlib and gzip as a `Decompressor`."""

    def __init__(self) -> None:
        self.inner = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either, by its header

    @property
    def eof(self) -> bool:
        return self.inner.eof

    @property
    def needs_input(self) -> bool:
        return not self.inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self.inner.decompress(self.inner.unconsumed_tail or data, max_length)


def lzma_decompressor() -> Any:
    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=MOST_DICTIONARY)


# What a compressed file begins with.
COMPRESSED: dict[bytes, Callable[[], Any]] = {
    b"x": Zlib,
    b"\x1f\x8b": Zlib,
    b"BZ": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lzma_decompressor,
    b"\x5d\x00": lzma_decompressor,
}


class Raw(io.RawIOBase):
    """A stream that is only read forward. Buffers of it go back within themselves, where it says that it can."""

    position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if (offset, whence) not in ((self.position, io.SEEK_SET), (0, io.SEEK_CUR)):
            raise io.UnsupportedOperation("this stream is only read forward")
        return self.position

    def buffered(self) -> io.BufferedReader:
        return io.BufferedReader(self, BUFFER_BYTES)


class Decompressed(Raw):
    """What a compressed file decompresses to.

    Raises:
        CheckpointError, while it is read: there is more of it than `most` bytes.
    """

    def __init__(self, file: BinaryIO, decompressor: Decompressor, most: int, path: Path) -> None:
        self.file, self.decompressor, self.most, self.path = file, decompressor, most, path

    def readinto(self, buffer: Any) -> int:
        while not self.decompressor.eof:
            waits = self.decompressor.needs_input
            data = self.file.read(CHUNK_BYTES) if waits else b""
            found = self.decompressor.decompress(data, len(buffer))
            if waits and not data and not found:
                raise CheckpointError(
                    f"the checkpoint {self.path} is damaged, cut off or of another format (the compressed data end "
                    f"early); {ACCEPTED}"
                )
            self.position += len(found)
            if self.position > self.most:
                raise CheckpointError(
                    f"the checkpoint {self.path} decompresses to more than {self.most} bytes, which no weights of its "
                    f"size do; {MOST_RATIO} times the size of a file is accepted"
                )
            if found:
                buffer[: len(found)] = found
                return len(found)
        return 0


class Part(Raw):
    """The next `length` bytes of a stream."""

    def __init__(self, stream: io.BufferedReader, length: int) -> None:
        self.stream, self.length = stream, length

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer) as view:
            # As much as is asked for: who reads the beginning twice must find it in one buffer.
            count = self.stream.readinto(view[: self.length - self.position])
        self.position += count
        return count

    def is_read(self) -> bool:
        """Whether nothing is left of it, once what is left has been skipped."""
        while self.position < self.length:
            skipped = len(self.stream.read1(min(CHUNK_BYTES, self.length - self.position)))
            if not skipped:
                return False
            self.position += skipped
        return True


def is_compressed(head: bytes) -> bool:
    """Whether a file that begins so is one that `opened` decompresses."""
    return any(head.startswith(magic) for magic in COMPRESSED)


def opened(file: io.BufferedReader, head: bytes, path: Path) -> tuple[io.BufferedReader, int]:
    """A file's content, decompressed where it is compressed, and the bytes that it has at most."""
    size = path.stat().st_size
    make = next((make for magic, make in COMPRESSED.items() if head.startswith(magic)), None)
    if make is None:
        return file, size
    most = max(ALWAYS_BYTES, MOST_RATIO * size)
    return Decompressed(file, make(), most, path).buffered(), most
