"""An engine without a GPU: the simulator's replica model, advanced to the present."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from autopoiesis.contracts.messages.fleet import ReplicaState, StepModel
from autopoiesis.contracts.messages.infer import FailureCode, Generate
from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.simulator.fleet import replica_of
from autopoiesis.simulator.hardware import gpu
from autopoiesis.simulator.models import model
from autopoiesis.simulator.replica import Emission, Replica, TooLongError
from autopoiesis.worker.engines import answers, jobs
from autopoiesis.worker.engines.base import Broken, Ended, EngineStats, Piece
from autopoiesis.worker.engines.body import BodyError, read
from autopoiesis.worker.engines.jobs import PREFIX_BLOCK_TOKENS, Choice
from autopoiesis.worker.engines.keeping import kept, transfer_s
from autopoiesis.worker.engines.outputs import Outputs
from autopoiesis.worker.engines.perturbation import Noise, Perturbation
from autopoiesis.worker.engines.sampling import StepSampler
from autopoiesis.worker.engines.words import word_ids, words

REPORTED_S: Final = 1.0
"""For so long heartbeats repeat an eviction."""


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
    __slots__ = (
        "began",
        "choices",
        "first_token_s",
        "id",
        "left",
        "outputs",
        "prefill_only",
        "prompt_tokens",
        "silent",
        "whole",
    )

    def __init__(self, request: Generate, now: float, choices: list[Choice], outputs: Outputs) -> None:
        self.id = request.request_id
        self.began = now
        self.choices = choices
        self.left = len(choices)
        self.first_token_s: float | None = None
        self.outputs = outputs
        self.prefill_only = request.prefill_only
        self.silent = request.prefill_only
        """Nothing of it is told before its end."""
        self.whole: Callable[[], msgspec.Raw] | None = None
        """Makes the complete answer, where pieces do not say it."""

        self.prompt_tokens = sum(
            choice.job.prompt_tokens - choice.produced for choice in choices[:: choices[0].siblings]
        )

    @property
    def produced(self) -> int:
        return sum(choice.produced for choice in self.choices)


class SimulatedEngine:
    """`base.Engine`. Step times are the model's times a perturbation that nobody else knows."""

    def __init__(
        self,
        name: str,
        model_name: str,
        gpu_name: str,
        tp: int,
        options: SimulatedOptions,
        *,
        node: str = "",
    ) -> None:
        """Raises `ValueError` for an unknown model or GPU, or a model that does not fit."""
        shape = model(model_name)
        spec = replica_of(
            gpu(gpu_name),
            shape,
            tp,
            name=name,
            max_running=options.max_running,
            max_batched_tokens=options.chunk_tokens,
            prefix_block_tokens=PREFIX_BLOCK_TOKENS if options.prefix_cache else 0,
        )
        self._spec = replace(spec, node=node)
        self.model = model_name
        self.changed = asyncio.Event()
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._clock = time.monotonic
        perturbation = Perturbation(options.noise, f"{options.seed}/{name}", self._clock)
        self._replica = Replica(spec.steps, spec.config, perturb=perturbation, stream=True)
        self._sampler = StepSampler(self._replica)
        base, prefill, kv, sequence = spec.steps.step_coefficients(options.chunk_tokens)
        self._step_model = StepModel(
            base_s=base,
            prefill_token_s=prefill,
            kv_token_s=kv,
            sequence_s=sequence,
            chunk_tokens=options.chunk_tokens,
        )
        self._context_limit = min(shape.max_context, spec.config.kv_blocks * spec.config.block_tokens)
        self._eviction_counts: deque[tuple[float, int]] = deque([(self._clock(), 0)])
        self._requests: dict[str, _Request] = {}
        self._jobs: dict[str, tuple[_Request, Choice]] = {}
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
            outputs.end(Broken(code="unavailable", message=f"replica {self._spec.name} is {self._state}"))
            return outputs
        try:
            if request.endpoint == "passthrough":
                self._take_other(request, outputs)
            else:
                self._take(request, outputs)
        except BodyError as error:
            outputs.end(Broken(code="invalid_request", message=str(error), param=error.param))
        except TooLongError as error:
            outputs.end(Broken(code="invalid_request", message=str(error), param=_prompt_field(request)))
        except ValueError as error:
            outputs.end(Broken(code="internal", message=str(error)))
        return outputs

    def knows(self, path: str) -> bool:
        return path in {"/v1/embeddings", "/tokenize", "/detokenize"}

    def cancel(self, request_id: str, reason: FailureCode) -> None:
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        self._drop(request)
        message = "the deadline passed" if reason == "deadline" else "the request was cancelled"
        request.outputs.end(Broken(code=reason, message=message, output_tokens=request.produced))
        self._arm()
        self._note_idle()

    def _take(self, request: Generate, outputs: Outputs) -> None:
        body = read(bytes(request.body))
        choices = jobs.completion(
            request, body, longest=self._context_limit, seed=self._options.seed, model=self.model
        )
        held = _Request(request, self._clock(), choices, outputs)
        if len(choices) > 1 and not request.stream:
            held.whole = lambda: answers.choices(request, choices)
        for choice in choices:
            if choice.texts:  # an echo
                outputs.push(Piece(choice.texts[0], 0, choice.index))
        if request.kv_transfer is None or len(choices) > 1:
            self._submit(held)
            return
        delay = transfer_s(request.kv_transfer, self._spec)
        self._requests[held.id] = held
        self._idle.clear()
        self._loop.call_later(delay, self._land, held)

    def _land(self, held: _Request) -> None:
        """The KV cache of its prompt is here: the first token comes out, and it goes on decoding."""
        if self._requests.get(held.id) is not held:
            return
        choice = held.choices[0]
        job, now = choice.job, self._clock()
        only = job.output_tokens == 1
        try:
            if not only:
                job.produced = 1
                self._submit(held)
        except ValueError as error:
            del self._requests[held.id]
            held.outputs.end(Broken(code="invalid_request", message=str(error), param="messages"))
            self._note_idle()
            return
        self._jobs[str(job.id)] = (held, choice)
        self._deliver(Emission(job.id, now, 1, only, held.began))

    def _take_other(self, request: Generate, outputs: Outputs) -> None:
        body = read(bytes(request.body))
        if request.path == "/v1/embeddings":
            choices = jobs.embedding(request, body, longest=self._context_limit)
            held = _Request(request, self._clock(), choices, outputs)
            held.silent = True
            held.whole = lambda: answers.embeddings(request, body, choices)
            self._submit(held)
            return
        tokenize = request.path == "/tokenize"
        answer = answers.tokenize(body, self._context_limit) if tokenize else answers.detokenize(body)
        outputs.end(Ended(finish_reason="stop", prompt_tokens=0, output_tokens=0, body=answer))

    def _submit(self, held: _Request) -> None:
        """Give all its jobs to the replica, or none."""
        try:
            for choice in held.choices:
                self._replica.submit(held.began, choice.job)
                self._jobs[str(choice.job.id)] = (held, choice)
        except ValueError:
            self._drop(held)
            raise
        self._requests[held.id] = held
        self._idle.clear()
        self._arm()

    def _drop(self, held: _Request) -> None:
        for choice in held.choices:
            if self._jobs.pop(str(choice.job.id), None) is not None:
                self._replica.cancel(self._clock(), choice.job.id)

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
            kv_token_bytes=self._spec.kv_token_bytes,
            link_bandwidth=self._spec.link_bandwidth,
            network_bandwidth=self._spec.network_bandwidth,
            max_running=self._options.max_running,
            step_time_s=seen.step_time,
            step_model=self._step_model,
            prefix_queries=seen.prefix_queries,
            prefix_hits=seen.prefix_hits,
            evictions=self._replica.evictions,
            evicted=self._evicted(),
        )

    def _evicted(self) -> tuple[int, ...]:
        """What left the prefix cache within the last `REPORTED_S` seconds."""
        now, counts = self._clock(), self._eviction_counts
        counts.append((now, self._replica.evictions))
        while len(counts) > 1 and counts[1][0] <= now - REPORTED_S:
            counts.popleft()
        return self._replica.evicted(counts[0][1])

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
        self._jobs.clear()
        self._note_idle()
        self._become("stopped")

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
        name = str(emission.id)
        held, choice = self._jobs.get(name, (None, None))
        if held is None or choice is None:
            return
        if held.first_token_s is None:
            held.first_token_s = emission.time - held.began
        if not held.silent:
            start, count = choice.produced, emission.tokens
            choice.produced += count
            text, ids = words(name, start, count), word_ids(name, start, count)
            if held.whole is not None:
                choice.texts.append(text)
            held.outputs.push(Piece(text, count, choice.index, token_ids=ids))
        if emission.finished:
            del self._jobs[name]
            self._finish(held, choice)

    def _finish(self, held: _Request, choice: Choice) -> None:
        """One choice has ended, and with the last one the request."""
        held.left -= 1
        if len(held.choices) > 1 and not held.silent:
            held.outputs.push(Piece(index=choice.index, finish_reason=choice.reason))
        if held.left:
            return
        del self._requests[held.id]
        first = held.choices[0]
        held.outputs.end(
            Ended(
                finish_reason=first.reason,
                prompt_tokens=held.prompt_tokens,
                output_tokens=held.produced,
                cached_tokens=first.job.cached_tokens,
                first_token_s=held.first_token_s or 0.0,
                body=held.whole() if held.whole is not None else None,
                kv_transfer=kept(self._spec, held.prompt_tokens) if held.prefill_only else None,
            )
        )
        self._note_idle()

    def _arm(self) -> None:
        """One timer: at the next event, or for the next chunk of what streams, but never closer than a tick after the last."""
        at = self._replica.next_event
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


def _prompt_field(request: Generate) -> str:
    return "messages" if request.endpoint == "chat" else "prompt"
