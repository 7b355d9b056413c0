"""What a load run measured at the client."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from autopoiesis.contracts.slo import Objectives, met

Outcome = Literal["finished", "rejected", "failed"]
"""rejected: answered 429, nothing was generated. failed: anything else that is not a whole answer."""


@dataclass(slots=True, kw_only=True)
class Record:
    """One request as its client saw it. Times are seconds since the run's start; latencies count from the due time, so that
    a late generator cannot flatter the server.
    """

    index: int
    klass: str
    session: str
    due_s: float
    sent_s: float
    prompt_tokens: int
    """The server's count, the trace's where it gave none."""
    first_token_s: float | None = None
    last_token_s: float | None = None
    end_s: float = 0.0
    output_tokens: int = 0
    status: int = 0
    """HTTP status, 0 where there was no answer."""
    outcome: Outcome = "failed"
    error: str = ""
    scored: bool = True
    """False during warm-up."""

    @property
    def late_s(self) -> float:
        """How much later than due the request was sent."""
        return self.sent_s - self.due_s

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_token_s is None else self.first_token_s - self.due_s

    @property
    def tpot_s(self) -> float | None:
        """Mean seconds per output token after the first, none with fewer than two."""
        if self.first_token_s is None or self.last_token_s is None or self.output_tokens < 2:
            return None
        return (self.last_token_s - self.first_token_s) / (self.output_tokens - 1)

    @property
    def e2e_s(self) -> float:
        return self.end_s - self.due_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Seconds; NaN where there were none."""

    p50: float
    p95: float
    p99: float
    mean: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Latencies":
        ordered = sorted(values)
        if not ordered:
            return cls(p50=math.nan, p95=math.nan, p99=math.nan, mean=math.nan)
        p50, p95, p99 = (quantile(ordered, q) for q in (0.50, 0.95, 0.99))
        return cls(p50=p50, p95=p95, p99=p99, mean=math.fsum(ordered) / len(ordered))


def quantile(ordered: Sequence[float], q: float) -> float:
    """The `q` quantile of sorted values, interpolated linearly between neighbours."""
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Scored requests of one class, or of all. Attainment is over all of them: a rejected or failed request is a miss."""

    klass: str
    requests: int
    finished: int
    rejected: int
    failed: int
    met: int
    attainment: float
    """Share of arrivals that met their SLO; NaN without arrivals."""
    goodput_rps: float
    """Requests per second that met their SLO."""
    output_tokens_per_s: float
    ttft: Latencies
    tpot: Latencies
    e2e: Latencies


@dataclass(kw_only=True)
class LoadResult:
    """Everything a run saw. `window_s` is the time over which scored requests were due."""

    url: str
    model: str
    objectives: Objectives
    window_s: float
    records: list[Record] = field(repr=False)

    @cached_property
    def scored(self) -> list[Record]:
        return [record for record in self.records if record.scored]

    @cached_property
    def overall(self) -> Summary:
        return self._summary("all", self.scored)

    @cached_property
    def classes(self) -> dict[str, Summary]:
        names = sorted(
            {record.klass for record in self.scored},
            key=lambda name: (self.objectives.of(name).priority, name),
        )
        return {name: self._summary(name, [r for r in self.scored if r.klass == name]) for name in names}

    @property
    def goodput(self) -> float:
        """Share of scored arrivals that met their SLO."""
        return self.overall.attainment

    @property
    def rejected(self) -> int:
        """Over the whole run, warm-up included."""
        return sum(record.outcome == "rejected" for record in self.records)

    @property
    def failed(self) -> int:
        """Over the whole run, warm-up included."""
        return sum(record.outcome == "failed" for record in self.records)

    @property
    def lateness(self) -> Latencies:
        """How late the generator itself was."""
        return Latencies.of(record.late_s for record in self.records)

    def meets(self, record: Record) -> bool:
        slo = self.objectives.of(record.klass)
        finished = record.outcome == "finished"
        return met(
            record.ttft_s, record.tpot_s, ttft_slo_s=slo.ttft_s, tpot_slo_s=slo.tpot_s, finished=finished
        )

    def errors(self) -> dict[str, int]:
        """How often each error of a failed or rejected request was seen, most frequent first."""
        counts: dict[str, int] = {}
        for record in self.records:
            if record.outcome != "finished":
                counts[record.error] = counts.get(record.error, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def to_dict(self, *, records: bool = False) -> dict[str, Any]:
        """Plain JSON values, NaN as None; with `records` also every request."""
        plain: dict[str, Any] = {
            "url": self.url,
            "model": self.model,
            "window_s": self.window_s,
            "sent": len(self.records),
            "rejected": self.rejected,
            "failed": self.failed,
            "lateness": asdict(self.lateness),
            "overall": asdict(self.overall),
            "classes": {name: asdict(summary) for name, summary in self.classes.items()},
            "errors": self.errors(),
        }
        if records:
            plain["records"] = [asdict(record) for record in self.records]
        result: dict[str, Any] = _finite(plain)
        return result

    def _summary(self, klass: str, records: list[Record]) -> Summary:
        good = sum(map(self.meets, records))
        outcomes = [record.outcome for record in records]
        finished = [record for record in records if record.outcome == "finished"]
        window = max(self.window_s, 1e-9)
        return Summary(
            klass=klass,
            requests=len(records),
            finished=len(finished),
            rejected=outcomes.count("rejected"),
            failed=outcomes.count("failed"),
            met=good,
            attainment=good / len(records) if records else math.nan,
            goodput_rps=good / window,
            output_tokens_per_s=sum(record.output_tokens for record in records) / window,
            ttft=_latencies(finished, lambda record: record.ttft_s),
            tpot=_latencies(finished, lambda record: record.tpot_s),
            e2e=_latencies(finished, lambda record: record.e2e_s),
        )


def _latencies(records: list[Record], measure: Callable[[Record], float | None]) -> Latencies:
    return Latencies.of(value for value in map(measure, records) if value is not None)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
