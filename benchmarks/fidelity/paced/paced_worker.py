"""vLLM's processor worker, its steps as long as an accelerator's would be. Runs under the Python that has vLLM (`--worker-cls`).

A tiny model's step takes the processor a few milliseconds. The rest of the time that a step should take is slept, as a host
waits for its accelerator; so several engines on a few cores do not slow each other down, as those of several machines do not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from vllm.v1.worker.cpu_worker import CPUWorker

STEP_S, PROMPT_TOKEN_S, SEQUENCE_S = map(float, os.environ["PACED_WORKER_SECONDS"].split())
"""Of a step, of each prompt token in it and of each decoding sequence."""


class PacedWorker(CPUWorker):  # type: ignore[misc]
    def execute_model(self, scheduler_output: Any) -> Any:
        ends_at = time.monotonic() + _seconds(list(scheduler_output.num_scheduled_tokens.values()))
        output = super().execute_model(scheduler_output)
        time.sleep(max(0.0, ends_at - time.monotonic()))
        return output


def _seconds(scheduled: Sequence[int]) -> float:
    """Of a step with so many tokens of each sequence; one token is a decoding sequence's."""
    decoding = sum(tokens == 1 for tokens in scheduled)
    return STEP_S + PROMPT_TOKEN_S * (sum(scheduled) - decoding) + SEQUENCE_S * decoding
