"""Answers as OpenAI's clients expect them."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.contracts.messages.infer import Chunk, Endpoint, Finished
from autopoiesis.router.errors import UnavailableError
from autopoiesis.router.http import sse

FINISHED = Finished(
    seq=2, finish_reason="stop", prompt_tokens=3, output_tokens=2, cached_tokens=1, text="hello there"
)


def answer(endpoint: Endpoint = "chat", **options: Any) -> sse.Answer:
    return sse.Answer(endpoint, "r1", 'a "model" 100%', 1700000000, **options)


def events(stream: bytes) -> list[Any]:
    blocks = stream.decode().split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [block[6:] if block == "data: [DONE]" else json.loads(block[6:]) for block in blocks]


def test_chat_stream() -> None:
    out = answer()
    stream = out.chunk(Chunk(seq=0, text="hello ")) + out.chunk(Chunk(seq=1, text="there"))
    role, first, second, end, done = events(stream + out.finish(FINISHED, include_usage=False))
    assert role["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}]  # fmt: skip
    assert [event["choices"][0]["delta"]["content"] for event in (first, second)] == ["hello ", "there"]
    assert (end["choices"][0]["delta"], end["choices"][0]["finish_reason"]) == ({}, "stop")
    assert done == "[DONE]"
    for event in (role, first, second, end):
        assert (event["id"], event["object"]) == ("chatcmpl-r1", "chat.completion.chunk")
        assert (event["model"], event["created"]) == ('a "model" 100%', 1700000000)
        assert "usage" not in event


def test_usage_comes_last_and_is_null_before() -> None:
    out = answer(include_usage=True)
    *before, usage, done = events(
        out.chunk(Chunk(seq=0, text="x")) + out.finish(FINISHED, include_usage=True)
    )
    assert all(event["usage"] is None for event in before)
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert done == "[DONE]"


def test_completions_stream() -> None:
    out = answer("completions")
    chunk, end, done = events(out.chunk(Chunk(seq=0, text="hi")) + out.finish(FINISHED, include_usage=False))
    assert (chunk["object"], chunk["choices"][0]["text"]) == ("text_completion", "hi")
    assert (end["choices"][0]["text"], end["choices"][0]["finish_reason"], done) == ("", "stop", "[DONE]")


def test_each_choice_begins_and_ends() -> None:
    out = answer()
    stream = b"".join(out.chunk(Chunk(seq=i, text="x", index=i)) for i in (1, 0, 1))
    *chunks, done = events(stream + out.finish(FINISHED, include_usage=False))
    choices = [event["choices"][0] for event in chunks]
    for index in (0, 1):
        own = [choice for choice in choices if choice["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert [choice["finish_reason"] for choice in own].count("stop") == 1
    assert done == "[DONE]"


def test_engine_delta_passes_through_without_a_second_role() -> None:
    delta = b'{"role":"assistant","tool_calls":[{"index":0}]}'
    (event,) = events(answer().chunk(Chunk(seq=0, delta=msgspec.Raw(delta))))
    assert event["choices"][0]["delta"] == json.loads(delta)


def test_an_empty_stream_is_still_one() -> None:
    role, end, done = events(answer().finish(FINISHED, include_usage=False))
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert (end["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")


def test_whole_chat() -> None:
    whole = json.loads(answer().whole(FINISHED))
    assert (whole["id"], whole["object"]) == ("chatcmpl-r1", "chat.completion")
    assert whole["choices"][0]["message"]["content"] == "hello there"
    assert whole["usage"]["total_tokens"] == 5


def test_whole_completion() -> None:
    whole = json.loads(answer("completions").whole(FINISHED))
    assert (whole["object"], whole["choices"][0]["text"]) == ("text_completion", "hello there")


def test_an_engines_own_body_goes_out_as_it_came() -> None:
    body = b'{"id": "engine", "choices": [1, 2]}'
    finished = msgspec.structs.replace(FINISHED, body=msgspec.Raw(body))
    assert answer().whole(finished) == body


def test_error_event() -> None:
    (event,) = events(sse.error(UnavailableError("gone", "replica_lost")))
    assert event["error"] == {
        "message": "gone",
        "type": "server_error",
        "param": None,
        "code": "replica_lost",
    }


@given(st.text())
@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_text_survives(endpoint: Endpoint, text: str) -> None:
    out = answer(endpoint)
    choices = [
        event["choices"][0]
        for event in events(out.chunk(Chunk(seq=0, text=text)) or sse.DONE)
        if event != "[DONE]"
    ]
    texts = [
        choice["text"] if endpoint == "completions" else choice["delta"]["content"] for choice in choices
    ]
    assert "".join(texts) == text
