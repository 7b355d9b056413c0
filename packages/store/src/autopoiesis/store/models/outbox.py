from datetime import datetime

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from autopoiesis.store.models.base import Base, Created, Id


class Outgoing(Base):
    """A message that was decided together with the state around it and waits for its owner to publish it."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_waiting", "owner", "id", postgresql_where=text("published IS NULL")),)

    id: Mapped[Id]
    owner: Mapped[str]
    """The service that publishes it (`Subject.owner`)."""
    subject: Mapped[str]
    payload: Mapped[str]
    """JSON."""
    message_id: Mapped[str] = mapped_column(unique=True)
    """Nats-Msg-Id: the stream drops a second copy."""
    headers: Mapped[dict[str, str]]
    """Trace context."""
    created: Mapped[Created]
    published: Mapped[datetime | None]
