from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from autopoiesis.store.models.base import Base, Created, Id


class Completion(Base):
    """One call of a language model: what was sent, what came back, what it cost."""

    __tablename__ = "completions"
    __table_args__ = (
        Index(None, "cycle"),
        Index(None, "scope", "kind", "created"),
    )

    id: Mapped[Id]
    scope: Mapped[str]
    kind: Mapped[str]
    cycle: Mapped[str]
    model: Mapped[str]
    prompt_hash: Mapped[str]
    prompt: Mapped[str]
    completion: Mapped[str] = mapped_column(default="")
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    completion_tokens: Mapped[int] = mapped_column(default=0)
    cost: Mapped[float] = mapped_column(default=0.0)
    """Money, in the currency of the configured prices."""
    duration_s: Mapped[float] = mapped_column(default=0.0)
    candidate: Mapped[str] = mapped_column(default="")
    """Hash of the policy made of it; empty if none came of it."""
    error: Mapped[str] = mapped_column(default="")
    created: Mapped[Created]


class ArchiveEntry(Base):
    """A parent worth keeping: one policy of one (scope, kind), its score and where it lies in feature space."""

    __tablename__ = "archive"
    __table_args__ = (Index(None, "scope", "kind", "score"),)

    scope: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(ForeignKey("policies.hash"), primary_key=True)
    score: Mapped[float]
    cell: Mapped[str] = mapped_column(default="")
    """The niche it competes in."""
    features: Mapped[dict[str, Any]] = mapped_column(default=dict)
    snapshot: Mapped[str] = mapped_column(default="")
    simulator: Mapped[str] = mapped_column(default="")
    """Scores of different snapshots or simulator versions are not comparable."""
    created: Mapped[Created]
