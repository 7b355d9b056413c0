"""Traces, generators, load scaling and snapshots."""

import io
import math
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.contracts.messages.fleet import Heartbeat, ReplicaState, StepModel
from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.simulator.fleet import Fleet
from autopoiesis.simulator.workload import Trace, TraceError, load_trace, scale_load
from autopoiesis.simulator.workload import generate as gen
from autopoiesis.simulator.workload.snapshot import (
    SCHEMA,
    FleetChange,
    SnapshotInfo,
    read_snapshot,
    records_to_table,
    write_snapshot,
)
from autopoiesis.simulator.workload.window import pack, unpack


def small(**columns: object) -> Trace:
    return Trace.of("t", [0.0, 1.0, 2.0], [10, 20, 30], [1, 2, 3], **columns)  # type: ignore[arg-type]


def test_sorting_renumbers_parents() -> None:
    trace = Trace.of("t", [3.0, 1.0, 2.0], [30, 10, 20], [1, 1, 1], parent=[2, -1, 1], think_s=[0.5, 0, 0.25])
    assert trace.prompt_tokens.tolist() == [10, 20, 30]
    assert trace.parent.tolist() == [-1, 0, 1]
    assert trace.think_s.tolist() == [0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"klass": [0, 1, 0]}, "class 1 of 1 named"),
        ({"think_s": [0, -1, 0]}, r"row 1: think_s = -1\.0"),
        ({"session": [1, 2]}, "a column has shape"),
        ({"block_hashes": [(1,), (2,), (3,)]}, "without block_tokens"),
    ],
)
def test_columns_that_make_no_sense(columns: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**columns)


def test_censored_outputs_are_drawn_from_whole_ones_at_least_as_long() -> None:
    output = [5, 50, 100, 200, 60]
    trace = Trace.of("t", range(5), [1] * 5, output, censored=[False, False, False, False, True])
    drawn = {int(trace.uncensored(seed).output_tokens[4]) for seed in range(40)}
    assert drawn == {100, 200}
    longest = Trace.of("t", [0, 1], [1, 1], [5, 9], censored=[False, True]).uncensored()
    assert longest.output_tokens.tolist() == [5, 9]
    assert not longest.censored.any()


def test_generators_are_deterministic_and_near_their_rate() -> None:
    for make in (gen.poisson, gen.bursts, partial(gen.diurnal, period_s=2000)):
        one, same, other = make(20, 2000, seed=5), make(20, 2000, seed=5), make(20, 2000, seed=6)
        assert (one.arrival == same.arrival).all()
        assert len(one) != len(other) or (one.arrival != other.arrival).any()
        assert len(one) == pytest.approx(40_000, rel=0.08)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gen.poisson(0.0, 60.0), "poisson: rate = 0.0: must be above 0"),
        (lambda: gen.poisson(1.0, 60.0, mix=()), "poisson: mix needs classes"),
        (lambda: gen.bursts(1.0, 60.0, burst_s=-1.0), "bursts: burst_s = -1.0"),
        (lambda: gen.diurnal(1.0, 60.0, period_s=0.0), "diurnal: period_s = 0.0"),
        (lambda: gen.sessions(math.nan, 60.0), "sessions: rate = nan"),
        (lambda: gen.sessions(1.0, 60.0, turns=0.5), "sessions: turns = 0.5"),
        (lambda: gen.Lengths(10, 1.0, low=5, high=2), "1 <= low <= high"),
    ],
)
def test_arguments_that_make_no_sense_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_bursts_are_burstier_than_poisson() -> None:
    def dispersion(trace: Trace) -> float:
        counts = np.histogram(trace.arrival, np.arange(0, 2001, 5))[0]
        return float(counts.var() / counts.mean())

    assert dispersion(gen.bursts(20, 2000, seed=1)) > 5 * dispersion(gen.poisson(20, 2000, seed=1))


def test_diurnal_peaks_in_the_middle_of_its_period() -> None:
    counts = np.histogram(gen.diurnal(10, 4000, period_s=4000).arrival, np.arange(0, 4001, 1000))[0]
    assert min(counts[1:3]) > 1.5 * max(counts[0], counts[3])


def test_drift_moves_from_one_mix_to_the_other() -> None:
    short, long = gen.Mix(prompt=gen.Lengths(100, 0.2)), gen.Mix(prompt=gen.Lengths(2000, 0.2))
    trace = gen.drift(20, 1000, before=[short], after=[long])
    early, late = trace.between(0, 300), trace.between(700, 1000)
    assert early.prompt_tokens.mean() < 120
    assert late.prompt_tokens.mean() > 1800
    assert len(trace) == pytest.approx(20_000, rel=0.05)


def test_sessions_share_growing_prefixes() -> None:
    trace = gen.sessions(1.0, 200.0, turns=3, seed=2)
    assert trace.block_hashes is not None
    children = np.flatnonzero(trace.parent >= 0)
    assert len(children) > 50
    for child in children.tolist():
        parent = int(trace.parent[child])
        assert trace.session[child] == trace.session[parent]
        assert trace.prompt_tokens[child] > trace.prompt_tokens[parent] + trace.output_tokens[parent]
        mine, theirs = trace.block_hashes[child], trace.block_hashes[parent]
        assert mine[: len(theirs)] == theirs
        assert trace.think_s[child] > 0
    strangers = trace.session != trace.session[0]
    other = trace.block_hashes[int(np.flatnonzero(strangers)[0])]
    assert other[:8] == trace.block_hashes[0][:8]
    assert not set(other[8:]) & set(trace.block_hashes[0][8:])


def test_classes_go_by_session() -> None:
    trace = gen.classified(gen.sessions(1.0, 300.0, turns=4), [("interactive", 3), ("batch", 1)], seed=1)
    for session in np.unique(trace.session):
        assert len(set(trace.klass[trace.session == session].tolist())) == 1
    assert 0.1 < trace.klass.mean() < 0.45


@given(st.floats(0.1, 5.0), st.integers(0, 1000))
def test_scaled_load_keeps_length_and_counts(factor: float, seed: int) -> None:
    trace = gen.poisson(10, 100, seed=3)
    scaled = scale_load(trace, factor, seed)
    assert len(scaled) == pytest.approx(factor * len(trace), abs=2)
    assert scaled.duration <= trace.duration + 1e-6
    assert scaled.arrival[0] >= trace.arrival[0]


def test_scaling_adds_whole_sessions_with_prefixes_of_their_own() -> None:
    trace = gen.sessions(0.5, 200.0, turns=3, seed=4)
    scaled = scale_load(trace, 2.5, seed=1)
    assert scaled.block_hashes is not None
    assert len(np.unique(scaled.session)) == pytest.approx(2.5 * len(np.unique(trace.session)), rel=0.05)
    sizes = {int(n) for n in np.bincount(trace.session)[1:]}
    assert {int(n) for n in np.bincount(scaled.session) if n} <= sizes
    for child in np.flatnonzero(scaled.parent >= 0).tolist():
        assert scaled.session[child] == scaled.session[scaled.parent[child]]
    owners: dict[int, set[int]] = {}
    for session, row in zip(scaled.session.tolist(), scaled.block_hashes, strict=True):
        for block in row[8:]:
            owners.setdefault(block, set()).add(session)
    assert all(len(sessions) == 1 for sessions in owners.values())


def test_scaling_by_one_changes_nothing_and_by_nothing_is_refused() -> None:
    trace = small()
    assert scale_load(trace, 1.0) is trace
    with pytest.raises(ValueError, match="load factor 0"):
        scale_load(trace, 0)


# --- snapshots ---


def record(number: int, **changes: object) -> RequestRecord:
    fields: dict[str, object] = {
        "request_id": f"r{number}",
        "scope": "demo/llama-3.1-8b",
        "model": "llama-3.1-8b",
        "arrival_unix_s": 1000.0 + number,
        "stream": True,
        "prompt_bytes": 400,
        "prompt_tokens": 100,
        "prompt_tokens_estimated": 110,
        "max_tokens": 512,
        "output_tokens": 20 + number,
        "output_censored": False,
        "outcome": "finished",
        "klass": "interactive",
        "session": f"s{number % 2}",
        **changes,
    }
    return RequestRecord(**fields)  # type: ignore[arg-type]


def beat(
    replica: str, *, state: ReplicaState = "ready", incarnation: str = "1", gpu: str = "H100"
) -> Heartbeat:
    return Heartbeat(
        node="n",
        replica=replica,
        incarnation=incarnation,
        beat=1,
        state=state,
        model="llama-3.1-8b",
        gpu=gpu,
        kv_capacity_tokens=100_000,
        max_running=64,
        step_model=StepModel(
            base_s=0.01, prefill_token_s=1e-5, kv_token_s=1e-8, sequence_s=1e-6, chunk_tokens=1024
        ),
    )


def info(**changes: object) -> SnapshotInfo:
    fields: dict[str, object] = {"scope": "demo/*", "start_unix_s": 1000.0, "end_unix_s": 1010.0, **changes}
    return SnapshotInfo(**fields)  # type: ignore[arg-type]


def test_schema_is_that_of_the_record() -> None:
    assert tuple(SCHEMA.names) == RequestRecord.__struct_fields__


def test_snapshots_come_back_as_they_went() -> None:
    records = [record(n, block_hashes=(1, n), klass="" if n == 2 else "batch") for n in range(4)]
    blob = write_snapshot(reversed(records), info(fleet=(beat("a"),)))
    snapshot = read_snapshot(blob)
    assert blob == write_snapshot(records, info(fleet=(beat("a"),)))
    assert snapshot.info.fleet == (beat("a"),)
    trace = snapshot.trace
    assert trace.arrival.tolist() == [0, 1, 2, 3]
    assert [trace.classes[k] for k in trace.klass.tolist()] == ["batch", "batch", "interactive", "batch"]
    assert trace.session.tolist() == [1, 2, 1, 2]
    assert trace.block_hashes == ((1, 0), (1, 1), (1, 2), (1, 3))
    assert trace.prompt_bytes is not None
    assert trace.prompt_bytes.tolist() == [400] * 4


def test_windows_are_packed_without_loss() -> None:
    records = [record(n, block_hashes=(1, n), ttft_slo_s=0.5 if n else None) for n in range(4)]
    window = read_snapshot(write_snapshot(records, info(fleet=(beat("a"),)))).window
    back = unpack(pack(window))
    assert back.info == window.info
    for field in fields(Trace):
        ours, theirs = getattr(back.trace, field.name), getattr(window.trace, field.name)
        np.testing.assert_array_equal(ours, theirs)
    assert back.trace.max_tokens is not None
    assert back.trace.ttft_slo_s is not None
    assert np.isnan(back.trace.ttft_slo_s[0])
    tripled = scale_load(back.trace, 3.0)
    assert tripled.max_tokens is not None
    assert tripled.max_tokens.tolist() == [512] * 12


def test_snapshot_files_load_as_traces(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    path.write_bytes(write_snapshot([record(0), record(1, outcome="failed", output_tokens=0)], info()))
    assert len(load_trace(path)) == 1
    kept = load_trace(path, failed="keep")
    assert kept.censored.tolist() == [False, True]
    with pytest.raises(TraceError, match="row 1 is a failed request"):
        load_trace(path, failed="error")


def test_blobs_that_are_not_snapshots() -> None:
    with pytest.raises(TraceError, match="not Parquet"):
        read_snapshot(b"nonsense")
    plain = io.BytesIO()
    pq.write_table(records_to_table([record(0)]), plain)
    with pytest.raises(TraceError, match="without the metadata"):
        read_snapshot(plain.getvalue())
    with pytest.raises(ValueError, match="needs the columns request_id"):
        write_snapshot(records_to_table([record(0)]).drop(["request_id"]), info())


def test_fleet_of_a_snapshot_follows_its_changes() -> None:
    changes = [
        FleetChange(at_s=2.0, heartbeat=beat("a", state="draining")),
        FleetChange(at_s=3.0, heartbeat=beat("a", state="stopped")),
        FleetChange(at_s=4.0, heartbeat=beat("a", state="loading", incarnation="2")),
        FleetChange(at_s=5.0, heartbeat=beat("a", incarnation="2")),
        FleetChange(at_s=6.0, heartbeat=beat("c")),
        FleetChange(at_s=7.0, heartbeat=beat("c", incarnation="9")),
    ]
    fleet = Fleet.of_snapshot(info(fleet=(beat("a"), beat("b", gpu="Z9")), changes=tuple(changes)))
    assert [spec.name for spec in fleet.replicas] == ["a", "b"]
    assert [(change.at, change.kind, change.replica[0]) for change in fleet.changes] == [
        (2.0, "drain", "a"),
        (3.0, "fail", "a"),
        (5.0, "join", "a"),
        (6.0, "join", "c"),
        (7.0, "fail", "c"),
        (7.0, "join", "c"),
    ]
    assert fleet.replicas[0].config.max_batched_tokens == 1024
    assert fleet.replicas[1].steps.step_coefficients() == (0.01, 1e-5, 1e-8, 1e-6)
