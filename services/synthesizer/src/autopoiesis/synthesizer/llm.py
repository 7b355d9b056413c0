"""The door to a language model: any OpenAI-compatible endpoint, if one is configured."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import openai
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from autopoiesis.synthesizer.settings import LlmSettings

MILLION = 1_000_000
BYTES_PER_TOKEN = 3
"""Pessimistic, for budgets before a call."""


class LlmError(RuntimeError):
    """A call that brought no answer; the message says what was tried."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One completed call. Token counts are the endpoint's, or estimated where it gives none."""

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cost: float
    duration_s: float


class Model(Protocol):
    """Whoever answers: an endpoint, or a recording of one."""

    @property
    def name(self) -> str: ...

    def worst_case(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, float]:
        """Tokens and money that a call with these messages may use."""

    async def complete(
        self, messages: Sequence[Mapping[str, str]], *, timeout_s: float | None = None
    ) -> Answer:
        """One chat completion within `timeout_s` seconds. Raises LlmError."""


class LanguageModel:
    """Calls the endpoint of `settings`, which must name a URL and a model. Raises ValueError otherwise."""

    def __init__(self, settings: LlmSettings) -> None:
        if not settings.configured:
            raise ValueError("llm.base_url and llm.model must both be set before a model can be called")
        self.settings = settings
        # Empty texts, not None: None makes the client look into the environment for keys and accounts.
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=str(settings.key) or "none",
            organization="",
            project="",
            timeout=settings.timeout_s,
            max_retries=0,
        )

    @property
    def name(self) -> str:
        return self.settings.model

    def worst_case(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, float]:
        """Tokens and money that a call with these messages may use."""
        prompt = sum(len(m["content"].encode()) for m in messages) // BYTES_PER_TOKEN + 1
        return prompt + self.settings.max_tokens, self._cost(prompt, self.settings.max_tokens)

    async def complete(
        self, messages: Sequence[Mapping[str, str]], *, timeout_s: float | None = None
    ) -> Answer:
        """One chat completion within `timeout_s` seconds. Raises LlmError."""
        started = time.monotonic()
        limit = min(self.settings.timeout_s, timeout_s or self.settings.timeout_s)
        try:
            reply = await self._client.chat.completions.create(
                model=self.settings.model,
                messages=cast(list[ChatCompletionMessageParam], list(messages)),
                temperature=self.settings.temperature,
                max_tokens=self.settings.max_tokens,
                timeout=limit,
            )
        except openai.APITimeoutError as error:
            raise LlmError(
                f"{self.settings.model} at {self.settings.base_url} gave no answer within {limit:g} s"
            ) from error
        except openai.OpenAIError as error:
            raise LlmError(f"{self.settings.model} at {self.settings.base_url}: {error}") from error
        except ValueError as error:
            raise LlmError(
                f"{self.settings.model} at {self.settings.base_url} sent no JSON: {error}"
            ) from error
        return self._answer(messages, reply, time.monotonic() - started)

    def _answer(self, messages: Sequence[Mapping[str, str]], reply: object, duration_s: float) -> Answer:
        """What the client let pass need not be a completion: it checks no types. Raises LlmError."""
        try:
            completion = cast(ChatCompletion, reply)
            text = completion.choices[0].message.content or ""
            usage = completion.usage
            if not isinstance(text, str):
                raise TypeError(f"content is a {type(text).__name__}")
            if usage is None:
                prompt = self.worst_case(messages)[0] - self.settings.max_tokens
                generated = len(text.encode()) // BYTES_PER_TOKEN + 1
            else:
                prompt, generated = int(usage.prompt_tokens), int(usage.completion_tokens)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise LlmError(
                f"{self.settings.model} at {self.settings.base_url} answered with something else than a chat completion"
                f" ({error}): {str(reply)[:200]!r}"
            ) from error
        model = str(completion.model or self.name)
        return Answer(text, model, prompt, generated, self._cost(prompt, generated), duration_s)

    async def close(self) -> None:
        await self._client.close()

    def _cost(self, prompt: int, completion: int) -> float:
        return (prompt * self.settings.prompt_price + completion * self.settings.completion_price) / MILLION
