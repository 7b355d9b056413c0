"""The door to a language model, when what is behind it is none."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from autopoiesis.synthesizer.llm import Answer, LanguageModel, LlmError
from autopoiesis.synthesizer.settings import LlmSettings

MESSAGES = [{"role": "user", "content": "write a policy"}]
Ask = Callable[[str, str], Awaitable[Answer]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """`await ask(body, media_type)`: what the model's door makes of that answer."""
    answer = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        await reader.readexactly(length)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        model = LanguageModel(LlmSettings(base_url=url, model="tiny"))

        async def make(body: str, media_type: str) -> Answer:
            nonlocal answer
            data = body.encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ncontent-length: {len(data)}\r\nconnection: close"
            answer = f"{head}\r\n\r\n".encode() + data
            return await model.complete(MESSAGES)

        yield make
        await model.close()


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        ("<html>a proxy's login page</html>", "text/html"),
        ("<html>a proxy's login page</html>", "application/json"),
        ("", "application/json"),
        ("[]", "application/json"),
        ("null", "application/json"),
        ('{"ok": true}', "application/json"),
        ('{"choices": []}', "application/json"),
        ('{"choices": [{}]}', "application/json"),
        ('{"choices": [{"message": null}]}', "application/json"),
        ('{"choices": [{"message": {"content": {"a": 1}}}]}', "application/json"),
        ('{"choices": [{"message": {"content": "x"}}], "usage": {}}', "application/json"),
    ],
)
async def test_nonsense_is_an_error_that_names_the_endpoint(ask: Ask, body: str, media_type: str) -> None:
    with pytest.raises(LlmError, match=r"^tiny at http://127\.0\.0\.1:\d+/v1 "):
        await ask(body, media_type)


async def test_a_bare_answer_will_do(ask: Ask) -> None:
    answer = await ask(json.dumps({"choices": [{"message": {"content": "a policy"}}]}), "application/json")
    assert (answer.text, answer.model) == ("a policy", "tiny")
    assert answer.prompt_tokens > 0
    assert answer.completion_tokens > 0
