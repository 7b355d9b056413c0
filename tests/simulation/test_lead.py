"""A window served after its lead: the same arrivals scored, met by queues of the policy's own."""

from dataclasses import replace

import msgspec
import numpy as np

from autopoiesis.simulator.api import evaluate_snapshot
from autopoiesis.simulator.fleet import Fleet
from autopoiesis.simulator.requests.engines import Engine
from autopoiesis.simulator.workload import scale_load
from autopoiesis.simulator.workload.generate import BATCH, INTERACTIVE, poisson
from autopoiesis.simulator.workload.scaling import succession
from autopoiesis.simulator.workload.window import InFlight, SnapshotInfo, Window

LOADS = (0.5, 1.0, 1.5)


def window(start: float, seed: int, in_flight: tuple[InFlight, ...] = ()) -> Window:
    fleet = Fleet.parse("1xH100 + 1xL40S", "Llama-3.1-8B")
    beats = tuple(Engine(spec, 0.0, None).heartbeat(0.0) for spec in fleet.replicas)
    info = SnapshotInfo(
        scope="s",
        start_unix_s=start,
        end_unix_s=start + 20,
        scored_from_s=1.0,
        fleet=beats,
        in_flight=in_flight,
    )
    return Window(info, poisson(8.0, 20.0, mix=(INTERACTIVE, BATCH), seed=seed))


def test_the_same_arrivals_are_scored_with_and_without_a_lead() -> None:
    lead, main = window(100.0, 1), window(120.0, 2)
    alone = evaluate_snapshot("least_requests", main, LOADS)
    after = evaluate_snapshot("least_requests", main, LOADS, lead=lead)
    for one, two in zip(alone.runs, after.runs, strict=True):
        first, second = one.arrival_s[one.scored], two.arrival_s[two.scored]
        assert np.array_equal(np.sort(first), np.sort(second))


def test_a_heavy_lead_is_felt() -> None:
    lead, main = window(100.0, 1), window(120.0, 2)
    heavy = replace(lead, trace=scale_load(lead.trace, 12.0))
    light = evaluate_snapshot("round_robin", main, lead=lead).runs[0].summary()
    loaded = evaluate_snapshot("round_robin", main, lead=heavy).runs[0].summary()
    assert loaded["ttft_s_p95"] > light["ttft_s_p95"]


def test_with_a_lead_the_former_policys_queues_do_not_count() -> None:
    name = Fleet.parse("1xH100 + 1xL40S", "Llama-3.1-8B").replicas[1].name
    stuck = tuple(
        InFlight(replica=name, prompt_tokens=8000, produced_tokens=0, output_tokens=2000) for _ in range(60)
    )
    lead, main = window(100.0, 1), window(120.0, 2)
    burdened = Window(msgspec.structs.replace(main.info, in_flight=stuck), main.trace)
    with_lead = evaluate_snapshot("least_requests", burdened, lead=lead).runs[0].summary()
    assert with_lead == evaluate_snapshot("least_requests", main, lead=lead).runs[0].summary()
    assert evaluate_snapshot("least_requests", burdened).runs[0].summary() != (
        evaluate_snapshot("least_requests", main).runs[0].summary()
    )


def test_a_succession_keeps_every_row_and_sessions_apart() -> None:
    first = poisson(5.0, 10.0, mix=(INTERACTIVE,), seed=3).shifted(-10.0)
    second = poisson(5.0, 10.0, mix=(BATCH, INTERACTIVE), seed=4)
    both = succession(first, second)
    assert len(both) == len(first) + len(second)
    assert np.array_equal(both.arrival, np.concatenate([first.arrival, second.arrival]))
    names = [both.classes[k] for k in both.klass]
    assert names == [first.classes[k] for k in first.klass] + [second.classes[k] for k in second.klass]
