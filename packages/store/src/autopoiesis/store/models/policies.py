from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from autopoiesis.store.models.base import Base, Created, Id


class Policy(Base):
    """One program, named by the hash of its linked source and API version."""

    __tablename__ = "policies"
    __table_args__ = (CheckConstraint("kind IN ('dispatch', 'plan')", name="kind"),)

    hash: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    api: Mapped[int]
    source: Mapped[str]
    origin: Mapped[str]
    """library, llm, mutator, archive or operator: how it first came here."""
    parents: Mapped[list[str]] = mapped_column(default=list)
    title: Mapped[str] = mapped_column(default="")
    created: Mapped[Created]


class Evaluation(Base):
    """The judgement of one candidate on one snapshot by one simulator version, against what was in force then."""

    __tablename__ = "evaluations"
    __table_args__ = (
        UniqueConstraint("candidate", "snapshot", "simulator"),
        Index(None, "scope", "kind", "created"),
        Index(None, "sealed", "gate"),
        CheckConstraint("verdict IN ('promote', 'advise', 'reject')", name="verdict"),
    )

    id: Mapped[Id]
    scope: Mapped[str]
    kind: Mapped[str]
    candidate: Mapped[str]
    snapshot: Mapped[str]
    sealed: Mapped[str]
    simulator: Mapped[str]
    incumbent: Mapped[str]
    cycle: Mapped[str] = mapped_column(default="")
    verdict: Mapped[str]
    gate: Mapped[str]
    """The last gate it came to."""
    reason: Mapped[str]
    gain: Mapped[float]
    gain_low: Mapped[float]
    gain_high: Mapped[float]
    seed: Mapped[int] = mapped_column(BigInteger, default=0)
    """Of the replays, so that the judgement can be computed again."""
    judgement: Mapped[dict[str, Any]]
    """The whole `policy.Judgement` message."""
    created: Mapped[Created]
