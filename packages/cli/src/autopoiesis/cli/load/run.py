"""Sends a trace's requests when they are due, whatever the server does, and measures at the client.

Open loop: a slow server gets no fewer requests. Latencies count from the moment a request was due, so neither a full
`concurrency_limit` nor a late generator hides waiting.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from autopoiesis.cli.load.answer import Answer
from autopoiesis.cli.load.http import Client, ExchangeError, Origin, header_lines
from autopoiesis.cli.load.plan import Lengths, Planned, plan
from autopoiesis.cli.load.prompts import text
from autopoiesis.cli.load.result import LoadResult, Record
from autopoiesis.contracts.slo import STANDARD, Objectives
from autopoiesis.simulator.workload import Trace

PROGRESS_INTERVAL_S: Final = 0.25

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; `elapsed_s` since its start."""

    total: int
    sent: int
    ended: int
    failed: int
    """Rejected ones included."""
    elapsed_s: float


async def run_load(
    url: str,
    trace: Trace,
    *,
    model: str,
    classes: Objectives = STANDARD,
    api_key: str = "",
    timeout: float = 300.0,
    concurrency_limit: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    lengths: Lengths = "simulate",
    seed: int = 0,
    warmup_s: float = 0.0,
    stretch: tuple[float, float] | None = None,
    stop: asyncio.Event | None = None,
) -> LoadResult:
    """Replay `trace` against the OpenAI-compatible server at `url`, streaming, and wait for every answer.

    `stretch` (start and end on the trace's clock, s) replays only that part of it; what is due in the first `warmup_s` of it
    is sent but not scored. `lengths`: `simulate` tells simulated engines the true output length in an engine extra that
    routers do not read; `pin` makes real engines keep to it (`max_tokens` and `ignore_eos`). `timeout` bounds each request
    from its sending (s). Once `stop` is set nothing more is sent. Raises `ValueError` for a malformed `url` or an empty stretch; failures of requests are records.
    """
    origin = Origin.parse(url)
    planned, window_s = plan(trace, stretch=stretch)
    run = _Run(
        Client(origin, {"Authorization": f"Bearer {api_key}"} if api_key else {}),
        _Bodies(model, lengths, seed, planned),
        timeout=timeout,
        slots=asyncio.Semaphore(concurrency_limit) if concurrency_limit else None,
        warmup_s=warmup_s,
        stop=stop or asyncio.Event(),
    )
    try:
        records = await run.all(planned, progress)
    finally:
        run.client.close()
    for record in records:
        record.klass = record.klass or classes.default
    return LoadResult(
        url=str(origin),
        model=model,
        objectives=classes,
        window_s=max(0.0, min(window_s, run.sent_for_s) - warmup_s),
        records=records,
    )


class _Bodies:
    """Request bodies; the same trace and seed give the same bytes."""

    def __init__(self, model: str, lengths: Lengths, seed: int, planned: list[Planned]) -> None:
        self._model = model
        self._lengths = lengths
        self._seed = seed
        longest = max(item.output_tokens for item in planned)
        self._limit = 1 << max(8, math.ceil(math.log2(longest)))
        """One `max_tokens` for all where lengths are simulated: it tells a router nothing about any single request."""

    def build(self, item: Planned) -> bytes:
        prompt = "".join(text(name, size, self._seed) for name, size in item.prompt)
        body: dict[str, object] = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._lengths == "simulate":
            body |= {"max_tokens": self._limit, "simulate": {"output_tokens": item.output_tokens}}
        else:
            body |= {"max_tokens": item.output_tokens, "ignore_eos": True}
        return _encode(body)


class _Run:
    """One run in progress. Measures with the monotonic clock; an event loop's own may be coarser."""

    def __init__(
        self,
        client: Client,
        bodies: _Bodies,
        *,
        timeout: float,
        slots: asyncio.Semaphore | None,
        warmup_s: float,
        stop: asyncio.Event,
    ) -> None:
        self.client = client
        self._bodies = bodies
        self._timeout = timeout
        self._slots = slots
        self._warmup_s = warmup_s
        self._stop = stop
        self.sent_for_s = math.inf
        """Seconds until `stop` was seen."""
        self._start = time.monotonic()
        self._records: list[Record] = []
        self._children: dict[int, list[Planned]] = {}
        self._ended = 0
        self._failed = 0

    @property
    def _now(self) -> float:
        return time.monotonic() - self._start

    async def all(self, planned: list[Planned], progress: Callable[[Progress], None] | None) -> list[Record]:
        for item in planned:
            if item.parent >= 0:
                self._children.setdefault(item.parent, []).append(item)
        async with asyncio.TaskGroup() as group:
            ticker = group.create_task(self._tick(len(planned), progress)) if progress else None
            async with asyncio.TaskGroup() as requests:
                for item in planned:
                    if item.parent < 0:
                        await _sleep_until(self._start + item.due_s)
                        if self._stop.is_set():
                            self.sent_for_s = self._now
                            break
                        requests.create_task(self._one(item, item.due_s, requests))
            if ticker is not None and progress is not None:
                ticker.cancel()
                progress(self._progress(len(planned)))
        return sorted(self._records, key=lambda record: record.index)

    async def _tick(self, total: int, progress: Callable[[Progress], None]) -> None:
        while True:
            progress(self._progress(total))
            await asyncio.sleep(PROGRESS_INTERVAL_S)

    def _progress(self, total: int) -> Progress:
        return Progress(total, len(self._records), self._ended, self._failed, self._now)

    async def _one(self, item: Planned, due_s: float, requests: asyncio.TaskGroup) -> None:
        if self._slots is None:
            await self._send(item, due_s)
        else:
            async with self._slots:
                await self._send(item, due_s)
        for child in self._children.get(item.index, ()):
            requests.create_task(self._follow_up(child, self._now + child.think_s, requests))

    async def _follow_up(self, item: Planned, due_s: float, requests: asyncio.TaskGroup) -> None:
        await _sleep_until(self._start + due_s)
        if not self._stop.is_set():
            await self._one(item, due_s, requests)

    async def _send(self, item: Planned, due_s: float) -> None:
        record = Record(
            index=item.index,
            klass=item.klass,
            session=item.session,
            due_s=due_s,
            sent_s=self._now,
            prompt_tokens=item.prompt_tokens,
            scored=due_s >= self._warmup_s,
        )
        self._records.append(record)
        answer = Answer()
        try:
            async with asyncio.timeout(self._timeout):
                await self.client.post(
                    "/chat/completions",
                    header_lines(_headers(item)),
                    self._bodies.build(item),
                    answer.on_body,
                    answer.on_status,
                )
            answer.close()
        except TimeoutError:
            record.error = f"no whole answer within {self._timeout:g} s"
        except (ExchangeError, OSError) as error:
            record.error = str(error) or type(error).__name__
        self._conclude(record, answer)

    def _conclude(self, record: Record, answer: Answer) -> None:
        record.end_s = self._now
        record.status = answer.status
        record.output_tokens = answer.output_tokens
        record.prompt_tokens = answer.prompt_tokens or record.prompt_tokens
        if answer.first_token_at is not None and answer.last_token_at is not None:
            record.first_token_s = answer.first_token_at - self._start
            record.last_token_s = answer.last_token_at - self._start
        if answer.finished and not record.error:
            record.outcome = "finished"
        else:
            record.outcome = "rejected" if answer.status == 429 else "failed"
            record.error = record.error or answer.error or "the stream ended before its end was announced"
            self._failed += 1
        self._ended += 1


async def _sleep_until(at: float) -> None:
    """`at` on the monotonic clock."""
    delay = at - time.monotonic()
    if delay > 0:
        await asyncio.sleep(delay)


def _headers(item: Planned) -> Mapping[str, str]:
    headers = {}
    if item.klass:
        headers["x-slo-class"] = item.klass
    if item.session:
        headers["x-session-id"] = item.session
    return headers
