"""The write-ahead file of an open segment: framed payloads, on disk before anybody acknowledges them."""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

_FRAME = struct.Struct("<II")  # payload bytes, CRC-32 of the payload


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Whole frames as (end offset, payload); stops at the first torn or damaged one."""
    offset = 0
    while offset + _FRAME.size <= len(data):
        size, checksum = _FRAME.unpack_from(data, offset)
        start, end = offset + _FRAME.size, offset + _FRAME.size + size
        if end > len(data) or zlib.crc32(payload := data[start:end]) != checksum:
            return
        yield end, payload
        offset = end


def sync_directory(path: Path) -> None:
    """Make renames and new files in `path` survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class WriteAheadFile:
    """Payloads that are on disk when `append` returns.

    Opening an existing file keeps its whole frames in `recovered` and cuts a torn tail: what was torn was never
    acknowledged, so its sender sends it again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recovered: list[bytes] = []
        self._end = 0
        existed = path.exists()
        if existed:
            for self._end, payload in _frames(path.read_bytes()):
                self.recovered.append(payload)
        self._file = path.open("r+b" if existed else "w+b", buffering=0)
        self._file.truncate(self._end)
        self._file.seek(self._end)
        sync_directory(path.parent)

    @property
    def size_bytes(self) -> int:
        return self._end

    def append(self, payloads: Sequence[bytes]) -> None:
        """Write and fsync. Raises OSError with the file as it was before the call."""
        framed = b"".join(_FRAME.pack(len(p), zlib.crc32(p)) + p for p in payloads)
        try:
            rest = memoryview(framed)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise
        self._end += len(framed)

    def close(self) -> None:
        self._file.close()
