"""Telemetry on disk: one open segment with a write-ahead file, then immutable Parquet.

What `append` returns for is on disk; a batch is stored once however often it is delivered, also across a crash at any
point: an open segment is rebuilt from its write-ahead file, a Parquet file appears whole by rename, and every file
carries the names of its batches.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from autopoiesis.observer.columns import schema_of, to_table
from autopoiesis.observer.ledger import BatchName, Ledger
from autopoiesis.observer.wal import WriteAheadFile, sync_directory

R = TypeVar("R", bound=msgspec.Struct)

_BATCHES = b"autopoiesis.batches"
_LEDGER = "batches.json"


@dataclass(frozen=True, slots=True)
class Batch(Generic[R]):
    """Rows of one sender under the name that makes them unique."""

    name: BatchName
    rows: Sequence[R]


@dataclass(frozen=True, slots=True)
class Segment:
    """One closed file. Times are Unix seconds of its earliest and latest row."""

    kind: str
    name: str
    path: Path
    rows: int
    size_bytes: int
    start_unix_s: float
    end_unix_s: float


class SegmentLog(Generic[R]):
    """Rows of one kind in one folder; blocking file I/O, one writer.

    `time_field` names the column (Unix seconds) that windows and retention go by.
    """

    def __init__(
        self,
        root: Path,
        kind: str,
        row: type[R],
        *,
        time_field: str,
        max_rows: int = 50_000,
        max_age_s: float = 300.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.kind, self.root = kind, root / kind
        self._row, self._time_field = row, time_field
        self._max_rows, self._max_age_s, self._clock = max_rows, max_age_s, clock
        self._frames: msgspec.json.Decoder[Any] = msgspec.json.Decoder(tuple[BatchName, list[row]])  # type: ignore[valid-type]
        self._ledger = Ledger()
        self._open_names = Ledger()
        self._open_rows: list[R] = []
        self._opened_at = clock()
        self.root.mkdir(parents=True, exist_ok=True)
        self._recover()

    def append(self, batches: Sequence[Batch[R]]) -> list[Batch[R]]:
        """Store the batches not stored before and return those, on disk. Raises OSError with nothing stored."""
        fresh: dict[BatchName, Batch[R]] = {}
        for batch in batches:
            if batch.name not in self._ledger:
                fresh.setdefault(batch.name, batch)
        if not fresh:
            return []
        self._wal.append([msgspec.json.encode((b.name, b.rows)) for b in fresh.values()])
        if not self._open_rows:
            self._opened_at = self._clock()
        for batch in fresh.values():
            self._take(batch.name, batch.rows)
        return list(fresh.values())

    def roll(self, *, force: bool = False) -> Segment | None:
        """Close the open segment if it is full or old enough (or `force`d) and has rows."""
        due = len(self._open_rows) >= self._max_rows or self._clock() - self._opened_at >= self._max_age_s
        if not self._open_rows or not (due or force):
            return None
        path = self._path(self._number)
        table = to_table(self._row, self._open_rows)
        names = {_BATCHES: json.dumps(self._open_names.dump()).encode()}
        _write_whole(
            path,
            lambda target: pq.write_table(table.replace_schema_metadata(names), target, compression="zstd"),
        )
        self._wal.close()
        self._wal.path.unlink()
        self._start_segment(self._number + 1)
        return self._describe(path)

    def segments(self) -> list[Segment]:
        """Closed segments, oldest first."""
        return [self._describe(path) for path in sorted(self.root.glob("*.parquet"))]

    def between(self, start_unix_s: float, end_unix_s: float) -> pa.Table:
        """Rows with start <= time < end, of closed segments and the open one, by time."""
        time_column = pc.field(self._time_field)
        within = (time_column >= start_unix_s) & (time_column < end_unix_s)
        touched = [s for s in self.segments() if s.start_unix_s < end_unix_s and s.end_unix_s >= start_unix_s]
        tables = [self._read(segment.path).filter(within) for segment in touched]
        tables.append(to_table(self._row, self._open_rows).filter(within))
        return pa.concat_tables(tables).sort_by(self._time_field)

    def prune(self, *, max_age_s: float, max_bytes: int) -> list[Segment]:
        """Delete the oldest closed segments beyond the age or the total size; returns what went."""
        kept = self.segments()
        total = sum(s.size_bytes for s in kept)
        gone: list[Segment] = []
        for segment in sorted(kept, key=lambda s: s.end_unix_s):
            if segment.end_unix_s >= self._clock() - max_age_s and total <= max_bytes:
                break
            total -= segment.size_bytes
            gone.append(segment)
        if gone:
            # Names outlive their rows, or a late redelivery would bring the rows back.
            names = json.dumps(self._ledger.dump())
            _write_whole(self.root / _LEDGER, lambda target: Path(target).write_text(names))
            for segment in gone:
                segment.path.unlink()
        return gone

    def close(self) -> None:
        self._wal.close()

    def _recover(self) -> None:
        ledger = self.root / _LEDGER
        if ledger.exists():
            self._ledger.update(json.loads(ledger.read_text()))
        last = 0
        for path in sorted(self.root.glob("*.parquet")):
            last = int(path.stem)
            self._ledger.update(json.loads((pq.read_metadata(path).metadata or {})[_BATCHES]))
        for stale in self.root.glob("*.tmp"):
            stale.unlink()
        for wal in sorted(self.root.glob("*.wal")):
            if int(wal.stem) <= last:
                wal.unlink()  # its Parquet is whole: we died between the rename and this line
            else:
                last = int(wal.stem) - 1
        self._start_segment(last + 1)
        for payload in self._wal.recovered:
            name, rows = self._frames.decode(payload)
            self._take((name[0], name[1], name[2]), rows)
        self._wal.recovered.clear()

    def _start_segment(self, number: int) -> None:
        self._number = number
        self._open_rows, self._open_names = [], Ledger()
        self._wal = WriteAheadFile(self.root / f"{number:010d}.wal")

    def _take(self, name: BatchName, rows: Sequence[R]) -> None:
        self._ledger.add(name)
        self._open_names.add(name)
        self._open_rows.extend(rows)

    def _path(self, number: int) -> Path:
        return self.root / f"{number:010d}.parquet"

    def _read(self, path: Path) -> pa.Table:
        # One thread: a process that ends while Arrow's own threads read is aborted by their destructors.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            return file.read(use_threads=False).replace_schema_metadata(None).cast(schema_of(self._row))

    def _describe(self, path: Path) -> Segment:
        metadata = pq.read_metadata(path)
        column = metadata.schema.to_arrow_schema().get_field_index(self._time_field)
        bounds: list[Any] = [
            metadata.row_group(g).column(column).statistics for g in range(metadata.num_row_groups)
        ]
        return Segment(
            kind=self.kind,
            name=path.name,
            path=path,
            rows=metadata.num_rows,
            size_bytes=path.stat().st_size,
            start_unix_s=min(b.min for b in bounds),
            end_unix_s=max(b.max for b in bounds),
        )


def _write_whole(path: Path, write: Callable[[str], object]) -> None:
    """Write beside `path`, sync, rename: a reader sees all of it or nothing."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    write(str(temporary))
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)
