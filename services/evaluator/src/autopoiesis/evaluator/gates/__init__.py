"""What a candidate must pass, in order; README.md says how to add one."""

from autopoiesis.evaluator.gates.base import Gate
from autopoiesis.evaluator.gates.decision import Decision
from autopoiesis.evaluator.gates.holddown import HoldDown
from autopoiesis.evaluator.gates.planned import Planned
from autopoiesis.evaluator.gates.properties import Properties
from autopoiesis.evaluator.gates.selection import Selection
from autopoiesis.evaluator.gates.verification import Verification
from autopoiesis.evaluator.replays import Replays
from autopoiesis.evaluator.settings import EvaluatorSettings
from autopoiesis.policy.jail import Jail
from autopoiesis.store import Store

__all__ = ["Gate", "gates"]


def gates(store: Store, jail: Jail, replays: Replays, settings: EvaluatorSettings) -> tuple[Gate, ...]:
    """All gates, the cheapest first."""
    return (
        Verification(),
        HoldDown(store),
        Planned(replays),
        Properties(jail, replays),
        Selection(replays),
        Decision(store, replays, settings),
    )
