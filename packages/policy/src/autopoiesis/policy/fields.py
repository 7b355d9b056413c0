"""What every view field means, taken from the comments behind them in `api`: for the docs and for prompts."""

from __future__ import annotations

import inspect
import re
from typing import Final, NamedTuple

from autopoiesis.policy import api

_LINE: Final = re.compile(r"^\s+self\.(\w+)(?:: (.+?))? = (.+?)  # (.+)$")


class Field(NamedTuple):
    """One field of a view: its type, what it holds when nothing is known, and its meaning with its unit."""

    type: str
    default: str
    meaning: str


def _fields_of(view: type) -> dict[str, Field]:
    found = {}
    for line in inspect.getsource(view).splitlines():
        matched = _LINE.match(line)
        if matched:
            name, annotation, default, meaning = matched.groups()
            kind = annotation or type(getattr(view(), name)).__name__
            found[name] = Field(kind, default.removeprefix("_"), meaning)
    missing = set(vars(view)["__slots__"]) - set(found)
    if missing:
        raise ValueError(
            f"{view.__name__} has fields without a comment behind them: {', '.join(sorted(missing))}"
        )
    return found


FIELDS: Final[dict[str, dict[str, Field]]] = {name: _fields_of(view) for name, view in api.VIEWS.items()}
"""Per view, its fields in the order of their definition."""
