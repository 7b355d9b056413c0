"""Prompts that begin alike go where their beginning is cached, for as long as it is."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
from router_harness import RunningRouter, running_router
from served_replicas import PATIENT, replicas

from autopoiesis.contracts.messages.infer import Finished, Generate
from autopoiesis.runtime.bus import Bus, RequestStreams
from autopoiesis.worker.engines.simulated import SimulatedEngine, SimulatedOptions

MODEL = "Qwen2.5-72B"
"""On two H100 little is left for the KV cache: some 10,000 tokens."""
BLOCK_BYTES = 1024
WaitFor = Callable[..., Awaitable[None]]


def engine(name: str) -> SimulatedEngine:
    return SimulatedEngine(name, MODEL, "H100", 2, SimulatedOptions(max_running=16))


async def ask(router: RunningRouter, text: str) -> tuple[str, int]:
    """Who answered, and how many tokens of the prompt it had cached."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "simulate": {"output_tokens": 2},
    }
    answer = await router.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    cached = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return answer.headers["x-autopoiesis-replica"], cached


async def fill(url: str, replica: str, *, times: int) -> None:
    """Another router sends prompts there that need nearly all of its KV cache."""
    bus = await Bus.connect(url, name="other router", inbox_prefix="_INBOX.router")
    streams = await RequestStreams.start(bus, secrets.token_hex(4))
    text = "z" * 4 * 9000
    body = {"messages": [{"role": "user", "content": text}], "simulate": {"output_tokens": 1}}
    for number in range(times):
        request = Generate(
            request_id=f"filler-{number}",
            router="other",
            nth=number + 1,
            model=MODEL,
            endpoint="chat",
            body=msgspec.Raw(msgspec.json.encode(body)),
            stream=False,
            prompt_tokens=9000,
            max_tokens=1,
        )
        last: Any = None
        async for batch in await streams.open(replica, request):
            last = batch[-1]
        assert isinstance(last, Finished), last
    await streams.close()
    await bus.close()


async def test_repeated_prefixes_go_where_they_are_cached_until_they_are_evicted(
    nats_url: str, wait_for: WaitFor
) -> None:
    prompt = "".join(f"{number:07d} " for number in range(4 * BLOCK_BYTES // 8))
    long = "y" * 4 * 8000
    engines = {name: engine(name) for name in ("first", "second")}
    async with replicas(nats_url, **engines), running_router(nats_url, policy="preble", **PATIENT) as router:

        async def both_ready() -> bool:
            states = [replica["state"] for replica in (await router.state())["fleet"]]
            return states == ["ready", "ready"]

        await wait_for(both_ready)
        busy = asyncio.create_task(ask(router, long))

        async def sent() -> bool:
            return bool((await router.state())["in_flight"])

        await wait_for(sent)
        holder, cached = await ask(router, prompt)
        other, _ = await busy
        assert holder != other, "the idle one costs less"
        assert cached == 0
        for tail in ("a", "b" * 500, "c"):
            assert await ask(router, prompt + tail) == (holder, 1024)
        elsewhere, cached = await ask(router, "x" + prompt)
        assert (elsewhere, cached) == (other, 0), "not the same beginning"
        assert (await ask(router, prompt + "d"))[0] == holder

        await fill(nats_url, holder, times=2)

        async def told() -> bool:
            fleet = {replica["replica"]: replica for replica in (await router.state())["fleet"]}
            return bool(fleet[holder]["evictions"] >= 4)

        await wait_for(told)
        now, cached = await ask(router, prompt + "e")
        assert (now, cached) == (other, 0)
        assert await ask(router, prompt + "f") == (other, 1024)


async def test_the_cache_is_counted_per_replica(nats_url: str, wait_for: WaitFor) -> None:
    async with replicas(nats_url, only=engine("only")), running_router(nats_url, **PATIENT) as router:
        await wait_for(router.ready)
        for _ in range(3):
            await ask(router, "w" * 3000)

        async def counted() -> bool:
            (replica,) = (await router.state())["fleet"]
            return bool(replica["prefix_queries"] > 2200 and replica["prefix_hits"] == 1024)

        await wait_for(counted)
        metrics: httpx.Response = await router.client.get("/metrics")
        hits = [
            line for line in metrics.text.splitlines() if line.startswith("vllm:prefix_cache_hits_total{")
        ]
        assert [line.rsplit(" ", 1)[1] for line in hits] == ["1024.0"]
