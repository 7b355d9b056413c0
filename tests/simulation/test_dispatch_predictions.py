"""What the dispatcher predicts against what simulated engines then do."""

import math
import statistics

import pytest

from autopoiesis.dispatch import learning
from autopoiesis.dispatch.events import Ended
from autopoiesis.dispatch.ticket import Ticket
from autopoiesis.simulator.api import SLO, evaluate
from autopoiesis.simulator.workload import generate

POLICY = """API = 1
def prioritize(request, ctx):
    return request.arrival
def route(request, replicas, ctx):
    return Assign(min(replicas, key=lambda r: (r.predicted_ttft, r.predicted_tpot)).index)
"""
"""Reads both predictions: where no policy does, the second is not made."""


class Witness:
    """Notes predictions as they were corrected at the send, and what was observed, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.first: list[tuple[float, float]] = []
        self.pace: list[tuple[float, float]] = []
        self._first_token, self._ended = learning.first_token, learning.ended
        monkeypatch.setattr(learning, "first_token", self.first_token)
        monkeypatch.setattr(learning, "ended", self.ended)

    def first_token(self, at: float, ticket: Ticket) -> None:
        assert ticket.replica is not None
        factor = ticket.replica.latency.ttft_correction.factor
        self.first.append((ticket.raw_ttft * factor, at - ticket.sent_at))
        self._first_token(at, ticket)

    def ended(self, now: float, ticket: Ticket, event: Ended, tokens: int) -> None:
        assert ticket.replica is not None
        if tokens > 8 and ticket.first_at is not None:
            factor = ticket.replica.latency.tpot_correction.factor
            self.pace.append((ticket.raw_tpot * factor, (now - ticket.first_at) / (tokens - 1)))
        self._ended(now, ticket, event, tokens)


def errors(pairs: list[tuple[float, float]]) -> list[float]:
    """Logarithms of observed ÷ predicted, once something was learned."""
    return [math.log((observed + 1e-3) / (predicted + 1e-3)) for predicted, observed in pairs[200:]]


@pytest.mark.parametrize("routers", [1, 3])
@pytest.mark.parametrize("load", [0.4, 0.9])
def test_predictions_are_unbiased_and_close(
    monkeypatch: pytest.MonkeyPatch, load: float, routers: int
) -> None:
    witness = Witness(monkeypatch)
    trace = generate.poisson(40.0, 180.0, mix=(generate.INTERACTIVE, generate.BATCH), seed=5)
    evaluate(
        POLICY,
        trace,
        "2xH100 + 4xL40S",
        SLO(ttft_s=2.0, tpot_s=0.1),
        loads=(load,),
        routers=routers,
        load_unit="capacity",
    )
    first, pace = errors(witness.first), errors(witness.pace)
    assert len(pace) > 1000
    assert statistics.median(map(abs, first)) < 0.35
    assert statistics.median(map(abs, pace)) < 0.15
    assert math.exp(statistics.mean(first)) == pytest.approx(1.0, abs=0.1)
    assert math.exp(statistics.mean(pace)) == pytest.approx(1.0, abs=0.1)
