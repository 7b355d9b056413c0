"""What OpenAI's client can ask, of a simulated engine, of a server attached by its URL, and of an engine with tools."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import openai
import pytest
from served_replicas import MODEL, Surface, routed, served

from autopoiesis.contracts.messages.infer import FailureCode, Generate
from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.runtime import embedded
from autopoiesis.worker.engines.attached import AttachedEngine
from autopoiesis.worker.engines.base import Ended, EngineStats, Piece
from autopoiesis.worker.engines.outputs import Outputs
from autopoiesis.worker.engines.simulated import SimulatedEngine, SimulatedOptions

HELLO: Any = [{"role": "user", "content": "hello"}]
SHORT: Any = {"ignore_eos": True}
"""Engines then go on to the limit, which is 6 tokens in these tests."""
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


class Caller:
    """An engine that wants a tool in every choice, its arguments in two pieces, and says a word before in the first."""

    def __init__(self) -> None:
        self.model = MODEL
        self.changed = asyncio.Event()
        self.bodies: list[dict[str, Any]] = []

    async def start(self) -> None:
        pass

    def generate(self, request: Generate) -> Outputs:
        body = msgspec.json.decode(request.body)
        self.bodies.append(body)
        outputs = Outputs(interval_s=0.0, whole=not request.stream)
        several = body.get("n", 1) > 1
        outputs.push(Piece("Wait. ", 1))
        for index in range(body.get("n", 1)):
            for arguments, first in (('{"city":', True), (f'"{index}"}}', False)):
                function = {"arguments": arguments} | ({"name": "weather"} if first else {})
                call = {"index": 0, "function": function}
                if first:
                    call |= {"id": f"call_{index}", "type": "function"}
                delta = msgspec.Raw(msgspec.json.encode({"tool_calls": [call]}))
                outputs.push(Piece("", 1, index, delta=delta))
            if several:
                outputs.push(Piece(index=index, finish_reason="length" if index else "tool_calls"))
        outputs.end(Ended(finish_reason="tool_calls", prompt_tokens=3, output_tokens=5, cached_tokens=2))
        return outputs

    def cancel(self, request_id: str, reason: FailureCode) -> None:
        pass

    def stats(self) -> EngineStats:
        return EngineStats(state="ready", kv_capacity_tokens=100_000)

    def steps(self) -> list[StepRecord]:
        return []

    async def drain(self) -> None:
        pass

    async def stop(self) -> None:
        pass


def simulated() -> SimulatedEngine:
    return SimulatedEngine("r", MODEL, "H100", 1, SimulatedOptions())


@pytest.fixture(params=["simulated", "attached", "direct"])
async def surface(
    request: pytest.FixtureRequest, nats_url: str, wait_for: Callable[..., Any]
) -> AsyncIterator[Surface]:
    """In front of a simulated engine; or of another router, attached by its URL to a worker or to the router itself."""
    if request.param == "simulated":
        async with served(nats_url, simulated(), wait_for) as surface:
            yield surface
        return
    own: embedded.NatsServer = request.getfixturevalue("own_nats")
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(served(own.url, simulated(), wait_for))
        if request.param == "attached":
            yield await stack.enter_async_context(served(nats_url, AttachedEngine(behind.url), wait_for))
        else:
            yield await stack.enter_async_context(routed(nats_url, wait_for, attach=(behind.url,)))


async def test_models(surface: Surface) -> None:
    assert [model.id for model in (await surface.openai.models.list()).data] == [MODEL]
    assert (await surface.openai.models.retrieve(MODEL)).id == MODEL


async def test_chat(surface: Surface) -> None:
    answer = await surface.openai.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        stop=["never"],
        seed=3,
        temperature=0.5,
        logprobs=True,
        top_logprobs=2,
        response_format={"type": "json_object"},
        tools=[WEATHER],
        tool_choice="auto",
        max_tokens=6,
        extra_body=SHORT,
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert answer.usage.prompt_tokens_details is not None
    assert len(str(answer.choices[0].message.content).split()) == 6
    assert answer.choices[0].finish_reason == "length"


async def test_several_choices(surface: Surface) -> None:
    whole = await surface.openai.chat.completions.create(
        model=MODEL, messages=HELLO, n=3, max_tokens=6, extra_body=SHORT
    )
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    texts = [str(choice.message.content) for choice in whole.choices]
    assert len(set(texts)) == 3
    assert [len(text.split()) for text in texts] == [6, 6, 6]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 18
    stream = await surface.openai.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        n=3,
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=6,
        extra_body=SHORT,
    )
    said = ["", "", ""]
    reasons: list[list[str]] = [[], [], []]
    usage = None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            reasons[choice.index] += [choice.finish_reason] if choice.finish_reason else []
    assert [len(text.split()) for text in said] == [6, 6, 6]
    assert reasons == [["length"], ["length"], ["length"]]
    assert usage is not None
    assert usage.completion_tokens == 18


async def test_text_completions(surface: Surface) -> None:
    create = surface.openai.completions.create
    one = await create(model=MODEL, prompt="once upon a time", echo=True, max_tokens=6, extra_body=SHORT)
    assert one.choices[0].text.startswith("once upon a time")
    ids = await create(model=MODEL, prompt=[1, 2, 3], max_tokens=6, extra_body=SHORT)
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 3
    many = await create(model=MODEL, prompt=["abcd", "abcdefgh"], n=2, max_tokens=6, extra_body=SHORT)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert many.usage is not None
    assert (many.usage.prompt_tokens, many.usage.completion_tokens) == (3, 24)
    ended = []
    async for chunk in await create(
        model=MODEL, prompt=[[1], [2]], stream=True, max_tokens=6, extra_body=SHORT
    ):
        ended += [choice.index for choice in chunk.choices if str(choice.finish_reason) == "length"]
    assert sorted(ended) == [0, 1]
    with pytest.raises(openai.BadRequestError) as bad:
        await create(model=MODEL, prompt=[1, 2], echo=True)
    assert bad.value.param == "echo" or "echo" in str(bad.value)


async def test_embeddings(surface: Surface) -> None:
    create = surface.openai.embeddings.create
    answer = await create(model=MODEL, input=["one", "two", "one"], dimensions=8)
    one, two, again = (item.embedding for item in answer.data)
    assert one == again != two
    assert sum(value * value for value in one) == pytest.approx(1.0, rel=1e-5)
    plain = await create(model=MODEL, input="one", dimensions=8, encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(one, rel=1e-5)
    assert plain.usage.prompt_tokens == 1
    with pytest.raises(openai.BadRequestError) as bad:
        await create(model=MODEL, input=[])
    assert bad.value.param == "input"


async def test_responses(surface: Surface) -> None:
    create = surface.openai.responses.create
    whole = await create(
        model=MODEL, input="hello", instructions="be brief", max_output_tokens=6, extra_body=SHORT
    )
    assert (whole.status, whole.incomplete_details is not None) == ("incomplete", True)
    assert len(whole.output_text.split()) == 6
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (4, 6)
    said, last = "", None
    numbers = []
    async for event in await create(
        model=MODEL, input=HELLO, stream=True, max_output_tokens=6, extra_body=SHORT
    ):
        numbers.append(event.sequence_number)
        if event.type == "response.output_text.delta":
            said += event.delta
        last = event
    assert numbers == list(range(len(numbers)))
    assert last is not None
    assert last.type == "response.incomplete"
    assert last.response.output_text == said
    assert len(said.split()) == 6
    with pytest.raises(openai.BadRequestError) as bad:
        await create(model=MODEL, input="x", previous_response_id="resp_1")
    assert bad.value.param == "previous_response_id"


async def test_messages(surface: Surface) -> None:
    body = {"model": MODEL, "max_tokens": 6, "system": "be brief", "messages": HELLO} | SHORT
    whole = (await surface.http.post("/v1/messages", json=body)).json()
    assert (whole["type"], whole["stop_reason"], whole["usage"]["output_tokens"]) == (
        "message",
        "max_tokens",
        6,
    )
    assert len(whole["content"][0]["text"].split()) == 6
    stream = await surface.http.post("/v1/messages", json=body | {"stream": True})
    assert stream.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in stream.text.split("\n\n") if block]
    events = [(block[0].removeprefix("event: "), msgspec.json.decode(block[1][6:])) for block in blocks]
    assert all(name == event["type"] for name, event in events)
    names = [name for name, _ in events]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    said = "".join(event["delta"]["text"] for name, event in events if name == "content_block_delta")
    assert len(said.split()) == 6


async def test_tokens(surface: Surface) -> None:
    text = "four bytes each, héllo"
    tokens = (await surface.http.post("/tokenize", json={"model": MODEL, "prompt": text})).json()
    assert tokens["count"] == len(tokens["tokens"]) == -(-len(text.encode()) // 4)
    back = await surface.http.post("/detokenize", json={"model": MODEL, "tokens": tokens["tokens"]})
    assert back.json() == {"prompt": text}
    unnamed = await surface.http.post("/tokenize", json={"prompt": text})
    assert unnamed.json() == tokens


async def test_an_endpoint_that_no_engine_knows(surface: Surface) -> None:
    answer = await surface.http.post("/v1/audio/speech", json={"model": MODEL, "input": "x"})
    assert answer.status_code == 404
    assert "/v1/audio/speech" in answer.json()["error"]["message"]
    for path in ("/sleep", "/v1/load_lora_adapter", "/v1/../sleep", "/v1//x"):
        answer = await surface.http.post(path, json={"model": MODEL})
        assert answer.status_code in {404, 405}, path


@pytest.fixture(params=["own", "attached"])
async def caller(
    request: pytest.FixtureRequest, nats_url: str, wait_for: Callable[..., Any]
) -> AsyncIterator[Surface]:
    """In front of `Caller`, on the bus or behind another router."""
    if request.param == "own":
        async with served(nats_url, Caller(), wait_for) as surface:
            yield surface
        return
    own: embedded.NatsServer = request.getfixturevalue("own_nats")
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(served(own.url, Caller(), wait_for))
        yield await stack.enter_async_context(served(nats_url, AttachedEngine(behind.url), wait_for))


async def test_tools_of_several_choices_in_a_stream(caller: Surface) -> None:
    stream = await caller.openai.chat.completions.create(
        model=MODEL, messages=HELLO, n=2, stream=True, tools=[WEATHER]
    )
    names, arguments, reasons = ["", ""], ["", ""], ["", ""]
    async for chunk in stream:
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or ():
                assert call.function is not None
                names[choice.index] += call.function.name or ""
                arguments[choice.index] += call.function.arguments or ""
            reasons[choice.index] += choice.finish_reason or ""
    assert names == ["weather", "weather"]
    assert arguments == ['{"city":"0"}', '{"city":"1"}']
    assert reasons == ["tool_calls", "length"]


async def test_tools_in_responses(caller: Surface) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    create = caller.openai.responses.create
    whole = await create(model=MODEL, input=HELLO, tools=[tool])
    said, call = whole.output
    assert (said.type, call.type) == ("message", "function_call")
    assert call.type == "function_call"
    assert (call.name, call.arguments, call.call_id) == ("weather", '{"city":"0"}', "call_0")
    history: Any = [
        *HELLO,
        {"type": "function_call", "call_id": "call_0", "name": "weather", "arguments": call.arguments},
        {"type": "function_call_output", "call_id": "call_0", "output": "rain"},
    ]
    last: Any = None
    arguments = ""
    async for event in await create(model=MODEL, input=history, tools=[tool], stream=True):
        if event.type == "response.function_call_arguments.delta":
            arguments += event.delta
        last = event
    assert arguments == '{"city":"0"}'
    assert [item.type for item in last.response.output] == ["message", "function_call"]
    assert last.response.usage.input_tokens_details.cached_tokens == 2


async def test_tools_in_messages(nats_url: str, wait_for: Callable[..., Any]) -> None:
    engine = Caller()
    async with served(nats_url, engine, wait_for) as surface:
        call = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "0"}}
        result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]}
        picture = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
        body = {
            "model": MODEL,
            "max_tokens": 9,
            "messages": [
                *HELLO,
                {"role": "assistant", "content": [call]},
                {"role": "user", "content": [result, {"type": "image", "source": picture}]},
            ],
            "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any"},
        }
        answer = (await surface.http.post("/v1/messages", json=body)).json()
    assert [part["type"] for part in answer["content"]] == ["text", "tool_use"]
    assert answer["content"][1]["input"] == {"city": "0"}
    assert answer["stop_reason"] == "tool_use"
    (chat,) = engine.bodies
    assert [message["role"] for message in chat["messages"]] == ["user", "assistant", "tool", "user"]
    assert chat["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"city":"0"}'
    assert chat["messages"][3]["content"][0]["image_url"]["url"] == "data:image/png;base64,AAAA"
    assert (chat["tool_choice"], chat["max_tokens"]) == ("required", 9)


async def test_long_prompts_and_pictures(surface: Surface) -> None:
    """200,000 tokens of text, and a picture of five million bytes: both fit into one message of the bus."""
    book = "word " * 160_000
    answer = await surface.http.post("/tokenize", json={"model": MODEL, "prompt": book})
    assert answer.json()["count"] == 200_000
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5_000_000}}
    parts: Any = [{"type": "text", "text": "what is it"}, picture]
    seen = await surface.openai.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": parts}], max_tokens=6, extra_body=SHORT
    )
    assert seen.usage is not None
    assert seen.usage.completion_tokens == 6
    huge = await surface.http.post("/v1/chat/completions", json={"model": MODEL, "user": "x" * 17_000_000})
    assert huge.status_code == 413
    error = huge.json()["error"]
    assert error["code"] == "request_too_large"
    assert "router.max_body_bytes" in error["message"]
    assert "max_payload" in error["message"]
