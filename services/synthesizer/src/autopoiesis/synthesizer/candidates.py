"""A policy together with what is known of how well it does."""

from dataclasses import dataclass, field
from typing import Self

from autopoiesis.contracts.messages.policy import Kind, Origin, Score
from autopoiesis.policy import library
from autopoiesis.policy.language import policy_hash


@dataclass(frozen=True, slots=True)
class Result:
    """One policy on the open snapshot. `fitness` is relative to the incumbent's (1: equal), higher is better."""

    fitness: float
    scores: tuple[Score, ...] = ()
    breakdown: dict[str, float] = field(default_factory=dict)
    """Dispatch: attainment per class and per GPU type, keyed `class interactive`, `gpu H100`. Plan: the parts of the total time."""
    faults: int = 0
    stage: int = 0
    """How far it came in the successive halving; only results of the last stage are comparable with the incumbent."""
    artifact: str = ""
    """What happened, for the next prompt: a table, an explanation."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A verified policy with its result, none while it is not scored on the snapshot at hand."""

    hash: str
    source: str
    kind: Kind
    origin: Origin
    parents: tuple[str, ...] = ()
    title: str = ""
    """Library name, or what was changed."""
    result: Result | None = None
    feedback: str = ""
    """The evaluator's last word on it, empty if it never spoke."""

    @classmethod
    def of(cls, source: str, kind: Kind, title: str, origin: Origin = "library") -> Self:
        """A text by its hash, not scored yet. Raises PolicyError for one that does not verify."""
        return cls(policy_hash(source, kind), source, kind, origin, title=title)

    @property
    def fitness(self) -> float:
        """-inf while not scored."""
        return self.result.fitness if self.result else float("-inf")


def preference(policy: Scored) -> tuple[float, int, str]:
    """Sort key, best first; among equals the shorter text."""
    return -round(policy.fitness, 4), len(policy.source), policy.hash


def shipped(kind: Kind) -> list[Scored]:
    """The policies we ship."""
    return [Scored.of(library.source(name), kind, name) for name in library.names(kind)]
