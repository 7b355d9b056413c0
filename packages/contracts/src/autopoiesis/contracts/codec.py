"""Bytes on the wire: JSON by msgspec, so that `nats sub` shows what travels."""

from collections.abc import Hashable
from functools import cache
from typing import Any

import msgspec


class ContractError(ValueError):
    """A payload that is not the message its subject promises."""


_encoder = msgspec.json.Encoder()


@cache
def _decoder(message: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(message)


def encode(message: msgspec.Struct) -> bytes:
    return _encoder.encode(message)


def decode(message: Any, data: bytes, *, where: str = "") -> Any:
    """Decode `data` as `message` (a Struct type or a tagged union).

    Raises ContractError naming the subject, the field and what was expected; unknown fields are ignored.
    """
    try:
        return _decoder(message).decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        name = getattr(message, "__name__", str(message))
        raise ContractError(f"{where or 'payload'} is not a {name}: {error}") from error
