"""Prometheus metrics of one router. Names follow OpenTelemetry's GenAI conventions where those say anything.

Counted with prometheus_client directly: a histogram of the OpenTelemetry SDK costs ten times as much per value, and
several are on the path of every request.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from autopoiesis.contracts.messages.telemetry import Outcome, RequestRecord
from autopoiesis.dispatch.events import Fault, Swapped
from autopoiesis.router.histogram import Histogram, Series
from autopoiesis.router.listening import Result

_DURATION: Final = tuple(0.01 * 2**n for n in range(14))
_FIRST: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_PACE: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_DECISION: Final = tuple(5e-6 * 2**n for n in range(14))
_FUEL: Final = tuple(float(2**n) for n in range(4, 20, 2))
_LABELS: Final = ("gen_ai_operation_name", "gen_ai_request_model", "slo_class")


class State(NamedTuple):
    """What gauges show, read when scraped."""

    in_flight: int
    epoch: int
    quarantined: bool
    connected: bool
    queues: dict[str, int]
    """Requests held, by model."""
    replicas: Iterable[tuple[str, str]]
    """(model, state) of each known replica."""
    telemetry_waiting: int
    telemetry_dropped: int


class _Series(NamedTuple):
    """What one request counts into; finding them by labels costs more than counting."""

    requests: Counter
    e2e: Series
    first: Series
    pace: Series


class Metrics:
    """Registers in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._requests = Counter(
            "autopoiesis_router_requests", "Arrivals by outcome", (*_LABELS, "outcome"), registry=registry
        )
        self._invalid = Counter(
            "autopoiesis_router_invalid_requests",
            "Bodies that were refused before they became a request",
            ("status",),
            registry=registry,
        )
        self._e2e = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Arrival to end",
            _LABELS,
            bounds=_DURATION,
            registry=registry,
        )
        self._first = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Arrival to first token",
            _LABELS,
            bounds=_FIRST,
            registry=registry,
        )
        self._pace = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean per token after the first",
            _LABELS,
            bounds=_PACE,
            registry=registry,
        )
        self._decision = Histogram(
            "autopoiesis_router_decision_seconds",
            "Dispatcher time per arrival",
            bounds=_DECISION,
            registry=registry,
        ).labels()
        self._fuel = Histogram(
            "autopoiesis_router_policy_fuel", "Fuel per request", bounds=_FUEL, registry=registry
        ).labels()
        self._faults = Counter(
            "autopoiesis_router_policy_faults", "Decisions taken by the fallback", registry=registry
        )
        self._resumes = Counter(
            "autopoiesis_router_resumed_streams",
            "Streams that went on at another replica after theirs had failed",
            registry=registry,
        )
        self._hedges = Counter(
            "autopoiesis_router_hedges",
            "Second attempts of requests whose first token was late, by what became of them: won, lost, unsent",
            ("result",),
            registry=registry,
        )
        self._swaps = Counter(
            "autopoiesis_router_policy_swaps", "Activations by result", ("result",), registry=registry
        )
        ProcessCollector(registry=registry)
        self._registry = registry
        self._series: dict[tuple[str, str, str, Outcome], _Series] = {}

    def show(self, state: Callable[[], State]) -> None:
        """Gauges from now on; `state` is called at each scrape."""
        self._registry.register(_Gauges(state))

    def invalid(self, status: int) -> None:
        self._invalid.labels(str(int(status))).inc()

    def decided(self, seconds: float) -> None:
        self._decision.observe(seconds)

    def resumed(self) -> None:
        self._resumes.inc()

    def hedged(self, result: Result) -> None:
        self._hedges.labels(result).inc()

    def ended(self, operation: str, record: RequestRecord) -> None:
        """`operation`: OpenTelemetry's name for what was asked."""
        labels = (operation, record.model, record.klass, record.outcome)
        series = self._series.get(labels) or self._make_series(labels)
        series.requests.inc()
        series.e2e.observe(record.e2e_s)
        if record.ttft_s is not None:
            series.first.observe(record.ttft_s)
            if record.tpot_s is not None:
                series.pace.observe(record.tpot_s)
        if record.fuel:
            self._fuel.observe(record.fuel)

    def _make_series(self, key: tuple[str, str, str, Outcome]) -> _Series:
        *labels, outcome = key
        series = self._series[key] = _Series(
            self._requests.labels(*labels, outcome),
            self._e2e.labels(*labels),
            self._first.labels(*labels),
            self._pace.labels(*labels),
        )
        return series

    def fault(self, fault: Fault) -> None:
        self._faults.inc()

    def swapped(self, swapped: Swapped) -> None:
        self._swaps.labels("refused" if swapped.refused else "applied").inc()


class _Gauges(Collector):
    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        for name, about, value in (
            ("in_flight", "Requests that have not ended", state.in_flight),
            ("policy_epoch", "Epoch in force, 0 for a policy given locally", state.epoch),
            ("policy_quarantined", "1 while the fallback decides instead", int(state.quarantined)),
            ("bus_connected", "1 while the bus is connected", int(state.connected)),
            ("telemetry_waiting", "Records not yet stored", state.telemetry_waiting),
            ("telemetry_dropped", "Records dropped because the buffer was full", state.telemetry_dropped),
        ):
            yield GaugeMetricFamily(f"autopoiesis_router_{name}", about, value=value)
        queues = GaugeMetricFamily("autopoiesis_router_queue_length", "Requests held", labels=["model"])
        for model, length in sorted(state.queues.items()):
            queues.add_metric([model], length)
        yield queues
        replicas = GaugeMetricFamily(
            "autopoiesis_router_replicas", "Known replicas", labels=["model", "state"]
        )
        for key, count in sorted(Tally(state.replicas).items()):
            replicas.add_metric(list(key), count)
        yield replicas
