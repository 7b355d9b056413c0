"""Libraries that only some uses need, imported when they are."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class MissingExtraError(ImportError):
    """A library of an optional extra is not installed; says which and how to get it."""


def pandas() -> Any:
    """The module pandas. Raises `MissingExtraError`."""
    return _module("pandas", "pandas")


def figure_class() -> Any:
    """`matplotlib.figure.Figure`, which needs no display. Raises `MissingExtraError`."""
    return _module("matplotlib.figure", "plots").Figure


def _module(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{name.partition('.')[0]} is not installed: pip install 'autopoiesis-simulator[{extra}]'"
        ) from error
