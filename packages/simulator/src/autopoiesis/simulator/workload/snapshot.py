"""Snapshots: one Parquet blob of a window of real traffic, named by the SHA-256 of its bytes.

One row per arrival, columns those of `RequestRecord`; file metadata under the key `autopoiesis` is `SnapshotInfo` as JSON.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.simulator.workload.trace import Trace, TraceError
from autopoiesis.simulator.workload.window import FleetChange, InFlight, SnapshotInfo, Window

__all__ = [
    "SCHEMA",
    "FleetChange",
    "InFlight",
    "Snapshot",
    "SnapshotInfo",
    "read_snapshot",
    "records_to_table",
    "write_snapshot",
]

KEY: Final = b"autopoiesis"

_FIELDS: list[pa.Field[Any]] = [
    pa.field("request_id", pa.string(), nullable=False),
    pa.field("scope", pa.string(), nullable=False),
    pa.field("model", pa.string(), nullable=False),
    pa.field("arrival_unix_s", pa.float64(), nullable=False),
    pa.field("stream", pa.bool_(), nullable=False),
    pa.field("prompt_bytes", pa.int64(), nullable=False),
    pa.field("prompt_tokens", pa.int64(), nullable=False),
    pa.field("prompt_tokens_estimated", pa.int64(), nullable=False),
    pa.field("max_tokens", pa.int64(), nullable=False),
    pa.field("output_tokens", pa.int64(), nullable=False),
    pa.field("output_censored", pa.bool_(), nullable=False),
    pa.field("outcome", pa.string(), nullable=False),
    pa.field("error", pa.string(), nullable=False),
    pa.field("klass", pa.string(), nullable=False),
    pa.field("priority", pa.int64(), nullable=False),
    pa.field("tenant", pa.string(), nullable=False),
    pa.field("session", pa.string(), nullable=False),
    pa.field("workflow", pa.string(), nullable=False),
    pa.field("block_hashes", pa.list_(pa.int64()), nullable=False),
    pa.field("ttft_slo_s", pa.float64()),
    pa.field("tpot_slo_s", pa.float64()),
    pa.field("queue_wait_s", pa.float64(), nullable=False),
    pa.field("ttft_s", pa.float64()),
    pa.field("tpot_s", pa.float64()),
    pa.field("e2e_s", pa.float64(), nullable=False),
    pa.field("replica", pa.string(), nullable=False),
    pa.field("gpu", pa.string(), nullable=False),
    pa.field("attempts", pa.int64(), nullable=False),
    pa.field("holds", pa.int64(), nullable=False),
    pa.field("epoch", pa.int64(), nullable=False),
    pa.field("policy", pa.string(), nullable=False),
    pa.field("fallback", pa.bool_(), nullable=False),
    pa.field("fuel", pa.int64(), nullable=False),
]
SCHEMA: Final = pa.schema(_FIELDS)
"""`RequestRecord` as columns."""


@dataclass(frozen=True)
class Snapshot:
    """A blob, read."""

    name: str
    """SHA-256 of the bytes."""
    info: SnapshotInfo
    table: pa.Table

    @property
    def window(self) -> Window:
        """Without Parquet, to be packed for the jail."""
        return Window(self.info, self.trace)

    @cached_property
    def trace(self) -> Trace:
        """The arrivals as a trace, times from the snapshot's start; names become numbers in order of first sight."""
        table = self.table
        klass, classes = _numbers(table, "klass", first=0)
        for number, name in enumerate(classes):
            classes[number] = name or self.info.objectives.default
        output = _column(table, "output_tokens")
        hashes = None
        if pc.sum(pc.list_value_length(table["block_hashes"])).as_py():
            hashes = [tuple(row or ()) for row in table["block_hashes"].to_pylist()]
        return Trace.of(
            self.name[:12],
            _column(table, "arrival_unix_s") - self.info.start_unix_s,
            np.maximum(1, _column(table, "prompt_tokens")),
            np.maximum(1, output),
            censored=_column(table, "output_censored") | (output < 1),
            session=_numbers(table, "session", first=1)[0],
            tenant=_numbers(table, "tenant", first=1)[0],
            klass=klass,
            classes=tuple(classes) or ("default",),
            prompt_bytes=_column(table, "prompt_bytes"),
            max_tokens=_column(table, "max_tokens"),
            ttft_slo_s=_column(table, "ttft_slo_s"),
            tpot_slo_s=_column(table, "tpot_slo_s"),
            workflow=_numbers(table, "workflow", first=1)[0],
            block_hashes=hashes,
            block_tokens=self.info.block_tokens if hashes else 0,
        )


def write_snapshot(records: pa.Table | Iterable[RequestRecord], info: SnapshotInfo) -> bytes:
    """The blob. A table must have the columns of `SCHEMA` (more are left out). Raises `ValueError` naming a missing one."""
    table = records if isinstance(records, pa.Table) else records_to_table(records)
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise ValueError(f"a snapshot needs the columns {', '.join(missing)}")
    table = table.select(SCHEMA.names).cast(SCHEMA).sort_by("arrival_unix_s")
    table = table.replace_schema_metadata({KEY: msgspec.json.encode(info)})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_snapshot(source: bytes | str | Path) -> Snapshot:
    """A snapshot from its bytes or its file. Raises `TraceError` where it is not one."""
    named: str | Path = "snapshot" if isinstance(source, bytes) else source
    try:
        blob = source if isinstance(source, bytes) else Path(source).read_bytes()
        # One thread: a process that ends while Arrow's own threads read is aborted by their destructors.
        table = pq.ParquetFile(io.BytesIO(blob), pre_buffer=False).read(use_threads=False)
    except FileNotFoundError:
        raise TraceError(named, 0, "no such file") from None
    except pa.ArrowInvalid as error:
        raise TraceError(named, 0, f"not Parquet: {error}") from None
    metadata = (table.schema.metadata or {}).get(KEY)
    if metadata is None:
        raise TraceError(named, 0, "Parquet without the metadata of a snapshot (key 'autopoiesis')")
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise TraceError(named, 0, f"lacks the columns {', '.join(missing)}")
    try:
        info = msgspec.json.decode(metadata, type=SnapshotInfo)
    except msgspec.DecodeError as error:
        raise TraceError(named, 0, f"metadata: {error}") from None
    return Snapshot(hashlib.sha256(blob).hexdigest(), info, table.select(SCHEMA.names).cast(SCHEMA))


def records_to_table(records: Iterable[RequestRecord]) -> pa.Table:
    """Records as a table with the columns of `SCHEMA`."""
    rows = list(records)
    return pa.table({name: [getattr(row, name) for row in rows] for name in SCHEMA.names}, schema=SCHEMA)


def _column(table: pa.Table, name: str) -> Any:
    return table[name].to_numpy()


def _numbers(table: pa.Table, name: str, *, first: int) -> tuple[Any, list[str]]:
    """Strings as numbers from `first` in order of first sight; with `first` = 1 the empty string is 0."""
    encoded = table[name].combine_chunks().dictionary_encode()
    words = [str(word) for word in encoded.dictionary.to_pylist()]
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    if first == 0:
        return codes, words
    numbers = np.array([0 if word == "" else n for n, word in enumerate(words, 1)], np.int64)
    return (numbers[codes] if words else codes), words
