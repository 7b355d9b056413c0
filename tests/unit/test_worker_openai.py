"""The OpenAI protocol as the attached engine reads and writes it, and bodies as the simulated one does."""

import msgspec
import pytest

from autopoiesis.runtime.servers import protocol
from autopoiesis.worker.engines.base import Piece
from autopoiesis.worker.engines.body import BodyError, prompts, read
from autopoiesis.worker.engines.openai import pieces


def test_the_body_goes_on_untouched_but_for_ours() -> None:
    sent = protocol.upstream_body(
        b'{"model":"m","temperature":0.70,"simulate":{"output_tokens":3},"stream_options":{"x":1}}',
        stream=True,
    )
    assert msgspec.json.decode(sent) == {
        "model": "m",
        "temperature": 0.7,
        "stream_options": {"x": 1, "include_usage": True},
    }
    assert b"0.70" in sent
    assert b"stream_options" not in protocol.upstream_body(b'{"model":"m"}', stream=False)
    with pytest.raises(protocol.ServerError, match="not a JSON object"):
        protocol.upstream_body(b"[]", stream=True)


@pytest.mark.parametrize(
    ("choice", "piece"),
    [
        ({"index": 1, "delta": {"role": "assistant", "content": "hi"}}, Piece("hi", 1, 1)),
        ({"text": "hi"}, Piece("hi", 1)),
        ({"delta": {"role": "assistant", "content": ""}}, None),
        ({"delta": {"content": None}, "finish_reason": "stop"}, None),
        ({"delta": None}, None),
        ({"delta": {"content": "hi", "tool_calls": None}}, Piece("hi", 1)),
    ],
)
def test_text_of_an_event(choice: object, piece: Piece | None) -> None:
    event = protocol.read_event(msgspec.json.encode({"choices": [choice]}))
    assert pieces(event) == ([piece] if piece else [])


def test_token_ids_are_counted_and_kept_even_where_their_text_is_held_back() -> None:
    event = protocol.read_event(b'{"choices":[{"delta":{"content":""},"token_ids":[5,6]}]}')
    assert pieces(event) == [Piece("", 2, token_ids=(5, 6))]


def test_log_probabilities_go_on_with_their_whole_choice() -> None:
    event = protocol.read_event(b'{"choices":[{"delta":{"content":"a"},"logprobs":{"content":[]}}]}')
    (piece,) = pieces(event)
    assert piece.choice is not None
    assert msgspec.json.decode(piece.choice) == {
        "index": 0,
        "delta": {"content": "a"},
        "logprobs": {"content": []},
        "finish_reason": None,
    }


def test_of_several_choices_each_says_how_it_ended() -> None:
    event = protocol.read_event(b'{"choices":[{"index":1,"text":"a","finish_reason":"length"}]}')
    assert pieces(event, several=True) == [Piece("a", 1, 1), Piece(index=1, finish_reason="length")]
    assert pieces(event) == [Piece("a", 1, 1)]


def test_what_text_cannot_say_goes_on_as_a_delta() -> None:
    event = protocol.read_event(b'{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}')
    (piece,) = pieces(event)
    assert piece.delta is not None
    assert bytes(piece.delta) == b'{"tool_calls":[{"index":0}]}'


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (400, b'{"error":{"message":"bad n","param":"n"}}', "invalid_request", "bad n"),
        (422, b'{"message":"bad n"}', "invalid_request", "bad n"),
        (401, b"{}", "unavailable", r"HTTP 401 \(worker.attach_key is missing or wrong\)"),
        (429, b'{"error":"slow down"}', "overloaded", "slow down"),
        (503, b"", "unavailable", "HTTP 503"),
        (500, b"<html>", "internal", "HTTP 500: <html>"),
    ],
)
def test_error_answers_become_ours(status: int, body: bytes, code: str, message: str) -> None:
    with pytest.raises(protocol.ServerError, match=message) as caught:
        raise protocol.failure(status, body)
    assert caught.value.code == code
    if b"param" in body:
        assert caught.value.param == "n"


def test_an_unknown_finish_reason_is_a_stop() -> None:
    event = protocol.read_event(b'{"choices":[{"finish_reason":"insufficient_system_resource"}]}')
    assert protocol.finish_reason(event) == "stop"


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"messages": [{"role": "user", "content": "12345"}]}, 2),
        (
            {
                "messages": [
                    {"content": "1234"},
                    {"content": None},
                    {"content": [{"type": "text", "text": "é"}]},
                ]
            },
            2,
        ),
        ({"prompt": "12345678"}, 2),
        ({"prompt": ["1234", "1234"]}, 2),
        ({"prompt": [1, 2, 3]}, 3),
        ({"prompt": [[1, 2], [3]]}, 3),
        ({}, 1),
    ],
)
def test_prompt_tokens_are_bytes_over_four(body: object, tokens: int) -> None:
    assert sum(prompt.tokens for prompt in prompts(read(msgspec.json.encode(body)))) == tokens


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"messages":"hi"}', "messages"),
        (b'{"messages":[{"content":3}]}', "messages"),
        (b'{"simulate":{"output_tokens":0}}', "simulate"),
        (b'{"simulate":{}}', "simulate"),
        (b"nonsense", None),
    ],
)
def test_bad_bodies_name_the_field(body: bytes, param: str | None) -> None:
    with pytest.raises(BodyError) as caught:
        read(body)
    assert caught.value.param == param
