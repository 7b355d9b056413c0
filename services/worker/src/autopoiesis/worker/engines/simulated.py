"""An engine without a GPU: the simulator's replica model, advanced to the present."""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import dataclass, field
from typing import Final

from autopoiesis.contracts.messages.fleet import ReplicaState, StepModel
from autopoiesis.contracts.messages.infer import FailureCode, FinishReason, Generate
from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.simulator.hardware import gpu
from autopoiesis.simulator.models import model
from autopoiesis.simulator.replica import Emission, EngineConfig, Job, Replica, TooLongError
from autopoiesis.simulator.steptime import StepTime, kv_capacity_tokens
from autopoiesis.worker.engines.base import Broken, Ended, EngineStats, Piece
from autopoiesis.worker.engines.body import BodyError, prompt_tokens, read
from autopoiesis.worker.engines.outputs import Outputs
from autopoiesis.worker.engines.perturbation import Noise, Perturbation
from autopoiesis.worker.engines.sampling import StepSampler
from autopoiesis.worker.engines.words import word_ids, words

PREFIX_BLOCK_TOKENS: Final = 256
"""Tokens behind each block hash of a request: routers hash 1024 bytes at a time."""

LENGTH_MEDIAN: Final = 200
LENGTH_SIGMA: Final = 0.9
"""Of drawn output lengths, lognormal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedOptions:
    """How to simulate. Times are seconds."""

    noise: Noise = field(default_factory=Noise)
    seed: int = 0
    max_running: int = 256
    chunk_tokens: int = 2048
    prefix_cache: bool = True
    tick_s: float = 0.01
    """Events closer together than this are handled together."""
    chunk_interval_s: float = 0.05
    """Tokens of a stream gather for so long after its first."""
    load_s: float = 0.0


class _Request:
    __slots__ = ("began", "finish_reason", "first_token_s", "id", "outputs", "produced", "prompt_tokens")

    def __init__(
        self, request: Generate, now: float, prompt: int, reason: FinishReason, outputs: Outputs
    ) -> None:
        self.id = request.request_id
        self.began = now
        self.first_token_s: float | None = None
        self.prompt_tokens = prompt
        self.finish_reason = reason
        self.outputs = outputs
        self.produced = len(request.resume_token_ids)


class SimulatedEngine:
    """`base.Engine`. Step times are the model's times a perturbation that nobody else knows."""

    def __init__(
        self, replica: str, model_name: str, gpu_name: str, tp: int, options: SimulatedOptions
    ) -> None:
        """Raises `ValueError` for an unknown model or GPU, or a model that does not fit."""
        shape, chip = model(model_name), gpu(gpu_name)
        self.model = model_name
        self.changed = asyncio.Event()
        self._replica_name = replica
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._clock = time.monotonic
        step_time = StepTime(chip, shape, tp)
        config = EngineConfig(
            kv_capacity_tokens=kv_capacity_tokens(
                chip, shape, tp, max_batched_tokens=options.chunk_tokens, max_running=options.max_running
            ),
            max_batched_tokens=options.chunk_tokens,
            max_running=options.max_running,
            prefix_block_tokens=PREFIX_BLOCK_TOKENS if options.prefix_cache else 0,
        )
        perturbation = Perturbation(options.noise, f"{options.seed}/{replica}", self._clock)
        self._replica = Replica(step_time, config, perturb=perturbation, stream=True)
        self._sampler = StepSampler(self._replica)
        base, prefill, kv, sequence = step_time.step_coefficients(options.chunk_tokens)
        self._step_model = StepModel(
            base_s=base,
            prefill_token_s=prefill,
            kv_token_s=kv,
            sequence_s=sequence,
            chunk_tokens=options.chunk_tokens,
        )
        self._context_limit = min(shape.max_context, config.kv_blocks * config.block_tokens)
        self._requests: dict[str, _Request] = {}
        self._state: ReplicaState = "loading"
        self._load_began = self._clock()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._ticked = -math.inf
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        self._load_began = self._clock()
        await asyncio.sleep(self._options.load_s)
        self._become("ready")

    def generate(self, request: Generate) -> Outputs:
        outputs = Outputs(interval_s=self._options.chunk_interval_s, whole=not request.stream)
        if self._state != "ready":
            outputs.end(Broken(code="unavailable", message=f"replica {self._replica_name} is {self._state}"))
            return outputs
        now = self._clock()
        try:
            job, reason = self._job(request)
            self._replica.submit(now, job)
        except BodyError as error:
            outputs.end(Broken(code="invalid_request", message=str(error), param=error.param))
        except TooLongError as error:
            outputs.end(Broken(code="invalid_request", message=str(error), param=_prompt_field(request)))
        except ValueError as error:
            outputs.end(Broken(code="internal", message=str(error)))
        else:
            prompt = job.prompt_tokens - len(request.resume_token_ids)
            self._requests[request.request_id] = _Request(request, now, prompt, reason, outputs)
            self._idle.clear()
            self._arm()
        return outputs

    def cancel(self, request_id: str, reason: FailureCode) -> None:
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        self._replica.cancel(self._clock(), request_id)
        message = "the deadline passed" if reason == "deadline" else "the request was cancelled"
        request.outputs.end(Broken(code=reason, message=message, output_tokens=request.produced))
        self._arm()
        self._note_idle()

    def stats(self) -> EngineStats:
        self._advance()
        seen = self._replica.stats(self._clock())
        loading = self._state == "loading" and self._options.load_s > 0
        progress = (self._clock() - self._load_began) / self._options.load_s if loading else 1.0
        return EngineStats(
            state=self._state,
            progress=min(1.0, progress),
            running=seen.running,
            waiting=seen.waiting,
            queued_prefill_tokens=seen.queued_prefill_tokens,
            kv_used_tokens=seen.kv_used_tokens,
            kv_capacity_tokens=seen.kv_capacity_tokens,
            max_running=self._options.max_running,
            step_time_s=seen.step_time,
            step_model=self._step_model,
            prefix_queries=seen.prefix_queries,
            prefix_hits=seen.prefix_hits,
        )

    def steps(self) -> list[StepRecord]:
        return self._sampler.take()

    async def drain(self) -> None:
        await self._idle.wait()

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._replica.drop_all()
        for request in self._requests.values():
            request.outputs.end(
                Broken(code="unavailable", message="the engine was stopped", output_tokens=request.produced)
            )
        self._requests.clear()
        self._note_idle()
        self._become("stopped")

    def _job(self, request: Generate) -> tuple[Job, FinishReason]:
        """What the engine will run, and how it will end. Raises `BodyError`.

        Tokens that the client has already are computed like the prompt, and not generated again.
        """
        body = read(bytes(request.body))
        prompt = prompt_tokens(body)
        room = self._context_limit - prompt
        if room < 1:
            raise BodyError(
                f"the prompt has {prompt} tokens; {self.model} here takes {self._context_limit}, answer included",
                _prompt_field(request),
            )
        limit = max(1, min(request.max_tokens, room))
        if body.simulate is not None:
            wanted = body.simulate.output_tokens
        elif body.ignore_eos:
            wanted = limit
        else:
            wanted = drawn_length(self._options.seed, request.request_id)
        had = len(request.resume_token_ids)
        job = Job(
            request.request_id,
            prompt + had,
            max(1, min(wanted, limit) - had),
            request.priority,
            request.block_hashes[: prompt // PREFIX_BLOCK_TOKENS],
        )
        return job, "length" if wanted >= limit else "stop"

    def _tick(self) -> None:
        self._timer = None
        self._advance()
        self._arm()

    def _advance(self) -> None:
        now = self._ticked = self._clock()
        for emission in self._replica.advance(now):
            self._deliver(emission)
        self._sampler.look(now, time.time())

    def _deliver(self, emission: Emission) -> None:
        request = self._requests.get(str(emission.id))
        if request is None:
            return
        if request.first_token_s is None:
            request.first_token_s = emission.time - request.began
        start, count = request.produced, emission.tokens
        request.produced += count
        ids = word_ids(request.id, start, count)
        request.outputs.push(Piece(words(request.id, start, count), count, token_ids=ids))
        if emission.finished:
            del self._requests[request.id]
            request.outputs.end(
                Ended(
                    finish_reason=request.finish_reason,
                    prompt_tokens=request.prompt_tokens,
                    output_tokens=request.produced,
                    first_token_s=request.first_token_s,
                )
            )
            self._note_idle()

    def _arm(self) -> None:
        """One timer: at the next event, or for the next chunk of what streams, but never closer than a tick after the last."""
        at = self._replica.next_event_time()
        if self._requests:
            at = min(at, self._clock() + self._options.chunk_interval_s)
        at = max(at, self._ticked + self._options.tick_s)
        if self._timer is not None:
            if self._due <= at:
                return
            self._timer.cancel()
            self._timer = None
        if math.isfinite(at):
            self._due = at
            self._timer = self._loop.call_later(max(0.0, at - self._clock()), self._tick)

    def _note_idle(self) -> None:
        if not self._requests:
            self._idle.set()

    def _become(self, state: ReplicaState) -> None:
        self._state = state
        self.changed.set()


def drawn_length(seed: int, request_id: str) -> int:
    """The natural length of an answer nobody prescribed: lognormal, the same for the same seed and request."""
    rng = random.Random(f"{seed}/{request_id}")
    return max(1, round(rng.lognormvariate(math.log(LENGTH_MEDIAN), LENGTH_SIGMA)))


def _prompt_field(request: Generate) -> str:
    return "messages" if request.endpoint == "chat" else "prompt"
