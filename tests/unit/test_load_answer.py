"""Reading streamed answers, however their bytes are cut."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.cli.load.answer import Answer

STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    b": a comment keeps the connection open\n\n"
    b'data: {"choices":[{"index":0,"delta":{"content":"one"}}]}\r\n\r\n'
    b'data: {"choices":[{"index":0,"delta":{"content":" two"}}],"usage":null}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}\n\n'
    b"data: [DONE]\n\n"
)


def answer(*parts: bytes, status: int = 200) -> Answer:
    result = Answer()
    result.on_status(status)
    for part in parts:
        result.on_body(part)
    result.close()
    return result


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    read = answer(*(STREAM[a:b] for a, b in pairwise(edges)))
    assert read.finished
    assert (read.prompt_tokens, read.output_tokens, read.finish_reason) == (7, 5, "stop")
    assert read.first_token_at is not None
    assert read.last_token_at is not None


def test_a_role_alone_is_no_first_token() -> None:
    read = answer(STREAM[: STREAM.index(b": a comment")])
    assert read.first_token_at is None
    assert not read.finished


def test_events_count_where_the_server_counts_nothing() -> None:
    end = STREAM.index(b'data: {"choices":[],"usage"')
    assert answer(STREAM[:end]).output_tokens == 2


@pytest.mark.parametrize(
    "delta", [{"tool_calls": [{"index": 0}]}, {"reasoning_content": "hm"}], ids=["tool call", "reasoning"]
)
def test_tool_calls_and_reasoning_are_tokens_too(delta: object) -> None:
    event = b"data: " + msgspec.json.encode({"choices": [{"delta": delta}]}) + b"\n\n"
    assert answer(event).first_token_at is not None


def test_completions_have_text_instead_of_deltas() -> None:
    read = answer(b'data: {"choices":[{"text":"a","finish_reason":null}]}\n\ndata: [DONE]\n\n')
    assert read.finished
    assert read.output_tokens == 1


def test_an_error_in_the_stream_ends_it_badly() -> None:
    read = answer(
        STREAM[:200],
        b'\n\ndata: {"error":{"message":"replica lost","code":"unavailable"}}\n\ndata: [DONE]\n\n',
    )
    assert read.error == "replica lost"
    assert not read.finished


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"too long","param":"messages"}}', "too long"),
        (b'{"message":"nobody home"}', "nobody home"),
        (b"<html>bad gateway</html>", "<html>bad gateway</html>"),
        (b"", "HTTP 502"),
    ],
)
def test_an_error_answer_says_why(body: bytes, message: str) -> None:
    read = answer(body[:5], body[5:], status=502)
    assert read.error == message
    assert not read.finished


def test_what_is_not_an_event_is_an_error() -> None:
    assert "not an OpenAI chunk" in answer(b"data: {oops}\n\n").error
