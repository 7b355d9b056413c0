"""Prefill and decode apart behind the router: prompts are computed at one replica, answers made at another."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from handover_policy import TO_PREFILL
from router_harness import RunningRouter, running_router
from served_replicas import MODEL, PATIENT, replicas

from autopoiesis.worker.engines.simulated import SimulatedEngine, SimulatedOptions
from autopoiesis.worker.serving import ServedReplica

WaitFor = Callable[..., Awaitable[None]]
PROMPT = "x" * 8000


def engine(name: str) -> SimulatedEngine:
    return SimulatedEngine(name, MODEL, "H100", 1, SimulatedOptions())


def computed(engine: SimulatedEngine) -> int:
    """Tokens that it has computed, prompts and answers."""
    return engine._replica.layer_tokens


@asynccontextmanager
async def apart(
    nats_url: str, wait_for: WaitFor, **engines: SimulatedEngine
) -> AsyncIterator[tuple[RunningRouter, dict[str, ServedReplica]]]:
    """A router whose policy splits, and replicas with the roles that their names begin with."""
    roles = {"p": "prefill", "d": "decode", "m": "mixed"}
    async with (
        replicas(nats_url, {name: roles[name[0]] for name in engines}, **engines) as served,  # type: ignore[misc]
        running_router(nats_url, **PATIENT) as router,
    ):
        answer = await router.client.put("/admin/policy/pin", json={"source": TO_PREFILL})
        assert answer.is_success, answer.text

        async def whole() -> bool:
            fleet = (await router.state())["fleet"]
            return [replica["state"] for replica in fleet] == ["ready"] * len(engines)

        await wait_for(whole)
        yield router, served


async def ask(router: RunningRouter, *, stream: bool, output: int = 20, **fields: object) -> httpx.Response:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": PROMPT}],
        "simulate": {"output_tokens": output},
        "stream": stream,
        "stream_options": {"include_usage": True} if stream else None,
        **fields,
    }
    return await router.client.post("/v1/chat/completions", json=body, timeout=60.0)


def usage(answer: httpx.Response, stream: bool) -> dict[str, int]:
    assert answer.status_code == 200, answer.text
    if not stream:
        return dict(answer.json()["usage"])
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return dict(json.loads(events[-2])["usage"])


@pytest.mark.parametrize("stream", [True, False])
async def test_one_computes_the_prompt_and_another_makes_the_answer(
    nats_url: str, wait_for: WaitFor, stream: bool
) -> None:
    p, d = engine("p"), engine("d")
    async with apart(nats_url, wait_for, p=p, d=d) as (router, _):
        answer = await ask(router, stream=stream)
        counted = usage(answer, stream)
        assert answer.headers["x-autopoiesis-replica"] == "d"
        assert (counted["prompt_tokens"], counted["completion_tokens"]) == (2000, 20)
        assert computed(p) >= 2000
        assert computed(d) < 100
        assert not (await router.state())["in_flight"]


async def test_what_one_replica_has_to_do_alone_is_not_split(nats_url: str, wait_for: WaitFor) -> None:
    p, d = engine("p"), engine("d")
    async with apart(nats_url, wait_for, p=p, d=d) as (router, _):
        for fields in ({"n": 2}, {"max_tokens": 1}):
            answer = await ask(router, stream=False, **fields)
            assert answer.headers["x-autopoiesis-replica"] == "p", answer.text
        assert computed(d) == 0


async def test_without_a_replica_to_decode_the_prompt_stays_where_it_is(
    nats_url: str, wait_for: WaitFor
) -> None:
    p = engine("p")
    async with apart(nats_url, wait_for, p=p) as (router, _):
        answer = await ask(router, stream=True)
        assert usage(answer, True)["completion_tokens"] == 20
        assert answer.headers["x-autopoiesis-replica"] == "p"


async def test_a_replica_that_cannot_take_the_cache_is_passed_over(nats_url: str, wait_for: WaitFor) -> None:
    """Its engine ended, and its heartbeat has not said so yet."""
    p, d, m = engine("p"), engine("d"), engine("m")
    async with apart(nats_url, wait_for, p=p, d=d, m=m) as (router, served):
        served["d"].draining = True
        answer = await ask(router, stream=True)
        assert usage(answer, True)["completion_tokens"] == 20
        assert answer.headers["x-autopoiesis-replica"] in {"m", "p"}
