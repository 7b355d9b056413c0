"""What the synthesizer counts, for dashboards and alarms; every single call and candidate is a row in Postgres."""

from opentelemetry import metrics

from autopoiesis.contracts.messages.policy import Kind
from autopoiesis.synthesizer.budget import Budget
from autopoiesis.synthesizer.proposers.llm import Call

_meter = metrics.get_meter("autopoiesis.synthesizer")
_cycle_s = _meter.create_histogram(
    "autopoiesis.synthesizer.cycle.duration", unit="s", description="Snapshot to last proposal"
)
_candidates = _meter.create_counter(
    "autopoiesis.synthesizer.candidates", description="Policies that were scored"
)
_proposed = _meter.create_counter(
    "autopoiesis.synthesizer.proposed", description="Candidates handed to the evaluator"
)
_calls = _meter.create_counter(
    "autopoiesis.synthesizer.llm.calls", description="Calls of the language model, by what came of them"
)
_tokens = _meter.create_counter("autopoiesis.synthesizer.llm.tokens", description="Tokens of answered calls")
_cost = _meter.create_counter(
    "autopoiesis.synthesizer.llm.cost", description="Money, by the configured prices"
)


def called(call: Call) -> None:
    """One call of the language model; `outcome` is `policy`, `unusable` (an answer, but no policy) or `failed`."""
    outcome = "failed" if call.answer is None else "policy" if call.candidate else "unusable"
    _calls.add(1, {"outcome": outcome})
    if call.answer is not None:
        _tokens.add(call.answer.prompt_tokens, {"direction": "prompt"})
        _tokens.add(call.answer.completion_tokens, {"direction": "completion"})
        _cost.add(call.answer.cost)


def proposed(kind: Kind, origin: str) -> None:
    _proposed.add(1, {"kind": kind, "origin": origin})


def ended(kind: Kind, budget: Budget) -> None:
    """One cycle, and what it spent."""
    _cycle_s.record(budget.elapsed_s, {"kind": kind})
    _candidates.add(budget.candidates, {"kind": kind})
