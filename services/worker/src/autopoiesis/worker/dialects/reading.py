"""Reading loosely typed request bodies, with errors that name the field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from autopoiesis.worker.engines.body import BodyError


def refuse(param: str, message: str) -> BodyError:
    return BodyError(f"invalid value for {param}: {message}", param)


def objects(value: Any, param: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and value of each element of a list of objects. Raises BodyError."""
    if not isinstance(value, list):
        raise refuse(param, "expected a list")
    for place, item in enumerate(value):
        path = f"{param}[{place}]"
        if not isinstance(item, dict):
            raise refuse(path, "expected an object")
        yield path, item


def text(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise refuse(param, "expected text")
    return value


def encoded(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def event(kind: str, fields: dict[str, Any]) -> str:
    """One server-sent event that also names its type inside."""
    return f"event: {kind}\ndata: {encoded({'type': kind, **fields})}\n\n"


def keep(fields: dict[str, Any], used: frozenset[str]) -> dict[str, Any]:
    """What is passed on as it came: sampling parameters and whatever extras the engine may know."""
    return {name: value for name, value in fields.items() if name not in used and value is not None}
