"""NATS, typed by the subject registry: the only place that imports `nats`."""

from autopoiesis.runtime.bus.connection import Bus
from autopoiesis.runtime.bus.consumer import Consumer, Retry, Terminate
from autopoiesis.runtime.bus.errors import (
    BusError,
    BusUnavailableError,
    DisconnectedError,
    NoRespondersError,
    OutrunError,
    PayloadTooLargeError,
    PublishFailedError,
    ReplyError,
    SequenceGapError,
    SlowReaderError,
    StalledError,
    StreamConflictError,
)
from autopoiesis.runtime.bus.faults import Faults
from autopoiesis.runtime.bus.jetstream import Stored
from autopoiesis.runtime.bus.received import Delivered, Received
from autopoiesis.runtime.bus.responder import Responder, Responders
from autopoiesis.runtime.bus.streams import Conversation, ReplyStream, RequestStreams
from autopoiesis.runtime.bus.subscription import Subscription
from autopoiesis.runtime.bus.tracing import processing, publishing
from autopoiesis.runtime.bus.watch import Watch

__all__ = [
    "Bus",
    "BusError",
    "BusUnavailableError",
    "Consumer",
    "Conversation",
    "Delivered",
    "DisconnectedError",
    "Faults",
    "NoRespondersError",
    "OutrunError",
    "PayloadTooLargeError",
    "PublishFailedError",
    "Received",
    "ReplyError",
    "ReplyStream",
    "RequestStreams",
    "Responder",
    "Responders",
    "Retry",
    "SequenceGapError",
    "SlowReaderError",
    "StalledError",
    "Stored",
    "StreamConflictError",
    "Subscription",
    "Terminate",
    "Watch",
    "processing",
    "publishing",
]
