"""What goes wrong on the bus, by name."""

from autopoiesis.runtime.errors import OperatorError


class BusError(Exception):
    """Any failure of the bus."""


class BusUnavailableError(BusError, OperatorError):
    """No connection could be made in time, or credentials were refused; the message says what was tried."""


class DisconnectedError(BusError):
    """The connection is down just now; nothing was sent or buffered."""


class PublishFailedError(BusError):
    """A stream did not acknowledge an event in time. It may have been stored all the same: repeat with the same id."""


class OutrunError(BusError):
    """Another message came onto the subject since the one that this was to follow; nothing was stored."""


class StreamConflictError(BusError, OperatorError):
    """A stream exists with a configuration that cannot be changed into ours."""


class PayloadTooLargeError(BusError):
    """A message exceeds what the server accepts. `size` and `limit` are bytes."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"message of {size} bytes exceeds the server's max_payload of {limit} bytes")
        self.size = size
        self.limit = limit


class ReplyError(BusError):
    """A reply stream ended without its typed last message."""


class NoRespondersError(ReplyError):
    """Nobody listens on the replica's subject: its worker is gone."""


class SequenceGapError(ReplyError):
    """A chunk was lost on the way."""


class StalledError(ReplyError):
    """Nothing arrived for the stall time: the worker is stopped, hung or cut off."""


class SlowReaderError(ReplyError):
    """The reader let more chunks pile up than the stream's bound."""
