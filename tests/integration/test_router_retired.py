"""Replicas that a plan retires under requests: on those that stay, or come later, every answer ends well."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from router_harness import RunningRouter, data, running_router, text
from served_replicas import MODEL, PATIENT, replicas

from autopoiesis.worker.engines.simulated import SimulatedEngine, SimulatedOptions

WaitFor = Callable[..., Awaitable[None]]
REQUESTS, OUTPUT = 4, 400


def engine(name: str) -> SimulatedEngine:
    return SimulatedEngine(name, MODEL, "L40S", 1, SimulatedOptions())


async def ask(router: RunningRouter, *, stream: bool) -> httpx.Response:
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "tell me"}],
        "max_tokens": OUTPUT,
        "simulate": {"output_tokens": OUTPUT},
        "stream": stream,
    }
    options = {"stream_options": {"include_usage": True}} if stream else {}
    return await router.client.post("/v1/chat/completions", json=body | options)


async def test_nobody_notices_that_the_whole_fleet_was_replaced(nats_url: str, wait_for: WaitFor) -> None:
    one, other = engine("one"), engine("other")
    async with running_router(nats_url, **PATIENT | {"no_replica_wait_s": 0.05}) as router:
        router.client.timeout = httpx.Timeout(90.0)
        async with replicas(nats_url, one=one, other=other):

            async def both() -> bool:
                states = [replica["state"] for replica in (await router.state())["fleet"]]
                return states == ["ready", "ready"]

            await wait_for(both)
            calls = [asyncio.create_task(ask(router, stream=bool(number % 2))) for number in range(REQUESTS)]
            await wait_for(lambda: one.stats().running + other.stats().running == REQUESTS)

        async def all_wait() -> bool:
            return bool((await router.state())["queue"] == {MODEL: REQUESTS})

        await wait_for(all_wait)
        async with replicas(nats_url, third=engine("third")):
            answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [200] * REQUESTS, answers[0].text
    for stream, answer in zip((False, True) * (REQUESTS // 2), answers, strict=True):
        if stream:
            *events, usage, done = data(answer.text)
            assert done == "[DONE]"
            assert usage["usage"]["completion_tokens"] == OUTPUT
            assert len(text(events).split()) == OUTPUT
        else:
            assert answer.json()["usage"]["completion_tokens"] == OUTPUT
