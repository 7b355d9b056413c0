"""What the evaluator counts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import metrics

from autopoiesis.contracts.messages.policy import Judgement


class Metrics:
    """Counters and histograms of this process; without a configured meter they cost nothing."""

    def __init__(self) -> None:
        meter = metrics.get_meter("autopoiesis.evaluator")
        self._judgements = meter.create_counter(
            "autopoiesis.evaluator.judgements", description="Candidates judged, by verdict"
        )
        self._gates = meter.create_histogram(
            "autopoiesis.evaluator.gate.duration", unit="s", description="Time a candidate spends in one gate"
        )

    def judged(self, judgement: Judgement) -> None:
        self._judgements.add(1, {"verdict": judgement.verdict, "kind": judgement.kind})

    @contextmanager
    def timed(self, gate: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._gates.record(time.perf_counter() - start, {"gate": gate})
