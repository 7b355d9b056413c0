"""Two real vLLMs behind the real router: what clients get."""

import asyncio
import json

import httpx
import pytest
from vllm_world import REPLICAS, A, Fleet, Streamed, World, chat, stream, whole

from autopoiesis.runtime.bus import Bus

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"sky": {"type": "string", "enum": ["clear", "grey"]}},
            "required": ["sky"],
        },
    },
}


@pytest.fixture
async def fleet(bus: Bus) -> Fleet:
    fleet = await Fleet.listen(bus)
    await fleet.ready()
    return fleet


async def test_streamed_and_whole_answers_say_the_same(fleet: Fleet, http: httpx.AsyncClient) -> None:
    body = chat(max_tokens=40)
    said = await whole(http, body)
    streamed = await stream(http, body)
    assert streamed.done
    assert streamed.text == said["choices"][0]["message"]["content"]
    assert streamed.finish_reason == said["choices"][0]["finish_reason"] == "length"
    assert streamed.usage is not None
    for counted in ("prompt_tokens", "completion_tokens"):
        assert streamed.usage[counted] == said["usage"][counted]
    assert said["usage"]["completion_tokens"] == 40


async def test_completions_seeds_and_stops_are_vllms(fleet: Fleet, http: httpx.AsyncClient) -> None:
    body = {"model": A, "prompt": "the lazy dog", "max_tokens": 20, "temperature": 1.0, "seed": 5}
    first, second = [(await http.post("/v1/completions", json=body)).json() for _ in range(2)]
    text = first["choices"][0]["text"]
    assert text == second["choices"][0]["text"]
    stop = text[4:8]
    cut = (await http.post("/v1/completions", json={**body, "stop": stop})).json()["choices"][0]
    assert cut["finish_reason"] == "stop"
    assert cut["text"] == text[: text.index(stop)]


async def test_several_choices_and_log_probabilities(fleet: Fleet, http: httpx.AsyncClient) -> None:
    said = await whole(http, chat(n=2, temperature=1.0, seed=3, logprobs=True, max_tokens=4))
    assert [choice["index"] for choice in said["choices"]] == [0, 1]
    assert all(len(choice["logprobs"]["content"]) == 4 for choice in said["choices"])


async def test_a_forced_tool_call_passes_through(fleet: Fleet, http: httpx.AsyncClient) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    body = chat("the sky", tools=[WEATHER], tool_choice=choice, max_tokens=60)
    said = await whole(http, body)
    (call,) = said["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    json.loads(call["function"]["arguments"])
    streamed = await stream(http, body)
    parts = [
        part["function"]
        for event in streamed.events
        for choice in event.get("choices", ())
        for part in choice["delta"].get("tool_calls") or ()
    ]
    assert "".join(part.get("arguments") or "" for part in parts) == call["function"]["arguments"]
    assert streamed.done


async def test_what_vllm_refuses_is_refused_in_its_words(fleet: Fleet, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/chat/completions", json=chat(temperature=-1.0))
    assert answer.status_code == 400
    assert "temperature" in answer.json()["error"]["message"]


async def test_tokens_are_counted_by_the_engine(fleet: Fleet, http: httpx.AsyncClient) -> None:
    answer = await http.post("/tokenize", json={"model": A, "prompt": "the lazy dog"})
    assert answer.status_code == 200
    assert answer.json()["count"] == len(answer.json()["tokens"]) > 0


async def test_a_client_that_leaves_frees_the_engine(fleet: Fleet, http: httpx.AsyncClient) -> None:
    def leave(so_far: Streamed) -> None:
        if so_far.text and any(beat.running for beat in fleet.last.values()):
            raise StopAsyncIteration

    left = await stream(http, chat(max_tokens=4000, ignore_eos=True), leave)
    assert not left.done
    await fleet.until(lambda last: not any(beat.running or beat.kv_used_tokens for beat in last.values()), 60)


async def test_urgent_requests_pass_those_that_wait(
    world: World, fleet: Fleet, http: httpx.AsyncClient
) -> None:
    """Both engines are full and have a queue of background work; what is urgent goes first."""
    background = {"x-slo-class": "batch"}
    long = chat(max_tokens=150, ignore_eos=True)
    order: list[str] = []

    async def run(name: str, headers: dict[str, str]) -> None:
        first = False

        def note(so_far: Streamed) -> None:
            nonlocal first
            if so_far.text and not first:
                first = True
                order.append(name)

        got = await stream(http, long, note, headers)
        assert got.done, got.error

    tasks = [asyncio.create_task(run(f"later {i}", background)) for i in range(24)]
    await fleet.until(lambda last: sum(beat.waiting for beat in last.values()) >= 8, 60)
    tasks.append(asyncio.create_task(run("urgent", {"x-slo-class": "interactive"})))
    await asyncio.gather(*tasks)
    assert order.index("urgent") < len(order) - 6


async def test_the_engine_tells_its_load_and_its_steps(fleet: Fleet, http: httpx.AsyncClient) -> None:
    await asyncio.gather(*(whole(http, chat(f"{i} over the lazy dog", max_tokens=60)) for i in range(4)))
    beat = fleet.last[REPLICAS[0]]
    assert beat.kv_capacity_tokens > 0
    assert beat.max_running == 4
    assert beat.step_time_s > 0
    assert beat.prefix_queries > 0


async def test_a_repeated_prompt_is_cached_and_its_eviction_told(
    fleet: Fleet, http: httpx.AsyncClient
) -> None:
    prompt = "the quick brown fox jumps over the lazy dog " * 60
    headers = {"x-session-id": "s1"}
    body = chat(prompt, max_tokens=1)
    told: set[str] = set()
    for _ in range(3):  # routed in turn, so that one replica has it twice
        answer = await http.post("/v1/chat/completions", json=body, headers=headers)
        if (answer.json()["usage"].get("prompt_tokens_details") or {}).get("cached_tokens"):
            told.add(answer.headers["x-autopoiesis-replica"])
    assert told
    before = {name: fleet.last[name].evictions for name in REPLICAS}
    for i in range(40):
        await whole(http, chat(f"{i} " + prompt, max_tokens=1))
    await fleet.until(lambda last: any(last[name].evictions > before[name] for name in REPLICAS), 60)
    assert any(beat.evicted for beat in fleet.beats)
