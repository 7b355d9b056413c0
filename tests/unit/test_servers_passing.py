"""Answers passed on as they came: their events, and what they say of tokens."""

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.runtime.servers.passing import Tally, events
from autopoiesis.runtime.servers.protocol import several_choices

STREAM = b'event: a\ndata: {"x": 1}\n\n: ping\n\ndata: [DONE]\r\n\r\nrest'


async def collect(pieces: list[bytes]) -> list[bytes]:
    async def arrive() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return [event async for event in events(arrive())]


@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
async def test_events_come_whole_however_they_arrive(cuts: list[int]) -> None:
    places = sorted({0, *cuts, len(STREAM)})
    pieces = [STREAM[begin:end] for begin, end in pairwise(places)]
    found = await collect(pieces)
    assert b"".join(found) == STREAM
    assert found[0] == b'event: a\ndata: {"x": 1}\n\n'
    assert found[-1] == b"rest"


@pytest.mark.parametrize(
    ("answers", "tokens", "counts"),
    [
        ([{"usage": {"prompt_tokens": 5, "total_tokens": 5}}], 0, (5, 0, 0)),
        (
            [
                {"type": "response.created", "response": {"usage": None}},
                {"type": "response.output_text.delta", "delta": "a"},
                {"type": "response.output_text.delta", "delta": "b"},
                {
                    "type": "response.completed",
                    "response": {
                        "usage": {
                            "input_tokens": 9,
                            "output_tokens": 2,
                            "input_tokens_details": {"cached_tokens": 4},
                        }
                    },
                },
            ],
            2,
            (9, 2, 4),
        ),
        (
            [
                {"type": "message_start", "message": {"usage": {"input_tokens": 6, "output_tokens": 1}}},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
                {
                    "type": "message_delta",
                    "delta": {},
                    "usage": {"input_tokens": 6, "output_tokens": 3, "cache_read_input_tokens": 2},
                },
            ],
            1,
            (8, 3, 2),
        ),
        (["not", 1, None, {"usage": "strange"}], 0, (0, 0, 0)),
    ],
)
def test_tokens_are_counted_whatever_the_api_calls_them(
    answers: list[Any], tokens: int, counts: tuple[int, int, int]
) -> None:
    tally = Tally()
    seen = sum(tally.event(b"event: x\ndata: " + json.dumps(answer).encode() + b"\n\n") for answer in answers)
    assert seen == tokens
    assert (tally.prompt_tokens, tally.output_tokens, tally.cached_tokens) == counts
    usage = tally.usage(100, 200)
    assert usage.prompt_tokens == (counts[0] or 100)
    assert usage.cached_tokens == counts[2]


@pytest.mark.parametrize(
    ("body", "several"),
    [
        ({}, False),
        ({"n": 1}, False),
        ({"n": 2}, True),
        ({"prompt": "x"}, False),
        ({"prompt": ["x"]}, False),
        ({"prompt": ["x", "y"]}, True),
        ({"prompt": [1, 2]}, False),
        ({"prompt": [[1], [2]]}, True),
    ],
)
def test_several_choices(body: dict[str, Any], several: bool) -> None:
    assert several_choices(json.dumps(body).encode()) is several
