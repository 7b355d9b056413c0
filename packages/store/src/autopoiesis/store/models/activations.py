from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Sequence
from sqlalchemy.orm import Mapped, mapped_column

from autopoiesis.store.models.base import SCHEMA, Base, Created

EPOCHS = Sequence("epochs", schema=SCHEMA, metadata=Base.metadata)
"""The one order of all activations."""


class Activation(Base):
    """Append-only history: at this epoch, this policy came into force."""

    __tablename__ = "activations"
    __table_args__ = (Index(None, "scope", "kind", "epoch"),)

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    scope: Mapped[str]
    kind: Mapped[str]
    hash: Mapped[str] = mapped_column(ForeignKey("policies.hash"))
    rollback: Mapped[bool] = mapped_column(default=False)
    replaces: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("activations.epoch"))
    """Epoch in force until then, none at the first."""
    falls_back_to: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("activations.epoch"))
    """Epoch whose policy a rollback would restore; rollbacks walk down this chain and never up again."""
    evaluation: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("evaluations.id"))
    """The judgement it rests on, none for operators' actions."""
    cause: Mapped[str]
    created: Mapped[Created]


class Active(Base):
    """What is in force: one row per (scope, kind), moved by compare-and-set only."""

    __tablename__ = "active"

    scope: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("activations.epoch"))


class Control(Base):
    """An operator's word on the mode of a scope; it overrides the settings."""

    __tablename__ = "control"
    __table_args__ = (CheckConstraint("mode IN ('off', 'advise', 'auto', 'paused')", name="mode"),)

    scope: Mapped[str] = mapped_column(primary_key=True)
    """`*` for every scope without a row of its own."""
    mode: Mapped[str]
    cause: Mapped[str] = mapped_column(default="")
    changed: Mapped[Created]
