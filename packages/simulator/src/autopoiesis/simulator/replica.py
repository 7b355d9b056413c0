"""One engine as vLLM v1 runs it, without stepping token by token.

Continuous batching; chunked prefill in a token budget shared with decodes; paged KV; preemption by recompute; priority, then
first come; an optional prefix cache. While the batch stays the same, step j of a run takes `first + j * growth` seconds, so n
steps end after `n * first + growth * n (n - 1) / 2`. A run ends where the batch may change: a sequence finishes, a chunk
completes a prompt, KV runs out, a request that can be admitted arrives, or one is cancelled. `stepping.py` holds the oracle.

Pure Python without NumPy: the worker process runs this model as its simulated engine.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import log
from typing import Final

from autopoiesis.simulator.batch import Batch, Sequence
from autopoiesis.simulator.engine import (
    Emission,
    EngineConfig,
    Job,
    ReplicaStats,
    RequestId,
    TooLongError,
    check,
)
from autopoiesis.simulator.prefix import PrefixCache
from autopoiesis.simulator.steptime import Steps

__all__ = ["Emission", "EngineConfig", "Job", "Replica", "ReplicaStats", "TooLongError"]

GAP_BINS_PER_E: Final = 50
"""Inter-token gaps are counted in logarithmic bins, this many per factor e (2 % wide)."""


Plan = tuple[int, float, float]
"""A run of steps: how many, seconds of the first, seconds that each next one takes longer."""
IDLE: Final = (0, 0.0, 0.0)
INF: Final = math.inf

_new = tuple.__new__  # a third of the time that the named tuple's own constructor takes


class Replica(Batch):
    """A simulated engine. Times are seconds on the caller's clock and never fall.

    With `stream` every `advance` reports the tokens made since the last one; without, a request has one emission for its first
    token and one for the rest. `perturb` gives a factor on the step times of each run.
    """

    __slots__ = (
        "_budget",
        "_cancelled",
        "_decode_fixed",
        "_first",
        "_growth",
        "_longest",
        "_most_running",
        "_orders",
        "_out",
        "_partial",
        "_per_kv_token",
        "_perturb",
        "_reserve",
        "_run",
        "_sequences",
        "_start",
        "_step_time",
        "_stream",
        "_waiting",
        "_waiting_count",
        "_waiting_tokens",
        "busy_s",
        "gaps",
        "kv_peak_tokens",
        "kv_tokens_read",
        "layer_tokens",
        "next_event",
        "preemptions",
        "prefix_hits",
        "prefix_queries",
        "step_time",
        "tokens_out",
    )

    def __init__(
        self,
        step_time: Steps,
        config: EngineConfig,
        *,
        perturb: Callable[[], float] | None = None,
        stream: bool = False,
    ) -> None:
        super().__init__(config)
        self.step_time = step_time
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.busy_s = 0.0
        self.layer_tokens = 0
        self.kv_tokens_read = 0
        self.tokens_out = 0
        self.kv_peak_tokens = 0
        self.gaps: dict[int, int] = defaultdict(int)
        self._perturb = perturb
        self._stream = stream
        self._sequences: dict[RequestId, Sequence] = {}
        self._orders = 0
        self._waiting: list[tuple[int, int, Sequence]] = []
        self._waiting_count = 0
        self._waiting_tokens = 0
        self._partial: Sequence | None = None
        self._cancelled: list[Sequence] = []
        self._out: list[Emission] = []
        self._start = 0.0
        self._run = 0
        self._first = 0.0
        self._growth = 0.0
        self.next_event = INF
        """When the batch may next change; nothing comes out before (but streamed tokens). Infinite when idle."""
        self._step_time = 0.0
        self._budget = config.max_batched_tokens
        self._most_running = config.max_running
        self._reserve = config.reserve_full_prompt
        self._longest = self._blocks * self._pages + 1
        self._per_kv_token = step_time.per_kv_token
        self._decode_fixed = [step_time.fixed(n, n) for n in range(config.max_running + 1)]

    # --- the caller's side ---

    def submit(self, now: float, job: Job) -> None:
        """Queue a job; it joins at the next step. Raises `ValueError` where it is impossible or its id is in use."""
        job_id, prompt, output = job.id, job.prompt_tokens, job.output_tokens
        if prompt < 1 or output < 1 or prompt + output > self._longest or job.produced:
            check(job, self.config)
        if job_id in self._sequences:
            raise ValueError(f"job {job_id!r} is already here")
        if self.next_event < now:
            self._settle(now)
        self._orders = order = self._orders + 1
        sequence = Sequence(job, order)
        self._sequences[job_id] = sequence
        self._enqueue(sequence)
        run = self._run
        if not run:
            self.next_event = now
        elif (
            run > 1
            and not self._chunks
            and self._waiting[0][2] is sequence
            and len(self._decoding) < self._most_running
        ):
            self._interrupt(now)

    def restore(self, now: float, job: Job, produced: int) -> None:
        """Take over a job that has `produced` tokens already; before the first step only.

        It goes on decoding where batch and KV cache have room, else it waits to be computed again.
        """
        check(job, self.config)
        if self._run or self.steps or produced >= job.output_tokens:
            raise ValueError(
                f"job {job.id!r}: only unfinished jobs can be restored, and only before the first step"
            )
        self._orders += 1
        self._sequences[job.id] = sequence = Sequence(job, self._orders)
        sequence.target, sequence.emitted = job.prompt_tokens + produced, produced
        pages = -(-(sequence.target) // self._pages)
        full = len(self._decoding) >= self.config.max_running or self._decode_pages(1) + pages > self._blocks
        self.next_event = now
        if full or not produced:
            self._enqueue(sequence)
            return
        sequence.queued = False
        sequence.base = context = sequence.target - 1
        sequence.finish_step = job.output_tokens - produced
        heappush(self._decoding, (sequence.finish_step, sequence.order, sequence))
        self._context += context
        self._residues[context % self._pages] += 1
        self._whole_pages += context // self._pages

    def cancel(self, now: float, job_id: RequestId) -> bool:
        """Drop a job: no more tokens of it come out. False where it is not here (any more)."""
        self._settle(now)
        sequence = self._sequences.pop(job_id, None)
        if sequence is None:
            return False
        sequence.cancelled = True
        if sequence.queued:
            self._waiting_count -= 1
            self._waiting_tokens -= sequence.target - sequence.landed
            while self._waiting and self._waiting[0][2].cancelled:
                heappop(self._waiting)
        else:
            self._cancelled.append(sequence)
        if self._run > 1:
            self._interrupt(now)
        return True

    def advance(self, to: float) -> list[Emission]:
        """Run until `to`; what came out since the last call, in order of time."""
        at = self.next_event
        while at <= to and at < INF:
            at = self._boundary(at)
        if self._stream and self._run:
            self._stream_until(to)
        out = self._out
        if out:
            self._out = []
        return out

    def stats(self, now: float) -> ReplicaStats:
        """What the engine would report at `now`, which may lie anywhere before the next event."""
        done = self._steps_before(now)
        decoding = len(self._decoding)
        queued = self._waiting_tokens
        held = self._context + done * decoding
        for sequence, chunk in self._chunks:
            queued += sequence.target - sequence.computed - chunk * done
            held += sequence.computed + chunk * done
        if self._cache is not None:
            held = min(held, self._blocks_in_use(done) * self._pages)
        return _new(
            ReplicaStats,
            (
                decoding + len(self._chunks),
                self._waiting_count,
                queued,
                held,
                self._blocks * self._pages,
                self._first + done * self._growth if self._run else self._step_time,
                self.prefix_queries,
                self.prefix_hits,
                self.preemptions,
            ),
        )

    def reuse(self, now: float) -> None:
        """Take out of the prefix cache what the steps of a run have displaced by `now`, before the run ends."""
        if self._cache is not None and self._run:
            self._cache.shrink(self._blocks - self._blocks_in_use(self._steps_before(now) + 1))

    @property
    def evictions(self) -> int:
        """Prompt blocks that have left the prefix cache."""
        return self._cache.evictions if self._cache is not None else 0

    def evicted(self, before: int) -> tuple[int, ...]:
        """Prompt blocks that left after the first `before`, oldest first; of very many the last ones."""
        if self._cache is None or self._cache.evictions <= before:
            return ()
        return tuple(self._cache.evicted)[before - self._cache.evictions :]

    def drop_all(self) -> list[RequestId]:
        """The engine dies: forget every job and cached block; ids of the lost jobs in order of submission."""
        lost = list(self._sequences)
        self._sequences.clear()
        self._waiting.clear()
        self._waiting_count = self._waiting_tokens = 0
        self._clear()
        self._run = 0
        self._partial = None
        self._cancelled.clear()
        self.next_event = INF
        return lost

    # --- runs of steps ---

    def _settle(self, now: float) -> None:
        at = self.next_event
        while at < now:
            at = self._boundary(at)

    def _interrupt(self, now: float) -> None:
        """Let the run end with the step that is in progress at `now`: the batch may change then."""
        elapsed, first, growth = now - self._start, self._first, self._growth
        steps = 1
        if elapsed > first:
            slope = first - 0.5 * growth
            steps = math.ceil(2 * elapsed / (slope + math.sqrt(slope * slope + 2 * growth * elapsed)))
            if (steps - 1) * (first + 0.5 * growth * (steps - 2)) >= elapsed:
                steps -= 1
            elif steps * (first + 0.5 * growth * (steps - 1)) < elapsed:
                steps += 1
        if steps < self._run:
            self._run = steps
            self.next_event = self._start + steps * (first + 0.5 * growth * (steps - 1))

    def _steps_before(self, now: float) -> int:
        """Steps of the run that are complete at `now`."""
        elapsed, first, growth = now - self._start, self._first, self._growth
        if not self._run or elapsed < first:
            return 0
        slope = first - 0.5 * growth
        steps = int(2 * elapsed / (slope + math.sqrt(slope * slope + 2 * growth * elapsed)))
        if steps * (first + 0.5 * growth * (steps - 1)) > elapsed:
            steps -= 1
        elif (steps + 1) * (first + 0.5 * growth * steps) <= elapsed:
            steps += 1
        return min(steps, self._run)

    def _boundary(self, now: float) -> float:
        """A run of steps is over, and the next begins; when that ends."""
        run, heap, cache = self._run, self._decoding, self._cache
        decoding = len(heap)
        if run:
            elapsed = now - self._start
            self.busy_s += elapsed
            self._step_time = step_time = elapsed / run
            self.steps = steps = self.steps + run
            if decoding:
                made, context = run * decoding, self._context
                self.kv_tokens_read += run * context + (made * (run + 1) >> 1)
                self._context = context = context + made
                if context > self.kv_peak_tokens and cache is None:
                    self.kv_peak_tokens = context
                self.layer_tokens += made
                self.gaps[int(GAP_BINS_PER_E * log(step_time))] += made
            if self._chunks or self._cancelled or cache is not None:
                self._land(now, run)
            while heap and heap[0][0] == steps:
                self._finish(heappop(heap)[2], now)
            decoding = len(heap)
        if self._waiting or self._partial is not None:
            run, first, growth = self._take_one(now, decoding) or self._mix(now)
        elif decoding:
            run, context = heap[0][0] - self.steps, self._context
            bound = (context + run * decoding) // self._pages + decoding
            if cache is not None:
                bound += cache.held_blocks
            if bound <= self._blocks:
                per_kv_token = self._per_kv_token
                first = (context + decoding) * per_kv_token + self._decode_fixed[decoding]
                growth = decoding * per_kv_token
            else:  # KV may run out before the first sequence ends
                run, first, growth = self._mix(now)
        else:
            run, first, growth = IDLE
        self._run = run
        if not run:
            self.next_event = INF
            return INF
        if self._perturb is not None:
            factor = self._perturb()
            first *= factor
            growth *= factor
        self._start, self._first, self._growth = now, first, growth
        self.next_event = end = now + run * (first + 0.5 * growth * (run - 1))
        return end

    def _land(self, now: float, run: int) -> None:
        """Prompt chunks are in the KV cache now, and what they displaced is not; what was cancelled leaves."""
        chunks, held = self._chunks, self._context
        for sequence, chunk in chunks:
            sequence.computed = computed = sequence.computed + run * chunk
            self.layer_tokens += run * chunk
            held += computed
        if self._cache is not None:
            held = self._displace(self._cache, chunks)
        if held > self.kv_peak_tokens:
            self.kv_peak_tokens = held
        if self._cancelled:
            for sequence in self._cancelled:
                self._remove(sequence)
            self._cancelled.clear()
        if not chunks:
            return
        self._chunks = []
        self._partial = None
        for sequence, _ in chunks:
            if sequence.computed < sequence.target:
                self._partial = None if sequence.cancelled else sequence
            elif not sequence.cancelled:
                self._prefilled(sequence, now)

    def _displace(self, cache: PrefixCache, chunks: list[tuple[Sequence, int]]) -> int:
        """Take what the run needed from the prefix cache, and add what it computed; tokens held."""
        used = self._decode_pages(0) + sum(self._private_pages(s, 0) for s, _ in chunks) + cache.held_blocks
        cache.shrink(self._blocks - used)
        for sequence, _ in chunks:
            self._share(sequence, sequence.computed)
        return used * self._pages

    def _take_one(self, now: float, decoding: int) -> Plan | None:
        """The usual admission: one job waits and its whole prompt fits into this step. None where it is not that simple."""
        waiting, pages, context = self._waiting, self._pages, self._context
        if len(waiting) != 1 or self._partial is not None or self._cache is not None:
            return None
        sequence = waiting[0][2]
        target = sequence.target
        tokens = decoding + target
        bound = (context + decoding) // pages + decoding + (target + pages - 1) // pages
        if (
            tokens > self._budget
            or decoding >= self._most_running
            or bound > self._blocks
            or sequence.landed
            or sequence.cancelled
        ):
            return None
        waiting.clear()
        self._waiting_count -= 1
        self._waiting_tokens -= target
        sequence.queued = False
        sequence.started = now
        self._chunks = [(sequence, target)]
        model = self.step_time
        growth = decoding * model.per_kv_token_mixed
        first = (context + decoding) * model.per_kv_token_mixed + model.chunk_attention(target, 0)
        return 1, first + model.fixed(tokens, decoding + 1), growth

    def _mix(self, now: float) -> Plan:
        """The next batch in general: who is preempted, who joins, and how many steps it stays the same."""
        partial, preempted, decoding = self._partial, False, len(self._decoding)
        chunk = self._chunk(partial)
        used = (self._context + decoding) // self._pages + decoding
        if partial is not None:
            used += -(-(partial.computed + chunk) // self._pages)
        if used > self._blocks or self._cache is not None:
            preempted = self._make_room(now)
            partial = self._partial
            chunk = self._chunk(partial)
            used = self._blocks_in_use(1, partial, chunk)
        budget = self._budget - len(self._decoding) - chunk
        chunks: list[tuple[Sequence, int]] = [] if partial is None else [(partial, chunk)]
        if self._cache is not None:
            self._cache.shrink(self._blocks - used)
            if partial is not None:
                self._share(partial, partial.computed + chunk)
                used = self._blocks_in_use(1, partial, chunk)
        if self._waiting and budget > 0 and not preempted:
            self._admit(chunks, budget, used)
        self._chunks = chunks
        return self._plan(chunks, preempted or (self._cache is not None and self._head_may_shrink()))

    def _chunk(self, partial: Sequence | None) -> int:
        if partial is None:
            return 0
        return min(partial.target - partial.computed, self._budget - len(self._decoding))

    def _plan(self, chunks: list[tuple[Sequence, int]], once: bool) -> Plan:
        """A run of prompt chunks beside the decoding sequences, of one step where `once`."""
        model, decoding = self.step_time, len(self._decoding)
        if not chunks and not decoding:
            return IDLE
        tokens = sampled = decoding
        per_kv_token = model.per_kv_token_mixed if chunks else self._per_kv_token
        first = (self._context + decoding) * per_kv_token
        growth = decoding * per_kv_token
        run = self._decoding[0][0] - self.steps if decoding else 1 << 60
        for sequence, chunk in chunks:
            tokens += chunk
            first += model.chunk_attention(chunk, sequence.computed)
            left = sequence.target - sequence.computed
            if left <= chunk:
                sampled += 1
                run = 1
            elif chunk:
                run = min(run, (left - 1) // chunk)
                growth += chunk * model.per_prefix_token(chunk)
        if run > 1:
            met = self._cache is not None and chunks and self._meets_cached(chunks[0][0])
            run = 1 if once or met or len(chunks) > 1 else self._fitting(run, chunks)
        return run, first + model.fixed(tokens, sampled), growth

    # --- admission, preemption, ends ---

    def _enqueue(self, sequence: Sequence) -> None:
        heappush(self._waiting, (sequence.job.priority, sequence.order, sequence))
        self._waiting_count += 1
        self._waiting_tokens += sequence.target - sequence.landed

    def _admit(self, chunks: list[tuple[Sequence, int]], budget: int, used: int) -> None:
        """Take waiting jobs into this step while batch, budget and KV allow; the first that does not fit blocks the rest."""
        waiting, pages, cache = self._waiting, self._pages, self._cache
        room = self._most_running - len(self._decoding) - len(chunks)
        exact = False
        shared = hits = idle = 0
        while waiting and budget > 0 and room > 0:
            sequence = waiting[0][2]
            if sequence.cancelled:
                heappop(waiting)
                continue
            cached, target = sequence.landed, sequence.target
            if cache is not None:
                hits, idle = (0, 0) if cached else self._match(sequence)
                shared = hits * self.config.prefix_block_tokens
                cached += shared
            chunk = target - cached
            if chunk > budget:
                chunk = budget
            wanted = target if self._reserve else cached + chunk
            need = (wanted - shared + pages - 1) // pages + idle
            if used + need > self._blocks:
                if not exact and cache is None:
                    exact = True
                    used = self._blocks_in_use(1) + sum(-(-(s.computed + c) // pages) for s, c in chunks)
                    continue
                break
            heappop(waiting)
            self._waiting_count -= 1
            self._waiting_tokens -= target - sequence.landed
            sequence.queued = False
            sequence.started = self.next_event
            sequence.computed = cached
            chunks.append((sequence, chunk))
            budget -= chunk
            room -= 1
            used += (cached - shared + chunk + pages - 1) // pages
            if cache is not None:
                if not sequence.landed:
                    self._adopt(cache, sequence, hits, cached)
                self._share(sequence, cached + chunk)
                used = self._blocks_in_use(1) + sum(self._private_pages(s, c) for s, c in chunks)
                cache.shrink(self._blocks - used)

    def _head_may_shrink(self) -> bool:
        """A waiting job that does not fit may come to need less as its idle hits are evicted: look again at each step."""
        return bool(self._waiting) and not self._reserve

    def _adopt(self, cache: PrefixCache, sequence: Sequence, hits: int, cached: int) -> None:
        """Start a prompt from the leading `hits` blocks that are cached, `cached` tokens."""
        self.prefix_queries += sequence.target
        self.prefix_hits += cached
        sequence.job.cached_tokens = min(cached, sequence.job.prompt_tokens)
        for block in sequence.job.block_hashes[:hits]:
            cache.hold(block)
        sequence.held = hits

    def _prefilled(self, sequence: Sequence, now: float) -> None:
        """The prompt (or, after preemption, all that was known) is computed: one token comes out."""
        job, pages, target = sequence.job, self._pages, sequence.target
        private = target - sequence.held * self.config.prefix_block_tokens if sequence.held else target
        left = job.prompt_tokens + job.output_tokens - target - 1
        if not left:
            self._retire(sequence, -(-private // pages))
            self._end(sequence, job.output_tokens - sequence.emitted, now)
            return
        if not sequence.emitted:
            self._emit(sequence, 1, now)
        steps = self.steps
        sequence.finish_step = finish = steps + left
        sequence.base = base = private - steps
        heappush(self._decoding, (finish, sequence.order, sequence))
        self._context += target
        self._residues[base % pages] += 1
        self._whole_pages += base // pages

    def _finish(self, sequence: Sequence, now: float) -> None:
        """Its last token comes out (already off the heap)."""
        job, base, pages = sequence.job, sequence.base, self._pages
        output = job.output_tokens
        context = job.prompt_tokens + output - 1
        self._context -= context
        self._residues[base % pages] -= 1
        self._whole_pages -= base // pages
        if self._cache is not None:
            self._share(sequence, context)
            private = context - sequence.held * self.config.prefix_block_tokens
            self._retire(sequence, -(-private // pages))
        self._end(sequence, output - sequence.emitted, now)

    def _retire(self, sequence: Sequence, private_pages: int) -> None:
        """It is done, and what it held is free."""
        self._free(sequence, private_pages)

    def _emit(self, sequence: Sequence, produced: int, now: float) -> None:
        """Tokens come out, up to the one that makes it `produced`, not the last."""
        tokens = produced - sequence.emitted
        self._out.append(_new(Emission, (sequence.job.id, now, tokens, False, sequence.started)))
        self.tokens_out += tokens
        sequence.emitted = produced

    def _end(self, sequence: Sequence, tokens: int, now: float) -> None:
        """Its last `tokens` come out."""
        job_id = sequence.job.id
        self._out.append(_new(Emission, (job_id, now, tokens, True, sequence.started)))
        self.tokens_out += tokens
        del self._sequences[job_id]

    def _remove(self, sequence: Sequence) -> int:
        """Take a running sequence out of the batch and free its KV; tokens it had produced."""
        produced = sequence.target - sequence.job.prompt_tokens
        private = sequence.computed - sequence.held * self.config.prefix_block_tokens
        if sequence.finish_step:
            self._decoding.remove((sequence.finish_step, sequence.order, sequence))
            heapify(self._decoding)
            self._leave_batch(sequence)
            produced = sequence.job.output_tokens - (sequence.finish_step - self.steps)
            private = sequence.base + self.steps
        self._free(sequence, -(-private // self._pages))
        sequence.finish_step = 0
        return produced

    def _make_room(self, now: float) -> bool:
        """Preempt, lowest priority and latest first, until the next step fits; whether any was."""
        preempted = False
        while True:
            partial = self._partial
            if self._blocks_in_use(1, partial, self._chunk(partial)) <= self._blocks:
                return preempted
            running = [entry[2] for entry in self._decoding]
            if partial is not None:
                running.append(partial)
            victim = max(running, key=lambda s: (s.job.priority, s.order))
            produced = self._remove(victim)
            if victim is partial:
                self._partial = None
            if self._stream and produced > victim.emitted:
                self._emit(victim, produced, now)
            victim.target = victim.job.prompt_tokens + produced
            victim.computed = victim.landed = 0
            victim.queued = True
            self._enqueue(victim)
            self.preemptions += 1
            preempted = True

    def _stream_until(self, to: float) -> None:
        done = self.steps + self._steps_before(to)
        for finish_step, _, sequence in self._decoding:
            produced = sequence.job.output_tokens - (finish_step - done)
            if produced > sequence.emitted and not sequence.cancelled:
                self._emit(sequence, produced, to)
