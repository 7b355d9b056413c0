"""Arithmetic of load results."""

import io
import math

import pytest
from rich.console import Console

from autopoiesis.cli.load.result import Latencies, LoadResult, Record, quantile
from autopoiesis.cli.load.table import seconds, table
from autopoiesis.contracts.slo import Objectives, SloClass

OBJECTIVES = Objectives(
    classes={"fast": SloClass(priority=0, ttft_s=1.0, tpot_s=0.1), "slow": SloClass(priority=1, ttft_s=10.0)},
    default="fast",
)


def record(index: int, **fields: object) -> Record:
    plain: dict[str, object] = {
        "klass": "fast",
        "session": "",
        "due_s": 0.0,
        "sent_s": 0.01,
        "prompt_tokens": 4,
        "first_token_s": 0.5,
        "last_token_s": 1.4,
        "end_s": 1.5,
        "output_tokens": 10,
        "status": 200,
        "outcome": "finished",
    }
    return Record(index=index, **{**plain, **fields})  # type: ignore[arg-type]


def result(*records: Record, window_s: float = 10.0) -> LoadResult:
    return LoadResult(
        url="http://x", model="m", objectives=OBJECTIVES, window_s=window_s, records=list(records)
    )


def test_latencies_count_from_the_due_time() -> None:
    late = record(0, due_s=0.2, sent_s=0.4)
    assert late.late_s == pytest.approx(0.2)
    assert late.ttft_s == pytest.approx(0.3)
    assert late.tpot_s == pytest.approx(0.1)
    assert late.e2e_s == pytest.approx(1.3)


def test_one_token_has_no_pace() -> None:
    assert record(0, output_tokens=1).tpot_s is None


def test_quantiles_are_interpolated() -> None:
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert quantile([1.0, 2.0], 0.95) == pytest.approx(1.95)
    assert math.isnan(Latencies.of([]).p99)


def test_every_arrival_counts_and_only_met_ones_are_goodput() -> None:
    seen = result(
        record(0),
        record(1, first_token_s=1.2),
        record(2, outcome="rejected", status=429, error="busy", first_token_s=None, last_token_s=None),
        record(3, klass="slow", first_token_s=1.2),
        record(4, outcome="failed", status=0, error="gone"),
        record(5, scored=False, outcome="failed", error="gone"),
    )
    assert seen.overall.requests == 5
    assert seen.overall.met == 2
    assert seen.goodput == pytest.approx(0.4)
    assert seen.overall.goodput_rps == pytest.approx(0.2)
    assert seen.classes["fast"].attainment == pytest.approx(0.25)
    assert seen.classes["slow"].attainment == 1.0
    assert (seen.rejected, seen.failed) == (1, 2)
    assert seen.errors() == {"gone": 2, "busy": 1}


def test_json_has_no_nan() -> None:
    nothing = result(record(0, outcome="failed", first_token_s=None, error="gone"))
    plain = nothing.to_dict(records=True)
    assert plain["overall"]["ttft"]["p50"] is None
    assert plain["overall"]["attainment"] == 0.0
    assert plain["records"][0]["error"] == "gone"


def test_the_table_names_classes_objectives_and_errors() -> None:
    out = io.StringIO()
    shown = result(record(0), record(1, klass="slow"), record(2, outcome="failed", error="gone"))
    Console(file=out, width=200).print(table(shown))
    for word in ("fast", "slow", "TTFT 1.00 s, TPOT 100 ms", "1 failed", "1 x gone", "500 ms"):
        assert word in out.getvalue()


@pytest.mark.parametrize(
    ("value", "shown"), [(math.nan, "-"), (0.0123, "12 ms"), (0.9999, "1.00 s"), (2.5, "2.50 s")]
)
def test_durations_for_people(value: float, shown: str) -> None:
    assert seconds(value) == shown
