from typing import Any

from sqlalchemy import BigInteger, Index, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from autopoiesis.store.models.base import SEALED, Base, Created, Id


class Snapshot(Base):
    """The open half of a window of trace: a file named by its hash, readable by everybody."""

    __tablename__ = "snapshots"
    __table_args__ = (Index(None, "scope", "created"),)

    hash: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str]
    path: Mapped[str]
    start_unix_s: Mapped[float]
    cut_unix_s: Mapped[float]
    """Where the open half ends and the sealed one begins."""
    end_unix_s: Mapped[float]
    arrivals: Mapped[int]
    sealed_hash: Mapped[str] = mapped_column(default="")
    """Empty if the window has no sealed half."""
    sealed_arrivals: Mapped[int] = mapped_column(default=0)
    cause: Mapped[str] = mapped_column(default="")
    created: Mapped[Created]


class SealedSnapshot(Base):
    """The later half of a window: its bytes are here, and only the evaluator's role may read them."""

    __tablename__ = "snapshots"
    __table_args__ = (Index(None, "scope", "created"), {"schema": SEALED})

    hash: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str]
    arrivals: Mapped[int]
    data: Mapped[bytes] = mapped_column(LargeBinary)
    created: Mapped[Created]


class Segment(Base):
    """Index entry of one telemetry file."""

    __tablename__ = "segments"
    __table_args__ = (Index(None, "scope", "content", "end_unix_s"),)

    id: Mapped[Id]
    scope: Mapped[str]
    content: Mapped[str]
    """`requests`, `steps` or `fleet`."""
    path: Mapped[str] = mapped_column(unique=True)
    hash: Mapped[str] = mapped_column(default="")
    start_unix_s: Mapped[float]
    end_unix_s: Mapped[float]
    rows: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """The observer's own notes: the batches inside, stream positions."""
    created: Mapped[Created]
