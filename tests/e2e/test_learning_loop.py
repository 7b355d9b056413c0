"""The demo's loop without the demo's minutes: its traffic as telemetry, then everything up to the swap in the router."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e_world import MODEL, command, state, until

from autopoiesis.cli.demo.scenario import Stretches, synthetic
from autopoiesis.cli.installation import Installation, Shape, Worker
from autopoiesis.cli.sections import SECTIONS
from autopoiesis.contracts.messages.telemetry import RequestBatch, RequestRecord
from autopoiesis.contracts.subjects import REQUEST_TELEMETRY
from autopoiesis.policy import library
from autopoiesis.runtime.bus import Bus
from autopoiesis.runtime.settings import Settings
from autopoiesis.simulator.workload import Trace

pytestmark = [pytest.mark.xdist_group("learning"), pytest.mark.timeout(240)]

SCOPE = f"local/{MODEL}"
FLEET = "1xH100 + 2xL40S"
STRETCHES = Stretches(learn=30.0, decide=40.0)
DASHBOARD = Path(__file__).parents[2] / "infra" / "grafana" / "learning.json"
SELDOM = {
    "autopoiesis_synthesizer_llm_calls_total",
    "autopoiesis_synthesizer_llm_tokens_total",
    "autopoiesis_synthesizer_llm_cost_total",
    "autopoiesis_observer_drifts_total",
    "autopoiesis_observer_write_failures_total",
}
"""Metrics of the dashboard that appear only with a language model, drift, or a full disk."""
SERVICES = {
    "observer": {"AUTOPOIESIS_OBSERVER_SNAPSHOT_EVERY_S": "0"},
    "synthesizer": {  # ended by the number of candidates, however slow the machine is
        "AUTOPOIESIS_SYNTHESIZER_CYCLE_S": "120",
        "AUTOPOIESIS_SYNTHESIZER_CANDIDATES": "4",
        "AUTOPOIESIS_SYNTHESIZER_PROPOSE": "1",
        "AUTOPOIESIS_SYNTHESIZER_KINDS": '["dispatch"]',
        "AUTOPOIESIS_SYNTHESIZER_NICE": "0",
    },
    "evaluator": {
        "AUTOPOIESIS_EVALUATOR_LOADS": "[1.0]",
        "AUTOPOIESIS_EVALUATOR_SEEDS": "1",
        "AUTOPOIESIS_EVALUATOR_NICE": "0",
    },
}


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    settings = Settings.load(*SECTIONS, env={}, flags={"scope": SCOPE, "mode": "auto", "router.port": 0})
    shape = Shape(workers=(Worker(node="a", replicas=FLEET),), service_env=SERVICES)
    directory = tmp_path_factory.mktemp("learner")
    with Installation(directory, settings, shape, progress=lambda what: None) as running:
        running.start()
        yield running


@pytest.fixture
async def bus(learner: Installation) -> AsyncIterator[Bus]:
    connected = await Bus.connect(learner.running.nats, name="test")
    yield connected
    await connected.close()


def records(trace: Trace, start_unix_s: float) -> list[RequestRecord]:
    """What a router would have told of `trace` under an activation that met no objective."""
    return [
        RequestRecord(
            request_id=f"r{number}",
            scope=SCOPE,
            model=MODEL,
            arrival_unix_s=start_unix_s + float(trace.arrival[number]),
            stream=True,
            prompt_bytes=4 * int(trace.prompt_tokens[number]),
            prompt_tokens=int(trace.prompt_tokens[number]),
            prompt_tokens_estimated=int(trace.prompt_tokens[number]),
            max_tokens=4096,
            output_tokens=int(trace.output_tokens[number]),
            output_censored=False,
            outcome="finished",
            klass=trace.classes[int(trace.klass[number])],
            ttft_slo_s=1.0,
            ttft_s=5.0,
            e2e_s=10.0,
            epoch=1,
        )
        for number in range(len(trace))
    ]


async def test_traffic_becomes_a_snapshot_a_candidate_a_judgement_and_a_swap(
    learner: Installation, bus: Bus, http: httpx.AsyncClient
) -> None:
    running = learner.running
    first = library.load("round_robin").hash

    async def decided_by_the_first() -> bool:
        policy = (await state(http, running.router))["policy"]
        return bool(policy["deciding"] == first and policy["epoch"] > 0)

    await until(decided_by_the_first, 60)
    trace = synthetic(0.6, 0, STRETCHES, FLEET).observed
    seconds = STRETCHES.learn + STRETCHES.decide
    start = time.time() - seconds - 30.0
    told = records(trace, start)
    batch = RequestBatch(router="r", incarnation="1", batch=1, records=tuple(told))
    await bus.publish_event(REQUEST_TELEMETRY, batch, msg_id="traffic", router="r")
    await until(lambda: observed(http, running.observer, len(told)), 60)
    await until(lambda: fleet_is_stored(http, running.observer), 60)

    window = {"start_unix_s": start, "cut_unix_s": start + STRETCHES.learn, "end_unix_s": start + seconds}
    answer = await http.post(f"{running.observer}/v1/snapshots", json={"scope": SCOPE, **window})
    assert answer.status_code == 201, answer.text
    snapshot = answer.json()
    assert snapshot["arrivals"] + snapshot["sealed_arrivals"] == len(told)

    async def swapped() -> bool:
        return bool((await state(http, running.router))["policy"]["deciding"] != first)

    await until(swapped, 180)
    decides = (await state(http, running.router))["policy"]
    data = ("--data", str(learner.data_dir), "--json")
    newest = json.loads(await asyncio.to_thread(command, "policy", "history", *data))[0]
    assert (newest["hash"], newest["epoch"]) == (decides["hash"], decides["epoch"])
    judged = newest["evaluation"]
    assert (judged["verdict"], judged["snapshot"]) == ("promote", snapshot["snapshot"])
    assert judged["incumbent"] == first
    assert judged["gain_low"] > 0
    listed = json.loads(await asyncio.to_thread(command, "policy", "list", "--judged", *data))["policies"]
    assert newest["hash"] in [row["hash"] for row in listed if row["active"]]
    await until(lambda: every_metric(http, running.urls), 60)


async def observed(http: httpx.AsyncClient, observer: str, arrivals: int) -> bool:
    windows = (await http.get(f"{observer}/v1/windows", params={"seconds": 600})).json()
    return bool(sum(window["overall"]["arrivals"] for window in windows) == arrivals)


async def fleet_is_stored(http: httpx.AsyncClient, observer: str) -> bool:
    """Whether every replica of FLEET is where snapshots find it."""
    text = (await http.get(f"{observer}/metrics")).text
    rows = re.search(r'autopoiesis_observer_rows_total\{kind="fleet"\} ([\d.]+)', text)
    heard = {beat["replica"] for beat in (await http.get(f"{observer}/v1/fleet")).json()}
    return len(heard) == 3 and rows is not None and float(rows[1]) >= 3


async def every_metric(http: httpx.AsyncClient, urls: dict[str, str]) -> bool:
    """Whether the dashboard of learning asks for nothing that is not there."""
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"autopoiesis_\w+", target["expr"])
    }
    shown = ""
    for service in ("observer", "synthesizer", "evaluator"):
        shown += (await http.get(f"{urls[service]}/metrics")).text
    names = set(re.findall(r"^autopoiesis_\w+", shown, re.MULTILINE))
    return asked - SELDOM <= names
