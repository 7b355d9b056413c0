"""Rows of the segments that are not wire messages themselves."""

import hashlib
import time
from typing import Any

import msgspec

from autopoiesis.contracts.codec import encode
from autopoiesis.contracts.messages.fleet import PlanObserved
from autopoiesis.contracts.messages.telemetry import StepBatch
from autopoiesis.observer.segments import Batch


class StepRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`StepRecord` with the replica it came from."""

    replica: str
    incarnation: str
    model: str
    gpu: str
    tp: int
    at_unix_s: float
    duration_s: float
    prefill_tokens: int
    decode_sequences: int
    kv_tokens: int
    steps: int


class FleetRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A replica's heartbeat, kept at each change of state and once a minute. `heartbeat` is JSON."""

    at_unix_s: float
    replica: str
    state: str
    heartbeat: str


class EventRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A policy or plan event, whole. `payload` is JSON."""

    at_unix_s: float
    topic: str
    """First two tokens of its subject, such as `policy.promoted`."""
    scope: str
    kind: str
    epoch: int
    hash: str
    payload: str


class PlanRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A planner's monitoring step. `observed` is a `PlanObserved` as JSON."""

    at_unix_s: float
    scope: str
    observed: str


def plan_row(subject: str, seen: PlanObserved) -> Batch[PlanRow]:
    row = PlanRow(at_unix_s=seen.at_unix_s, scope=seen.scope, observed=encode(seen).decode())
    return Batch((subject, f"{seen.at_unix_s}", seen.step), [row])


def step_rows(batch: StepBatch) -> Batch[StepRow]:
    rows = [
        StepRow(
            replica=batch.replica,
            incarnation=batch.incarnation,
            model=batch.model,
            gpu=batch.gpu,
            tp=batch.tp,
            **msgspec.structs.asdict(record),
        )
        for record in batch.records
    ]
    return Batch((batch.replica, batch.incarnation, batch.batch), rows)


def event_row(subject: str, message: Any) -> Batch[EventRow]:
    """One event, named by its content: the same event delivered twice is one row."""
    payload = encode(message)
    row = EventRow(
        at_unix_s=getattr(message, "at_unix_s", 0.0) or time.time(),
        topic=".".join(subject.split(".")[:2]),
        scope=message.scope,
        kind=getattr(message, "kind", ""),
        epoch=getattr(message, "epoch", 0),
        hash=getattr(message, "hash", ""),
        payload=payload.decode(),
    )
    return Batch((subject, hashlib.sha256(payload).hexdigest()[:16], 0), [row])
