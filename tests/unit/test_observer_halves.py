from dataclasses import replace

import pyarrow as pa
import pytest

from autopoiesis.contracts.codec import encode
from autopoiesis.contracts.messages.fleet import Heartbeat, NodeInventory, PlanObserved, PlanRules, StepModel
from autopoiesis.contracts.messages.telemetry import RequestRecord, StepBatch, StepRecord
from autopoiesis.contracts.slo import STANDARD
from autopoiesis.observer.calibration import by_gpu, calibrate
from autopoiesis.observer.columns import schema_of, to_table
from autopoiesis.observer.fleet import Fleet
from autopoiesis.observer.halves import Material, fleet_between, half, in_flight
from autopoiesis.observer.rows import FleetRow, PlanRow, StepRow, plan_row, step_rows
from autopoiesis.simulator.fleet import Fleet as SimulatedFleet
from autopoiesis.simulator.hardware import gpu
from autopoiesis.simulator.models import model
from autopoiesis.simulator.steptime import StepTime
from autopoiesis.simulator.workload.snapshot import SCHEMA, read_snapshot
from autopoiesis.simulator.workload.window import GpuProbe

SCOPE = "local/Qwen/Qwen3-8B"


def beat(replica, state="ready", **fields):
    defaults = {
        "node": "n",
        "replica": replica,
        "incarnation": "i",
        "beat": 1,
        "state": state,
        "model": "Qwen/Qwen3-8B",
    }
    return Heartbeat(**{**defaults, "gpu": "H100", **fields})


def fleet_table(*noted):
    rows = [
        FleetRow(at_unix_s=at, replica=b.replica, state=b.state, heartbeat=encode(b).decode())
        for at, b in noted
    ]
    return to_table(FleetRow, rows)


def record(number, at, **fields):
    defaults = {
        "request_id": f"r{number}",
        "scope": SCOPE,
        "model": "Qwen/Qwen3-8B",
        "arrival_unix_s": at,
        "stream": True,
        "prompt_bytes": 400,
        "prompt_tokens": 100,
        "prompt_tokens_estimated": 100,
        "max_tokens": 500,
        "output_tokens": 101,
        "output_censored": False,
        "outcome": "finished",
        "queue_wait_s": 0.1,
        "ttft_s": 0.5,
        "tpot_s": 0.02,
        "e2e_s": 2.5,
        "replica": "a",
        "gpu": "H100",
    }
    return RequestRecord(**{**defaults, **fields})


def test_our_columns_are_the_snapshots_columns():
    assert schema_of(RequestRecord).equals(SCHEMA)


def test_fleet_at_the_start_and_its_real_changes():
    rows = fleet_table(
        (50.0, beat("a")),
        (60.0, beat("gone", "stopped")),
        (70.0, beat("other model", model="else")),
        (110.0, beat("a", beat=9)),  # a minute's keyframe: nothing changed
        (120.0, beat("a", "draining")),
        (130.0, beat("b")),
        (900.0, beat("too late")),
    )
    standing, changes = fleet_between(rows, SCOPE, 100.0, 200.0)
    assert [b.replica for b in standing] == ["a"]
    assert [(c.at_s, c.heartbeat.replica, c.heartbeat.state) for c in changes] == [
        (20.0, "a", "draining"),
        (30.0, "b", "ready"),
    ]


def test_a_fleet_first_heard_of_after_the_start_stands_for_it():
    standing, changes = fleet_between(
        fleet_table((300.0, beat("a")), (301.0, beat("b"))), "local/*", 100.0, 200.0
    )
    assert [b.replica for b in standing] == ["a", "b"]
    assert changes == []


def test_in_flight_counts_the_tokens_that_were_out_by_then():
    requests = to_table(
        RequestRecord,
        [
            record(0, 90.0),  # over
            record(1, 98.5),  # first token at 99.0, one second at 50 tokens/s
            record(2, 99.7),  # still in prefill
            record(3, 99.95),  # still in the router's queue
            record(4, 99.0, replica=""),  # never sent
            record(5, 100.5),  # later
        ],
    )
    found = in_flight(requests, 100.0)
    assert [(f.produced_tokens, f.output_tokens) for f in found] == [
        (pytest.approx(51, abs=1), 101),
        (0, 101),
    ]


def test_halves_do_not_overlap_and_can_be_read_back():
    requests = to_table(RequestRecord, [record(n, 100.0 + n) for n in range(10)])
    material = Material(
        SCOPE, requests, fleet_table((0.0, beat("a"))), STANDARD, {"H100": 1.2}, 0.05, routers=2
    )
    first, second = half(material, 100.0, 106.0), half(material, 106.0, 110.0)
    assert (first.arrivals, second.arrivals) == (6, 4)
    ids = [read_snapshot(h.data).table["request_id"].to_pylist() for h in (first, second)]
    assert ids == [[f"r{n}" for n in range(6)], [f"r{n}" for n in range(6, 10)]]
    info = read_snapshot(second.data).info
    assert (info.routers, info.step_scale, info.step_error) == (2, {"H100": 1.2}, 0.05)
    assert len(info.in_flight) == 2  # arrived at 104 and 105, 2.5 s each
    assert 0 < info.scored_from_s < 4


def steps(scale, chip="H100", name="Qwen3-8B", count=40):
    times = StepTime(gpu(chip), model(name), 1)
    records = tuple(
        StepRecord(
            at_unix_s=float(n),
            duration_s=scale * times.step([], n + 1, 100 * n, n + 1),
            prefill_tokens=0,
            decode_sequences=n + 1,
            kv_tokens=100 * n,
            steps=3,
        )
        for n in range(count)
    )
    batch = StepBatch(replica="a", incarnation="i", batch=0, model=name, gpu=chip, tp=1, records=records)
    return to_table(StepRow, step_rows(batch).rows)


def test_calibration_finds_how_much_slower_an_engine_is():
    table = pa.concat_tables([steps(1.3), steps(0.9, "L40S")])
    scales, error = by_gpu(calibrate(table, []))
    assert scales == {"H100": pytest.approx(1.3), "L40S": pytest.approx(0.9)}
    assert error == pytest.approx(0.0, abs=1e-9)


def test_what_nodes_measured_of_their_gpus_is_what_snapshots_start_from():
    fleet = Fleet(clock=lambda: 0.0)
    peak, bandwidth = gpu("H100").peak_flops, gpu("H100").bandwidth
    for node, share in (("a", 0.5), ("b", 0.4), ("c", 0.3)):
        fleet.equipped(
            NodeInventory(
                node=node,
                gpus={"H100": 8},
                memory_bytes={"H100": 80 << 30},
                measured_flops={"H100": share * peak},
                measured_bandwidth={"H100": share * bandwidth},
            )
        )
    fleet.equipped(NodeInventory(node="d", gpus={"L4": 1}, memory_bytes={"L4": 24 << 30}))
    probed = fleet.probed()
    assert probed == {"H100": GpuProbe(flops=0.4 * peak, bandwidth=0.4 * bandwidth, memory_bytes=80 << 30)}
    requests = to_table(RequestRecord, [record(0, 100.0)])
    beats = fleet_table((0.0, beat("a", model="Qwen3-8B")))
    material = Material("c/Qwen3-8B", requests, beats, STANDARD, {}, None, probed=probed)
    (replica,) = SimulatedFleet.of_snapshot(read_snapshot(half(material, 100.0, 101.0).data).info).replicas
    plain = StepTime(gpu("H100"), model("Qwen3-8B"), 1)
    assert replica.steps.fixed(1, 0) > 1.5 * plain.fixed(1, 0)
    (found,) = calibrate(steps(1.0), [], probed)
    assert found.scale < 1 / 1.5


def test_unknown_hardware_is_compared_with_what_its_heartbeats_say():
    table = steps(1.0).set_column(3, "gpu", pa.array(["TPU"] * 40))
    assert calibrate(table, []) == []
    carried = StepModel(base_s=0.005, prefill_token_s=0.0, kv_token_s=0.0, sequence_s=0.0, chunk_tokens=1)
    (found,) = calibrate(table, [beat("a", gpu="TPU", model="Qwen3-8B", step_model=carried)])
    assert found.steps == 120
    assert found.scale > 0


def test_nothing_measured_claims_no_error():
    assert by_gpu(calibrate(steps(1.0, count=0), [])) == ({}, None)


def test_fleet_notes_changes_keyframes_and_silence():
    now = [0.0]
    fleet = Fleet(lambda: now[0])

    def noted():
        changes = fleet.changes()
        return [] if changes is None else [(r.replica, r.state) for r in changes.rows]

    fleet.heard(beat("a", beat=2))
    fleet.heard(beat("a", "draining", beat=1))  # overtaken on the way
    assert noted() == [("a", "ready")]
    fleet.heard(beat("a", beat=3, running=7))
    assert noted() == []  # load is not membership
    fleet.heard(beat("a", "draining", beat=4))
    assert noted() == [("a", "draining")]
    for second in range(1, 62):
        now[0] = float(second)
        fleet.heard(beat("a", "draining", beat=4 + second))
    assert noted() == [("a", "draining")]
    now[0] += 10.0
    assert fleet.current() == []
    assert noted() == [("a", "stopped")]
    assert noted() == []
    fleet.heard(beat("a", incarnation="j", beat=1))
    assert noted() == [("a", "ready")]


def test_batches_of_fleet_rows_have_names_of_their_own():
    fleets = [Fleet(lambda: 0.0) for _ in range(2)]
    for fleet in fleets:
        fleet.heard(beat("a"))
    batches = [fleet.changes() for fleet in fleets]
    assert len({batch.name for batch in batches if batch is not None}) == 2


def test_monitoring_steps_lie_in_their_half_and_starts_are_timed():
    rules = PlanRules(step_s=5.0, window_s=30.0, cooldown_s=30.0)
    rows = [
        plan_row(
            "plan.observed.x",
            PlanObserved(
                scope=SCOPE,
                step=n,
                at_unix_s=100.0 + n,
                policy="p",
                epoch=1,
                gpus={"H100": n},
                demand={},
                plan=(),
                rules=rules,
            ),
        ).rows[0]
        for n in range(10)
    ]
    fleet = fleet_table(
        (100.0, beat("a")),
        (101.0, beat("b", state="loading")),
        (108.0, beat("b")),
        (109.0, beat("c", state="loading")),
    )
    requests = to_table(RequestRecord, [record(n, 100.0 + n) for n in range(10)])
    material = Material(SCOPE, requests, fleet, STANDARD, {}, None, plans=to_table(PlanRow, rows))
    infos = [read_snapshot(half(material, *bounds).data).info for bounds in ((100.0, 106.0), (106.0, 110.0))]
    assert [[step.gpus["H100"] for step in info.planned] for info in infos] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 8, 9],
    ]
    assert [info.start_s for info in infos] == [7.0, 7.0]


def test_what_is_known_of_a_servers_speed_by_now_counts_from_the_start():
    learned = StepModel(base_s=0.01, prefill_token_s=1e-4, kv_token_s=0.0, sequence_s=0.0, chunk_tokens=2048)
    beats = fleet_table((90.0, beat("a", gpu="unknown")), (120.0, beat("b", gpu="unknown")))
    requests = to_table(RequestRecord, [record(1, 110.0), record(2, 150.0)])
    material = Material(SCOPE, requests, beats, STANDARD, {}, None, speeds={"a": learned, "b": learned})
    found = half(material, 100.0, 200.0)
    fleet = SimulatedFleet.of_snapshot(found.info)
    assert [spec.steps.step([], 1, 0, 1) for spec in fleet.replicas] == [pytest.approx(0.01)]
    assert [(change.kind, change.replica) for change in fleet.changes] == [("join", "b~0")]
    assert fleet.replicas[0].config.kv_capacity_tokens > 1_000_000, "it tells none: that is no want of room"
    with pytest.raises(ValueError, match="unknown GPU type"):
        SimulatedFleet.of_snapshot(half(replace(material, speeds={}), 100.0, 200.0).info)
