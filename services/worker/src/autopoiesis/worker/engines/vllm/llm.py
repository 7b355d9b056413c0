"""AsyncLLM that can go on with an answer which another replica began."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreEventType
from vllm.v1.engine.async_llm import AsyncLLM

from autopoiesis.contracts.messages.infer import Generate

ANSWERING: ContextVar[Generate | None] = ContextVar("answering", default=None)
"""The request in whose context vLLM's serving layer runs."""

SCHEDULED = EngineCoreEventType.SCHEDULED

OnPrompt = Callable[[Generate, list[int]], None]


class ResumingLLM(AsyncLLM):  # type: ignore[misc]
    """The serving layer renders the prompt as ever; the tokens that the client already has are put behind it here."""

    on_prompt: OnPrompt | None = None
    """Called with each request and its prompt's tokens."""
    step_ended_at = 0.0
    """When the core made the outputs that are handled now, seconds of the machine's monotonic clock."""

    scheduled_at = 0.0
    """When the core last scheduled one of those whose first output this is; 0 where it is nobody's first."""

    def follow_clock(self) -> None:
        """Keep these two. Outputs wait in a queue: when they are handled here says little of when their step ended."""
        core = self.engine_core
        receive = core.get_output_async

        async def stamped() -> Any:
            outputs = await receive()
            self.step_ended_at = outputs.timestamp
            self.scheduled_at = max(
                (
                    event.timestamp
                    for output in outputs.outputs
                    for event in output.events or ()
                    if event.type == SCHEDULED
                ),
                default=0.0,
            )
            return outputs

        core.get_output_async = stamped

    def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        request = ANSWERING.get()
        if request is not None and isinstance(prompt, dict) and "prompt_token_ids" in prompt:
            if self.on_prompt is not None:
                self.on_prompt(request, prompt["prompt_token_ids"])
            if request.resume_token_ids:
                prompt, sampling_params = resumed(prompt, sampling_params, request.resume_token_ids)
        outputs: AsyncGenerator[RequestOutput, None] = super().generate(
            prompt, sampling_params, request_id, **options
        )
        return outputs


def resumed(
    prompt: dict[str, Any], sampling_params: SamplingParams, had: tuple[int, ...]
) -> tuple[dict[str, Any], SamplingParams]:
    """Raises `ValueError` where the answer was complete already, or there are several."""
    if sampling_params.n > 1:
        raise ValueError("resume_token_ids: several choices (n > 1) cannot be resumed")
    rest = sampling_params.clone()
    rest.min_tokens = max(0, rest.min_tokens - len(had))
    if rest.max_tokens is not None:
        rest.max_tokens -= len(had)
        if rest.max_tokens < 1:
            raise ValueError(f"resume_token_ids: {len(had)} tokens are the whole answer already")
    return {**prompt, "prompt_token_ids": [*prompt["prompt_token_ids"], *had]}, rest
