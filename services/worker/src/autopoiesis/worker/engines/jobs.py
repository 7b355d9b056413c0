"""What a simulated engine will run for one request."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Final

from autopoiesis.contracts.messages.infer import FinishReason, Generate
from autopoiesis.simulator.replica import Job
from autopoiesis.worker.engines.body import Body, BodyError, Prompt, prompts, texts

PREFIX_BLOCK_TOKENS: Final = 256
"""Tokens behind each block hash of a request: routers hash 1024 bytes at a time."""

LENGTH_MEDIAN: Final = 200
LENGTH_SIGMA: Final = 0.9
"""Of drawn output lengths, lognormal."""

MOST_CHOICES: Final = 1024


@dataclass(slots=True)
class Choice:
    """One sequence: a choice of a completion, or a text to embed."""

    index: int
    job: Job
    reason: FinishReason = "stop"
    siblings: int = 1
    """Choices of the same prompt."""
    seed: str = ""
    """What its answer is drawn from."""
    produced: int = 0
    texts: list[str] = field(default_factory=list)


def completion(request: Generate, body: Body, *, longest: int, seed: int, model: str) -> list[Choice]:
    """The choices of a chat or a text completion; `longest` is the context in tokens. Raises `BodyError`."""
    asked = prompts(body)
    siblings = body.n or 1
    count = len(asked) * siblings
    if not 1 <= count <= MOST_CHOICES:
        raise BodyError(f"{count} choices; this engine makes 1 to {MOST_CHOICES}", "n" if asked else "prompt")
    found = []
    for index in range(count):
        name = request.request_id if count == 1 else f"{request.request_id}#{index}"
        found.append(_choice(request, body, asked[index // siblings], index, name, longest, seed, model))
        found[-1].siblings = siblings
    return found


def embedding(request: Generate, body: Body, *, longest: int) -> list[Choice]:
    """One prompt to compute for each text. Raises `BodyError`."""
    asked = texts(body.input)
    if not 1 <= len(asked) <= MOST_CHOICES:
        raise BodyError(f"input: expected 1 to {MOST_CHOICES} texts", "input")
    found = []
    for index, prompt in enumerate(asked):
        _check(prompt, longest, "input", request.model)
        job = Job(f"{request.request_id}#{index}", prompt.tokens, 1, request.priority)
        found.append(Choice(index, job, seed=prompt.text or f"{body.input}/{index}"))
    return found


def drawn_length(seed: int, request_id: str) -> int:
    """The natural length of an answer nobody prescribed: lognormal, the same for the same seed and request."""
    rng = random.Random(f"{seed}/{request_id}")
    return max(1, round(rng.lognormvariate(math.log(LENGTH_MEDIAN), LENGTH_SIGMA)))


def _choice(
    request: Generate,
    body: Body,
    prompt: Prompt,
    index: int,
    name: str,
    longest: int,
    seed: int,
    model: str,
) -> Choice:
    """Tokens that the client has already are computed like the prompt, and not generated again."""
    _check(prompt, longest, "messages" if request.endpoint == "chat" else "prompt", model)
    limit = max(1, min(request.max_tokens, longest - prompt.tokens))
    if body.simulate is not None:
        wanted = body.simulate.output_tokens
    elif body.ignore_eos:
        wanted = limit
    else:
        wanted = drawn_length(seed, name)
    had = len(request.resume_token_ids)
    if request.prefill_only:
        limit = had + 1
    hashes = request.block_hashes[: prompt.tokens // PREFIX_BLOCK_TOKENS] if index < (body.n or 1) else ()
    job = Job(name, prompt.tokens + had, max(1, min(wanted, limit) - had), request.priority, hashes)
    choice = Choice(index, job, "length" if wanted >= limit else "stop", produced=had)
    if body.echo and request.endpoint == "completions":
        if not prompt.text:
            raise BodyError("echo: this engine has no text for token ids", "echo")
        choice.texts.append(prompt.text)
    return choice


def _check(prompt: Prompt, longest: int, field_name: str, model: str) -> None:
    if prompt.tokens >= longest:
        raise BodyError(
            f"the prompt has {prompt.tokens} tokens; {model} here takes {longest}, answer included",
            field_name,
        )
