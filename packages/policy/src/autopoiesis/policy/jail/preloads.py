"""Data that the zygote read once and every job sees: forked, not sent."""

from __future__ import annotations

from typing import Any

_held: dict[str, Any] = {}


def preloaded(key: str) -> Any:
    """Inside a job: what `Jail.preload(key, ...)` left: bytes, or what its loader made of them.

    Raises:
        KeyError: nothing was preloaded under this key.
    """
    try:
        return _held[key]
    except KeyError:
        raise KeyError(f"nothing preloaded under {key!r}; there are {sorted(_held)}") from None


def hold(key: str, value: Any) -> None:
    """In the zygote only."""
    _held[key] = value


def drop(key: str) -> None:
    """In the zygote only."""
    _held.pop(key, None)
