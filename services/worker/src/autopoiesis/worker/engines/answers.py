"""Complete answers of a simulated engine, where a stream of words is not what was asked for."""

from __future__ import annotations

import base64
import math
import random
import struct
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.worker.engines.body import BYTES_PER_TOKEN, Body, BodyError
from autopoiesis.worker.engines.jobs import Choice

DIMENSIONS: Final = 256
"""Of embeddings, where the request asks for no other number."""


def choices(request: Generate, done: Sequence[Choice]) -> msgspec.Raw:
    """Several choices, as chat or text completions show them."""
    chat = request.endpoint == "chat"
    shown = []
    for choice in done:
        text = "".join(choice.texts)
        said = (
            {"message": {"role": "assistant", "content": text, "refusal": None}} if chat else {"text": text}
        )
        shown.append({"index": choice.index, **said, "logprobs": None, "finish_reason": choice.reason})
    prompt = sum(choice.job.prompt_tokens for choice in done[:: done[0].siblings])
    output = sum(choice.produced for choice in done)
    cached = max(choice.job.cached_tokens for choice in done)
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    return _raw(
        {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{request.request_id}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": request.model,
            "choices": shown,
            "usage": usage,
        }
    )


def embeddings(request: Generate, body: Body, done: Sequence[Choice]) -> msgspec.Raw:
    """Unit vectors drawn from the text itself: equal texts have equal vectors, and nothing else is meant by them."""
    data = []
    for choice in done:
        vector = _direction(choice.seed, body.dimensions or DIMENSIONS)
        shown: list[float] | str = vector
        if body.encoding_format == "base64":
            shown = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": choice.index, "embedding": shown})
    prompt = sum(choice.job.prompt_tokens for choice in done)
    usage = {"prompt_tokens": prompt, "total_tokens": prompt}
    return _raw({"object": "list", "model": request.model, "data": data, "usage": usage})


def tokenize(body: Body, longest: int) -> msgspec.Raw:
    """Four bytes are a token, and its id says which, so that they can be put together again."""
    if isinstance(body.prompt, str):
        data = body.prompt.encode()
    elif body.messages:
        data = "".join(_text(message.content) for message in body.messages).encode()
    else:
        raise BodyError("missing required parameter: prompt, a text, or messages", "prompt")
    pieces = [data[at : at + BYTES_PER_TOKEN] for at in range(0, len(data), BYTES_PER_TOKEN)]
    ids = [int.from_bytes(piece, "little") for piece in pieces]
    return _raw({"count": len(ids), "max_model_len": longest, "tokens": ids, "token_strs": None})


def detokenize(body: Body) -> msgspec.Raw:
    if body.tokens is None:
        raise BodyError("missing required parameter: tokens", "tokens")
    data = b"".join(token.to_bytes(BYTES_PER_TOKEN, "little").rstrip(b"\0") for token in body.tokens)
    return _raw({"prompt": data.decode(errors="replace")})


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content or ())


def _direction(seed: str, dimensions: int) -> list[float]:
    rng = random.Random(seed)
    vector = [rng.gauss(0.0, 1.0) for _ in range(dimensions)]
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector]


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
