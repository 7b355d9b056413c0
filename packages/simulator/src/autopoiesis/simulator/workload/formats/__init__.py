"""Trace formats, one module each, found by this folder.

A module has `SIGNATURE`, words that the first line of such a file contains, and `load(path, failed, **options) -> Trace`. To add
a format, put a module here; `load_trace` and the command line know it by its name.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


@cache
def formats() -> dict[str, ModuleType]:
    """Modules by name of format."""
    return {info.name: import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__)}
