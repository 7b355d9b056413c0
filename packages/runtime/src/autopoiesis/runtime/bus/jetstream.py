"""JetStream: streams from the registry, acknowledged publishing, the newest message per subject."""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import PubAck, RetentionPolicy, StorageType, StreamConfig

from autopoiesis.contracts.codec import ContractError
from autopoiesis.contracts.subjects import Stream, Subject
from autopoiesis.runtime.bus import faults as kinds
from autopoiesis.runtime.bus import flushing
from autopoiesis.runtime.bus.errors import (
    BusError,
    BusUnavailableError,
    DisconnectedError,
    OutrunError,
    PayloadTooLargeError,
    PublishFailedError,
    StreamConflictError,
)
from autopoiesis.runtime.bus.faults import Faults
from autopoiesis.runtime.bus.received import Received, received

M = TypeVar("M")
ATTEMPT: Final = 2.0
"""Seconds to wait for one acknowledgement before publishing again."""
NAME_IN_USE: Final = 10058
WRONG_LAST_SEQUENCE: Final = 10071


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an event landed; `duplicate` means that the stream already held one with its id."""

    stream: str
    sequence: int
    duplicate: bool


async def ensure_streams(client: Client, streams: Sequence[Stream], subjects: Sequence[Subject[Any]]) -> None:
    for stream in streams:
        carried = [subject.wildcard() for subject in subjects if subject.stream is stream]
        await _ensure_stream(client, _configuration(stream, carried))


async def _ensure_stream(client: Client, wanted: StreamConfig) -> None:
    js = client.jetstream()
    assert wanted.name is not None
    try:
        try:
            present = (await js.stream_info(wanted.name)).config
        except nats.js.errors.NotFoundError:
            try:
                await js.add_stream(wanted)
                return
            except nats.js.errors.BadRequestError as error:
                if error.err_code != NAME_IN_USE:
                    raise
                present = (
                    await js.stream_info(wanted.name)
                ).config  # another process was faster, with other settings
        if any(getattr(present, key) != value for key, value in _set_fields(wanted).items()):
            await js.update_stream(wanted)
    except (nats.errors.TimeoutError, nats.js.errors.ServiceUnavailableError) as error:
        raise BusUnavailableError(
            f"stream {wanted.name!r}: JetStream does not answer; enable it in nats.conf, and allow this user the $JS.API subjects"
        ) from error
    except nats.js.errors.APIError as error:
        raise StreamConflictError(
            f"stream {wanted.name!r} cannot be brought to its configuration: {error.description}; "
            f"delete it (`nats stream rm {wanted.name}`) or restore what it was"
        ) from error


def _configuration(stream: Stream, subjects: list[str]) -> StreamConfig:
    return StreamConfig(
        name=stream.name,
        subjects=subjects,
        retention=RetentionPolicy.WORK_QUEUE if stream.retention == "workqueue" else RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=stream.max_age_s,
        max_bytes=stream.max_bytes,
        max_msgs_per_subject=stream.per_subject,
        duplicate_window=stream.duplicate_window_s,
        allow_direct=True,
    )


def _set_fields(config: StreamConfig) -> dict[str, Any]:
    keys = (
        "subjects",
        "retention",
        "storage",
        "max_age",
        "max_bytes",
        "max_msgs_per_subject",
        "duplicate_window",
        "allow_direct",
    )
    return {key: getattr(config, key) for key in keys}


async def publish(
    client: Client,
    subject: Subject[Any],
    name: str,
    payload: bytes,
    msg_id: str,
    timeout: float,
    headers: dict[str, str],
) -> Stored:
    """Publish until acknowledged; an attempt that timed out may have been stored, which `msg_id` makes harmless."""
    if len(payload) > client.max_payload:
        raise PayloadTooLargeError(len(payload), client.max_payload)
    headers["Nats-Msg-Id"] = msg_id
    js = client.jetstream()
    deadline = asyncio.get_running_loop().time() + timeout
    delay, reason = 0.05, "not connected to NATS"
    while (left := deadline - asyncio.get_running_loop().time()) > 0:
        if client.is_connected:
            try:
                ack: PubAck = await js.publish(name, payload, timeout=min(ATTEMPT, left), headers=headers)
            except (
                nats.errors.TimeoutError,
                nats.js.errors.NoStreamResponseError,
                nats.js.errors.ServiceUnavailableError,
            ) as error:
                reason = str(error)
            except nats.js.errors.APIError as error:
                raise PublishFailedError(f"{name}: refused by its stream: {error.description}") from error
            else:
                return Stored(ack.stream, ack.seq, bool(ack.duplicate))
        await asyncio.sleep(min(delay * random.uniform(0.5, 1.0), left))
        delay = min(delay * 2, 1.0)
    stream = subject.stream.name if subject.stream else "none in the registry"
    raise PublishFailedError(
        f"{name}: not acknowledged within {timeout:g} s by its stream ({stream}): {reason}"
    )


async def publish_after(client: Client, name: str, payload: bytes, sequence: int) -> int:
    """One attempt, stored only if `sequence` (0: nothing) is the newest message of the subject. Returns its own sequence."""
    if not client.is_connected:
        raise DisconnectedError(f"not connected to NATS: {name} was not sent")
    headers = {"Nats-Expected-Last-Subject-Sequence": str(sequence)}
    try:
        ack = await client.jetstream().publish(name, payload, timeout=ATTEMPT, headers=headers)
    except nats.js.errors.APIError as error:
        if error.err_code == WRONG_LAST_SEQUENCE:
            raise OutrunError(f"{name}: message {sequence} is not the newest any more") from error
        raise PublishFailedError(f"{name}: refused by its stream: {error.description}") from error
    except (nats.errors.TimeoutError, nats.js.errors.NoStreamResponseError) as error:
        raise PublishFailedError(f"{name}: not acknowledged: {error}") from error
    return ack.seq


async def last_per_subject(
    client: Client, subject: Subject[M], name: str, faults: Faults
) -> list[Received[M]]:
    """One round trip (direct get, ``multi_last``); an undecodable message is counted and left out.

    Raises `BusError` when the stream cannot be read.
    """
    if subject.stream is None:
        raise ValueError(f"{subject.pattern} is not kept by any stream")
    found: list[Received[M]] = []
    for msg in await _direct_get(client, subject.stream.name, name):
        assert msg.headers is not None
        stored = Msg(client, subject=msg.headers["Nats-Subject"], data=msg.data, headers=msg.headers)
        try:
            found.append(received(subject, stored))
        except ContractError as error:
            faults.add(kinds.UNDECODABLE, str(error))
    return found


async def _direct_get(client: Client, stream: str, name: str) -> list[Msg]:
    if not client.is_connected:
        raise DisconnectedError(f"not connected to NATS: {name} was not read")
    messages: list[Msg] = []
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def collect(msg: Msg) -> None:
        status = (msg.headers or {}).get("Status")
        if status is None:
            messages.append(msg)
        elif not ended.done():  # 204 ends the batch, 404 says that nothing matched
            ended.set_result(
                "" if status in ("204", "404") else f"{status} {(msg.headers or {}).get('Description', '')}"
            )

    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=collect)
    try:
        request = json.dumps({"multi_last": [name]}).encode()
        await client.publish(f"$JS.API.DIRECT.GET.{stream}", request, inbox)
        problem = await asyncio.wait_for(ended, ATTEMPT)
    except TimeoutError:
        problem = f"no answer within {ATTEMPT:g} s"
    finally:
        await flushing.cancel(client, subscription)
    if problem:
        raise BusError(f"reading stream {stream}: {problem}")
    return messages
