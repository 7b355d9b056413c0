"""The oracle: the same engine, stepping every token, kept simple enough to be obviously right.

It has the interface of `replica.Replica` (without streaming, perturbation and gaps) and shares no code with its scheduling.
Everything is recounted from scratch at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from autopoiesis.simulator.engine import Emission, EngineConfig, Job, ReplicaStats, RequestId, check
from autopoiesis.simulator.prefix import MOST_EVICTED
from autopoiesis.simulator.steptime import Steps


@dataclass(slots=True, eq=False)
class _Sequence:
    job: Job
    order: int
    prefilling: bool = True
    computed: int = 0
    produced: int = 0
    emitted: int = 0
    started: float = 0.0
    landed: int = 0
    """Tokens whose KV cache comes with the job."""
    arrived: int = -1
    """The step that ran when it came, where the next one is planned ahead; steps are counted from 1."""
    hashes: list[int] = field(default_factory=list)
    """Cached blocks that this sequence holds."""

    @property
    def known(self) -> int:
        """Tokens whose values are known: the prompt and what was generated."""
        return self.job.prompt_tokens + self.produced

    @property
    def rank(self) -> tuple[int, int]:
        return (self.job.priority, self.order)


class SteppingReplica:
    """One engine; times in seconds."""

    def __init__(
        self, step_time: Steps, config: EngineConfig, *, perturb: Callable[[], float] | None = None
    ) -> None:
        """Raises `ValueError` for a perturbation: step times here are the model's own."""
        if perturb is not None:
            raise ValueError("the oracle's step times cannot be perturbed")
        self.step_time = step_time
        self.config = config
        self.preemptions = 0
        self.steps = 0
        self.busy_s = 0.0
        self.bound_s = 0.0
        """The roofline's least time for the same steps."""
        self.layer_tokens = 0
        self.kv_tokens_read = 0
        self.kv_peak_tokens = 0
        self.tokens_out = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.gaps: dict[int, int] = {}
        self._took = 0.0
        self._running: list[_Sequence] = []
        self._leaving: list[_Sequence] = []
        """Ended with the last step, unknown to the plan for this one."""
        self._waiting: list[_Sequence] = []
        self._idle: list[int | None] = []
        """Freed blocks, oldest first: a hash, or none for content nobody can find. One entry per hash or per page."""
        self._evicted: list[int] = []
        self._step: list[tuple[_Sequence, int]] = []
        self._cancelled: list[_Sequence] = []
        """Running ones that leave at the end of this step."""
        self._begun = 0.0
        self.next_event = math.inf
        self._orders = 0
        self._out: list[Emission] = []

    def submit(self, now: float, job: Job) -> None:
        check(job, self.config)
        self._until(now)
        self._orders += 1
        landed = job.prompt_tokens + job.produced - 1 if job.produced else 0
        sequence = _Sequence(job, self._orders, produced=job.produced, emitted=job.produced, landed=landed)
        self._waiting.append(sequence)
        if not self._step:
            self.next_event = now
        elif self.config.async_scheduling:
            sequence.arrived = self.steps + 1

    def cancel(self, now: float, job_id: RequestId) -> bool:
        self._until(now)
        for sequence in self._waiting:
            if sequence.job.id == job_id:
                self._waiting.remove(sequence)
                return True
        for sequence in self._running:
            if sequence.job.id == job_id and sequence not in self._cancelled:
                self._cancelled.append(sequence)
                return True
        return False

    def advance(self, to: float) -> list[Emission]:
        while self.next_event <= to and self.next_event < math.inf:
            self._boundary()
        out, self._out = self._out, []
        return out

    def restore(self, now: float, job: Job, produced: int) -> None:
        raise NotImplementedError("the oracle starts empty")

    def drop_all(self) -> list[RequestId]:
        lost = [s.job.id for s in sorted(self._running + self._waiting, key=lambda s: s.order)]
        for held in (
            *(self._running, self._leaving, self._waiting, self._cancelled),
            *(self._idle, self._evicted, self._step),
        ):
            held.clear()
        self.next_event = math.inf
        return lost

    def stats(self, now: float) -> ReplicaStats:
        running, waiting, missing, held = self.load()
        if self.config.prefix_block_tokens:
            held = min(held, self._kept())
        return ReplicaStats(
            running=running,
            waiting=waiting,
            queued_prefill_tokens=missing,
            kv_used_tokens=held,
            kv_capacity_tokens=self.config.kv_blocks * self.config.block_tokens,
            step_time=self._took,
            prefix_queries=self.prefix_queries,
            prefix_hits=self.prefix_hits,
            preemptions=self.preemptions,
        )

    def reuse(self, now: float) -> None:
        """Nothing to do: every step evicts what it displaces."""

    @property
    def evictions(self) -> int:
        return len(self._evicted)

    def evicted(self, before: int) -> tuple[int, ...]:
        return tuple(self._evicted[before:][-MOST_EVICTED:])

    def load(self) -> tuple[int, int, int, int]:
        """Running, waiting, prompt tokens not computed yet, tokens in the KV cache (each sequence's own count)."""
        queued = [s for s in self._running if s.prefilling] + self._waiting
        missing = sum(s.known - (s.computed or s.landed) for s in queued)
        return len(self._running), len(self._waiting), missing, sum(s.computed for s in self._running)

    def _until(self, now: float) -> None:
        while self.next_event < now:
            self._boundary()

    def _boundary(self) -> None:
        now = self.next_event
        self._finish_step(now)
        self._start_step(now)

    # --- blocks ---

    def _pages(self, sequence: _Sequence, tokens: int) -> int:
        """Own pages of a sequence that has `tokens` tokens in the cache, shared blocks apart."""
        return math.ceil(
            (tokens - len(sequence.hashes) * self.config.prefix_block_tokens) / self.config.block_tokens
        )

    def _unit(self) -> int:
        return self.config.prefix_block_tokens // self.config.block_tokens

    def _held(self) -> set[int]:
        return {block for sequence in self._running + self._leaving for block in sequence.hashes}

    def _used(self) -> int:
        """Blocks in use once the sequences of this step have what they need."""
        growing = {id(sequence): tokens for sequence, tokens in self._step}
        own = sum(self._pages(s, s.computed + growing.get(id(s), 0)) for s in self._running + self._leaving)
        return own + len(self._held()) * self._unit()

    def _kept(self) -> int:
        """Tokens of the pages that hold computed tokens."""
        own = sum(max(0, self._pages(s, s.computed)) for s in self._running)
        return (own + len(self._held()) * self._unit()) * self.config.block_tokens

    def _evict(self) -> None:
        """Idle blocks give way, oldest first; a hash whose pages are reused in part is lost, its other pages stay queued."""
        used = self._used()
        assert used <= self.config.kv_blocks, "KV over capacity"
        while (
            used + sum(1 if block is None else self._unit() for block in self._idle) > self.config.kv_blocks
        ):
            block = self._idle.pop(0)
            if block is not None:
                self._evicted.append(block)
                self._idle[:0] = [None] * (self._unit() - 1)

    def _share(self, sequence: _Sequence, computed: int) -> None:
        """Publish the full blocks of the first `computed` tokens."""
        if not self.config.prefix_block_tokens:
            return
        full = min(computed // self.config.prefix_block_tokens, len(sequence.job.block_hashes))
        while len(sequence.hashes) < full:
            block = sequence.job.block_hashes[len(sequence.hashes)]
            if block in self._idle:
                self._idle.remove(block)
            sequence.hashes.append(block)

    def _free(self, sequence: _Sequence) -> None:
        self._running.remove(sequence)
        self._give_back(sequence)

    def _give_back(self, sequence: _Sequence) -> None:
        if self.config.prefix_block_tokens:
            self._idle += [None] * self._pages(sequence, sequence.computed)
            held = self._held()
            self._idle += [block for block in reversed(sequence.hashes) if block not in held]
        sequence.hashes = []

    # --- one step ---

    def _leave(self) -> None:
        while self._leaving:
            self._give_back(self._leaving.pop(0))

    def _finish_step(self, now: float) -> None:
        self._leave()
        if self._step:
            self._count(now)
        step, self._step = self._step, []
        for sequence, tokens in step:
            sequence.computed += tokens
        self.kv_peak_tokens = max(
            self.kv_peak_tokens,
            self._kept() if self.config.prefix_block_tokens else sum(s.computed for s in self._running),
        )
        for sequence in self._cancelled:
            self._free(sequence)
        left = [s for s, _ in step if s not in self._cancelled]
        self._cancelled = []
        prefills = [s for s in left if s.prefilling and s.computed == s.known]
        decodes = sorted((s for s in left if not s.prefilling), key=lambda s: s.order)
        for sequence in prefills + decodes:
            sequence.prefilling = False
            sequence.produced += 1
            if sequence.produced == sequence.job.output_tokens:
                self._share(sequence, sequence.computed)
                if self.config.async_scheduling:
                    self._running.remove(sequence)
                    self._leaving.append(sequence)
                else:
                    self._free(sequence)
                self._emit(sequence, now)
            elif sequence.produced == 1:
                self._emit(sequence, now)

    def _count(self, now: float) -> None:
        """The step that ends now."""
        chunks, decodes, kv, sampled = self._work()
        self.steps += 1
        self._took = now - self._begun
        self.busy_s += self._took
        bound = self.step_time.lower_bound(chunks, decodes, kv, sampled)
        assert self._took >= bound * (1 - 1e-9), "a step faster than ideal hardware"
        self.bound_s += bound
        self.layer_tokens += decodes + sum(tokens for tokens, _ in chunks)
        self.kv_tokens_read += kv

    def _emit(self, sequence: _Sequence, now: float) -> None:
        finished = sequence.produced == sequence.job.output_tokens
        tokens = sequence.produced - sequence.emitted
        self._out.append(Emission(sequence.job.id, now, tokens, finished, sequence.started))
        self.tokens_out += tokens
        sequence.emitted = sequence.produced

    def _start_step(self, now: float) -> None:
        unknown = [sequence for sequence in self._waiting if sequence.arrived == self.steps]
        self._waiting = [sequence for sequence in self._waiting if sequence not in unknown]
        self._plan_step(now)
        self._waiting += unknown
        if not self._step and (unknown or self._leaving):
            self._leave()
            self._plan_step(now)
        self._begun = now
        self.next_event = now + self._duration() if self._step else math.inf

    def _plan_step(self, now: float) -> None:
        self._waiting.sort(key=lambda s: s.rank)
        preempted = False
        while True:
            self._schedule_running()
            if self._used() <= self.config.kv_blocks:
                break
            self._preempt(max(self._running, key=lambda s: s.rank))
            preempted = True
        self._evict()
        for sequence, tokens in self._step:
            if sequence.prefilling:
                self._share(sequence, sequence.computed + tokens)
        if not preempted:
            while self._waiting and self._admit(self._waiting[0], now):
                pass

    def _schedule_running(self) -> None:
        """Decodes take one token each, prompts that are under way what the budget leaves."""
        self._step = [(s, 1) for s in self._running if not s.prefilling]
        budget = self.config.max_batched_tokens - len(self._step)
        for sequence in self._running:
            if sequence.prefilling:
                tokens = min(sequence.known - sequence.computed, budget)
                self._step.append((sequence, tokens))
                budget -= tokens

    def _preempt(self, sequence: _Sequence) -> None:
        self._free(sequence)
        sequence.computed = sequence.landed = 0
        sequence.prefilling = True
        self._waiting.append(sequence)
        self._waiting.sort(key=lambda s: s.rank)
        self.preemptions += 1

    def _admit(self, sequence: _Sequence, now: float) -> bool:
        config = self.config
        budget = config.max_batched_tokens - sum(tokens for _, tokens in self._step)
        if budget <= 0 or len(self._running) + len(self._leaving) >= config.max_running:
            return False
        hits: list[int] = []
        held = self._held()
        if config.prefix_block_tokens and not sequence.landed:
            for block in sequence.job.block_hashes[: (sequence.known - 1) // config.prefix_block_tokens]:
                if block not in held and block not in self._idle:
                    break
                hits.append(block)
        shared = len(hits) * config.prefix_block_tokens
        cached = sequence.landed or shared
        tokens = min(sequence.known - cached, budget)
        wanted = sequence.known if config.reserve_full_prompt else cached + tokens
        revived = sum(block not in held for block in hits) * self._unit()
        need = math.ceil((wanted - shared) / config.block_tokens) + revived
        if self._used() + need > config.kv_blocks:
            return False
        self._waiting.remove(sequence)
        self._running.append(sequence)
        for block in hits:
            if block in self._idle:
                self._idle.remove(block)
        sequence.hashes = hits
        sequence.computed = cached
        sequence.started = now
        if config.prefix_block_tokens and not sequence.landed:
            self.prefix_queries += sequence.known
            self.prefix_hits += cached
        self._step.append((sequence, tokens))
        self._share(sequence, cached + tokens)
        self._evict()
        return True

    def _duration(self) -> float:
        return self.step_time.step(*self._work())

    def _work(self) -> tuple[list[tuple[int, int]], int, int, int]:
        """Of this step: prompt chunks with what is computed before them, decoding sequences, KV tokens these read, samples."""
        decodes = [s for s, _ in self._step if not s.prefilling]
        chunks = [(tokens, s.computed) for s, tokens in self._step if s.prefilling]
        kv = sum(s.computed + 1 for s in decodes)
        ready = sum(s.computed + tokens == s.known for s, tokens in self._step if s.prefilling)
        return chunks, len(decodes), kv, len(decodes) + ready
