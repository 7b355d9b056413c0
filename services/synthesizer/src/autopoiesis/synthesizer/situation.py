"""What the open snapshot says of workload, fleet and objectives, in figures only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Situation:
    """Lines of text, made of statistics: no request content, no identities, nothing sealed."""

    workload: Sequence[str] = ()
    fleet: Sequence[str] = ()
    objectives: Sequence[str] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    def text(self) -> str:
        parts = (
            ("Workload seen", self.workload),
            ("Fleet", self.fleet),
            ("Objectives per class", self.objectives),
        )
        return "\n".join(
            f"{name}:\n" + "\n".join(f"- {line}" for line in lines) for name, lines in parts if lines
        )
