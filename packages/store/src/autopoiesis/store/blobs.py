"""Open snapshots as files named by the SHA-256 of their bytes."""

import hashlib
import os
import tempfile
from pathlib import Path

from autopoiesis.store.errors import CorruptBlobError, NotFoundError, StoreError


class BlobStore:
    """A directory of immutable files. A name is 64 hexadecimal digits; writing the same bytes twice is no change."""

    def __init__(self, directory: Path, *, suffix: str = ".parquet") -> None:
        self.directory = directory
        self._suffix = suffix

    def path(self, hash_: str) -> Path:
        """Where the blob of that name is or would be. Raises StoreError if it is not a name."""
        if len(hash_) != 64 or not set(hash_) <= set("0123456789abcdef"):
            raise StoreError(f"{hash_!r} is not a blob's name; expected a SHA-256 in hexadecimal")
        return self.directory / f"{hash_}{self._suffix}"

    def put(self, data: bytes) -> str:
        """Keep `data` and return its name; after this it survives a crash."""
        name = hashlib.sha256(data).hexdigest()
        path = self.path(name)
        if path.exists():
            return name
        self.directory.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.directory, prefix=f".{name[:12]}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync(self.directory)
        return name

    def get(self, hash_: str) -> bytes:
        """Read a blob. Raises NotFoundError, or CorruptBlobError if its bytes changed."""
        path = self.path(hash_)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(
                f"no blob {hash_} in {self.directory}; blobs.dir may point elsewhere"
            ) from error
        if hashlib.sha256(data).hexdigest() != hash_:
            raise CorruptBlobError(f"{path} does not hash to its name; it was changed or cut short")
        return data

    def remove(self, hash_: str) -> None:
        """Delete a blob; no matter if it is gone already."""
        self.path(hash_).unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
