"""What a proposer is given and what it returns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from autopoiesis.contracts.messages.policy import Kind, Origin
from autopoiesis.synthesizer.candidates import Scored
from autopoiesis.synthesizer.situation import Situation


@dataclass(frozen=True, slots=True)
class Draft:
    """Source text that somebody proposes. It may be invalid: verification is the cycle's."""

    source: str
    origin: Origin
    parents: tuple[str, ...] = ()
    note: str = ""
    """What was changed, in words."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to improve on, and what is known."""

    scope: str
    kind: Kind
    incumbent: Scored
    parents: Sequence[Scored]
    """Chosen by the archive, the best chance first; never empty."""
    best: Scored
    inspirations: Sequence[Scored] = ()
    """Elites of other cells, to borrow ideas from."""
    tried: Sequence[Scored] = ()
    """Newest last."""
    failures: Sequence[str] = ()
    """Why the last attempts failed: verifier reports and verdicts."""
    situation: Situation = field(default_factory=Situation)
    seed: int = 0


class Proposer(Protocol):
    """A source of candidates."""

    name: str

    async def propose(self, task: Task, count: int) -> Sequence[Draft]:
        """Up to `count` drafts; fewer where the budget or ideas end, none where it has nothing to say."""
