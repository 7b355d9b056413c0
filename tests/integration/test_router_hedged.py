"""A second attempt at simulated engines: one never says a word, the other answers."""

from collections.abc import Awaitable, Callable

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from router_harness import data, running_router, text
from served_replicas import MODEL, PATIENT, replicas

from autopoiesis.worker.engines.simulated import SimulatedEngine, SimulatedOptions

WaitFor = Callable[..., Awaitable[None]]
OUTPUT = 20


class Mute(SimulatedEngine):
    """Takes requests, and time stands still for them."""

    def _advance(self) -> None: ...


async def test_the_other_replica_answers_and_the_late_one_is_told(
    nats_url: str, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", lambda *_, **__: provider.get_tracer("test"))
    mute = Mute("mute", MODEL, "H100", 1, SimulatedOptions())
    able = SimulatedEngine("able", MODEL, "H100", 1, SimulatedOptions())
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "tell me"}],
        "max_tokens": OUTPUT,
        "simulate": {"output_tokens": OUTPUT},
        "stream": True,
    }
    async with (
        replicas(nats_url, mute=mute, able=able),
        running_router(
            nats_url, tracing=True, hedge_share=1.0, hedge_after_s=0.02, policy="round_robin", **PATIENT
        ) as router,
    ):

        async def both() -> bool:
            states = [replica["state"] for replica in (await router.state())["fleet"]]
            return states == ["ready", "ready"]

        await wait_for(both)
        answers = [await router.client.post("/v1/chat/completions", json=body) for _ in range(4)]
        for answer in answers:
            assert answer.status_code == 200
            *events, done = data(answer.text)
            assert (done, len(text(events).split())) == ("[DONE]", OUTPUT)
        await wait_for(lambda: not mute._requests)
        metrics = (await router.client.get("/metrics")).text
    [won] = [
        line
        for line in metrics.splitlines()
        if line.startswith('autopoiesis_router_hedges_total{result="won"}')
    ]
    assert float(won.split()[-1]) >= 1
    races = [
        dict(event.attributes or {})
        for span in exporter.get_finished_spans()
        for event in span.events
        if event.name == "hedged"
    ]
    assert {
        "autopoiesis.hedge": "won",
        "autopoiesis.replica": "able",
        "autopoiesis.loser": "mute",
    } in races
