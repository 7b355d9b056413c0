"""Files named by their hash."""

from pathlib import Path

import pytest

from autopoiesis.store import BlobStore, CorruptBlobError, NotFoundError, StoreError


def test_what_is_put_is_got_and_nothing_else_is_left(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    name = blobs.put(b"rows")
    assert blobs.put(b"rows") == name
    assert blobs.get(name) == b"rows"
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == [f"{name}.parquet"]
    blobs.remove(name)
    blobs.remove(name)
    with pytest.raises(NotFoundError, match=r"blobs\.dir"):
        blobs.get(name)


def test_changed_bytes_are_noticed(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    name = blobs.put(b"rows")
    blobs.path(name).write_bytes(b"rowz")
    with pytest.raises(CorruptBlobError, match="does not hash to its name"):
        blobs.get(name)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "g" * 64])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="not a blob's name"):
        BlobStore(tmp_path).get(name)


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        BlobStore(tmp_path).put(b"rows")
    assert list(tmp_path.iterdir()) == []
