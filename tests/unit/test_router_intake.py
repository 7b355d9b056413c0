"""What the router reads of a body, and which field it blames."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.router.errors import BadRequestError
from autopoiesis.router.intake import Intake, read

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def body(**fields: Any) -> bytes:
    return json.dumps({**CHAT, **fields}).encode()


def blamed(endpoint: Any, raw: bytes) -> str | None:
    with pytest.raises(BadRequestError) as caught:
        read(endpoint, raw)
    assert caught.value.status == 400
    assert caught.value.message
    return caught.value.param


def read_or_refused(endpoint: Any, raw: bytes) -> Intake | None:
    """Nothing but BadRequestError may come of any body."""
    try:
        return read(endpoint, raw)
    except BadRequestError:
        return None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [7]}]}, "messages[0].content[0]"),
        ({"stream": "yes"}, "stream"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream_options": []}, "stream_options"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], param: str) -> None:
    assert blamed("chat", body(**fields)) == param


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'"model"', None),
        (b'{"model": "m"}', "messages"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\xff"}]}', None),
    ],
)
def test_malformed_bodies_are_refused(raw: bytes, param: str | None) -> None:
    assert blamed("chat", raw) == param


@pytest.mark.parametrize(
    "prompt", [None, 5, "", [], [[]], [""], ["a", ""], {"text": "x"}, ["a", 1], [[1], 2]]
)
def test_bad_prompts_are_named(prompt: Any) -> None:
    assert blamed("completions", json.dumps({"model": "m", "prompt": prompt}).encode()) == "prompt"


@pytest.mark.parametrize(
    ("prompt", "text", "size", "count"),
    [
        ("héllo", "héllo".encode(), 6, 1),
        (["one"], b"one", 3, 1),
        ([1, 22], b"1,22", 8, 1),
        ([[1, 22]], b"1,22", 8, 1),
        (["one", "other"], b"one", 8, 2),
        ([[1], [2, 3], "four"], b"1", 16, 3),
    ],
)
def test_completion_prompts(prompt: Any, text: bytes, size: int, count: int) -> None:
    intake = read("completions", json.dumps({"model": "m", "prompt": prompt}).encode())
    assert (intake.prompt, intake.prompt_bytes, intake.max_tokens) == (text, size, 16)
    assert intake.prompts == count


def test_reads_what_routing_needs() -> None:
    intake = read(
        "chat",
        body(
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=5,
            n=2,
            temperature="the engine's business",
        ),
    )
    assert (intake.model, intake.stream, intake.include_usage, intake.max_tokens, intake.n) == (
        "m",
        True,
        True,
        5,
        2,
    )
    assert intake.prompt_bytes == len("hello")


def test_nulls_are_absent() -> None:
    intake = read("chat", body(stream=None, stream_options=None, max_tokens=None, n=None))
    assert (intake.stream, intake.include_usage, intake.max_tokens, intake.n) == (False, False, None, 1)


def test_newer_name_of_the_limit_wins() -> None:
    intake = read("chat", body(max_tokens=5, max_completion_tokens=7))
    assert (intake.max_tokens, intake.max_tokens_param) == (7, "max_completion_tokens")


def test_parts_and_images() -> None:
    def of(url: str) -> Any:
        parts = [{"type": "text", "text": "what is it"}, {"type": "image_url", "image_url": {"url": url}}]
        return read("chat", body(messages=[{"role": "user", "content": parts}]))

    one, other = of("data:image/png;base64,AAAA"), of("data:image/png;base64,BBBB")
    assert one.modality == 1
    assert one.prompt_bytes == len("what is it")
    assert one.prompt != other.prompt


def test_a_conversation_continues_its_own_prompt() -> None:
    turns = [{"role": "user", "content": "a" * 100}, {"role": "assistant", "content": "b" * 100}]
    first, second = read("chat", body(messages=turns[:1])), read("chat", body(messages=turns))
    assert second.prompt.startswith(first.prompt)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda c: st.lists(c, max_size=3) | st.dictionaries(st.sampled_from(["model", "messages", "role", "content", "n", "stream", "prompt", "max_tokens"]), c, max_size=5), max_leaves=12))  # fmt: skip
def test_any_json_is_read_or_refused(value: Any) -> None:
    raw = json.dumps(value).encode()
    for endpoint in ("chat", "completions"):
        intake = read_or_refused(endpoint, raw)
        assert intake is None or (intake.model and intake.n >= 1)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    read_or_refused("chat", raw)


def test_deep_nesting_is_refused() -> None:
    deep = b'{"model": "m", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(BadRequestError):
        read("chat", deep)
