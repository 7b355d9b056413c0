"""What an engine's batch holds: its sequences, their KV pages, and the blocks they share.

The pages of the decoding sequences are known at any step without looking at each: a context is `base + steps`, so whole pages and
a histogram of `base` modulo the page size tell them all.
"""

from __future__ import annotations

from autopoiesis.simulator.engine import EngineConfig, Job
from autopoiesis.simulator.prefix import PrefixCache


class Sequence:
    """A job in the engine.

    While it decodes, its context is `base + steps`, and it emits its last token at the end of step `finish_step`.
    """

    __slots__ = (
        "base",
        "cancelled",
        "computed",
        "emitted",
        "finish_step",
        "held",
        "job",
        "landed",
        "order",
        "queued",
        "started",
        "target",
    )

    def __init__(self, job: Job, order: int) -> None:
        produced = job.produced
        self.job = job
        self.order = order
        self.target = job.prompt_tokens + produced
        """Tokens to compute before it can decode."""
        self.landed = self.target - 1 if produced else 0
        """Tokens whose KV cache comes with the job."""
        self.emitted = produced
        self.computed = 0
        self.held = 0
        self.base = 0
        self.finish_step = 0
        self.started = 0.0
        self.queued = True
        self.cancelled = False


class Batch:
    """Counts of one engine's batch: pages and tokens. The scheduling is `Replica`'s."""

    __slots__ = (
        "_blocks",
        "_cache",
        "_chunks",
        "_context",
        "_decoding",
        "_pages",
        "_residues",
        "_whole_pages",
        "config",
        "steps",
    )

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.steps = 0
        self._pages = config.block_tokens
        self._blocks = config.kv_blocks
        unit = config.prefix_block_tokens // self._pages
        self._cache = PrefixCache(unit) if unit else None
        self._clear()

    def _clear(self) -> None:
        self._decoding: list[tuple[int, int, Sequence]] = []
        """A heap of (finish step, order, sequence)."""
        self._chunks: list[tuple[Sequence, int]] = []
        """Prompts in this run and their tokens per step."""
        self._context = 0
        self._residues = [0] * self._pages
        self._whole_pages = 0
        if self._cache is not None:
            self._cache = PrefixCache(self._cache.unit)

    def _leave_batch(self, sequence: Sequence) -> None:
        self._context -= sequence.base + sequence.held * self.config.prefix_block_tokens + self.steps
        self._residues[sequence.base % self._pages] -= 1
        self._whole_pages -= sequence.base // self._pages

    def _decode_pages(self, steps: int) -> int:
        """Pages of the decoding sequences, shared ones apart, `steps` steps from now."""
        whole, rest = divmod(self.steps + steps, self._pages)
        residues = self._residues
        used = self._whole_pages + len(self._decoding) * (whole + 1)
        return used + sum(residues[self._pages - rest + 1 :]) if rest else used - residues[0]

    def _private_pages(self, sequence: Sequence, chunk: int) -> int:
        tokens = sequence.computed + chunk - sequence.held * self.config.prefix_block_tokens
        return -(-tokens // self._pages) if tokens > 0 else 0

    def _blocks_in_use(self, steps: int, partial: Sequence | None = None, chunk: int = 0) -> int:
        """Pages held `steps` steps from now by the decoding, the current chunks, and `partial` after `chunk` more tokens."""
        used = self._decode_pages(steps)
        for sequence, size in self._chunks:
            used += self._private_pages(sequence, size * steps)
        if partial is not None:
            used += self._private_pages(partial, chunk)
        return used if self._cache is None else used + self._cache.held_blocks

    def _fitting(self, run: int, chunks: list[tuple[Sequence, int]]) -> int:
        """The most steps, at most `run` and at least 1, whose KV fits."""
        decoding = len(self._decoding)
        bound = (self._context + run * decoding) // self._pages + decoding
        for sequence, chunk in chunks:
            bound += -(-(sequence.computed + run * chunk) // self._pages)
        if self._cache is not None:
            bound += self._cache.held_blocks
        if bound <= self._blocks or self._blocks_in_use(run) <= self._blocks:
            return run
        low, high = 1, run
        while high - low > 1:
            middle = (low + high) // 2
            if self._blocks_in_use(middle) <= self._blocks:
                low = middle
            else:
                high = middle
        return low

    def _share(self, sequence: Sequence, computed: int) -> None:
        """Make the blocks of the first `computed` tokens that have hashes known to others."""
        if self._cache is None:
            return
        hashes = sequence.job.block_hashes
        full = min(computed // self.config.prefix_block_tokens, len(hashes))
        for block in hashes[sequence.held : full]:
            self._cache.hold(block)
        sequence.held = max(sequence.held, full)

    def _meets_cached(self, sequence: Sequence) -> bool:
        """Some block that this prefill will compute is cached already: step by step then, adopting it changes the room."""
        cache = self._cache
        return cache is not None and any(
            block in cache for block in sequence.job.block_hashes[sequence.held :]
        )

    def _match(self, sequence: Sequence) -> tuple[int, int]:
        if self._cache is None or not sequence.job.block_hashes:
            return 0, 0
        return self._cache.match(
            sequence.job.block_hashes, (sequence.target - 1) // self.config.prefix_block_tokens
        )

    def _free(self, sequence: Sequence, private_pages: int) -> None:
        if self._cache is not None:
            self._cache.release(sequence.job.block_hashes[: sequence.held], private_pages)
            sequence.held = 0
