"""Steps as a running system keeps them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from autopoiesis.contracts.messages.telemetry import StepRecord

_KIND = ("model", "gpu", "tp")


def read_steps(folder: str | Path) -> dict[tuple[str, str, int], list[StepRecord]]:
    """`telemetry.step` of each (model, GPU type, tensor parallelism) from an observer's segments, `<observer.dir>/steps/*.parquet`.

    Raises `ValueError` where there are none, or of a file that holds no steps.
    """
    found: dict[tuple[str, str, int], list[StepRecord]] = {}
    files = sorted(Path(folder).glob("*.parquet"))
    if not files:
        raise ValueError(
            f"{folder}: no Parquet files; an observer keeps steps in the folder 'steps' of observer.dir"
        )
    columns = [*_KIND, *StepRecord.__struct_fields__]
    for file in files:
        try:
            rows = pq.read_table(file, columns=columns).to_pylist()
        except (pa.ArrowInvalid, KeyError) as error:
            raise ValueError(f"{file}: no recorded steps: {error}") from error
        for row in rows:
            kind = (row["model"], row["gpu"], row["tp"])
            found.setdefault(kind, []).append(msgspec.convert(row, StepRecord))
    return found
