"""What the meter must know of values: is this surely a number, how large can it be, does it compare in one step?

A type is a set of kinds and a bound on the bits of integers. The inference is flow-insensitive: one type per name and
top-level function, nested functions included, joined over every assignment and grown until nothing changes. It errs
towards `ANYTHING`, which costs a guard and never safety.
"""

from __future__ import annotations

import ast
from typing import Final, NamedTuple

from autopoiesis.policy import api
from autopoiesis.policy.language import grammar

FLOAT: Final = 1
INT: Final = 2
STR: Final = 4
NONE: Final = 8
FLAT: Final = 16
"""A tuple of values that are atomic, no longer than the literal it comes from."""
OPAQUE: Final = 32
"""Functions, HOLD, REJECT, ranges: compared by identity or in one step."""
OTHER: Final = 64
"""Containers and everything unknown."""
_FIRST_VIEW: Final = 7

VIEW: Final[dict[str, int]] = {name: 1 << (_FIRST_VIEW + i) for i, name in enumerate(grammar.FIELDS)}
VIEWS: Final[dict[str, int]] = {name: 1 << (_FIRST_VIEW + len(VIEW) + i) for i, name in enumerate(api.VIEWS)}
"""A tuple of views, given by the host."""

ANY_VIEW: Final = sum(VIEW[name] for name in api.VIEWS)
NUMBER: Final = FLOAT | INT
ATOMIC: Final = NUMBER | STR | NONE | OPAQUE | ANY_VIEW
BOUNDED: Final = ATOMIC | FLAT
"""Kinds whose comparison and hash cost is known before the program runs."""
_ALL: Final = (1 << (_FIRST_VIEW + len(VIEW) + len(VIEWS))) - 1

UNBOUNDED: Final = 1 << 30
"""Bits of an integer that no proof bounds."""
HOST_BITS: Final = 63
"""Numbers in views are smaller than 2**63."""


class Type(NamedTuple):
    kinds: int
    bits: int = 0

    def within(self, kinds: int) -> bool:
        """Whether every value of this type is of one of `kinds`."""
        return bool(self.kinds) and not self.kinds & ~kinds


NOTHING: Final = Type(0)
ANYTHING: Final = Type(_ALL, UNBOUNDED)
REAL: Final = Type(FLOAT)
TRUTH: Final = Type(INT, 1)
COUNT: Final = Type(INT, HOST_BITS)
HOST_NUMBER: Final = Type(NUMBER, HOST_BITS)
ANY_NUMBER: Final = Type(NUMBER, UNBOUNDED)
CONTAINER: Final = Type(OTHER, UNBOUNDED)


def join(*types: Type) -> Type:
    kinds = bits = 0
    for one in types:
        kinds |= one.kinds
        bits = max(bits, one.bits)
    return Type(kinds, bits)


def limited(kinds: int, bits: int) -> Type:
    return Type(kinds, bits if bits <= grammar.INT_BITS else UNBOUNDED)


_VIEW_FIELDS: Final[dict[tuple[str, str], Type]] = {
    ("Request", "workflow"): Type(VIEW["Workflow"] | NONE),
    ("PlanContext", "models"): Type(VIEWS["ModelDemand"]),
    ("PlanContext", "gpus"): Type(VIEWS["GpuPool"]),
    ("PlanContext", "history"): Type(VIEWS["PlanContext"]),
    ("PlanContext", "last"): Type(VIEW["PlanContext"] | NONE),
    ("PlanContext", "plan"): Type(OTHER | NONE),
    ("PlanContext", "toolkit"): CONTAINER,
    ("DispatchContext", "random"): Type(OPAQUE),
}


def _field_types() -> dict[str, dict[str, Type]]:
    table: dict[str, dict[str, Type]] = {}
    for view, cls in api.VIEWS.items():
        sample = cls()
        table[view] = {
            name: _VIEW_FIELDS.get((view, name)) or _of_sample(getattr(sample, name))
            for name in vars(cls)["__slots__"]
        }
    for name, names in grammar.CONSTRUCTORS.items():
        table[name] = dict.fromkeys(names, ANYTHING)
    return table


def _of_sample(value: object) -> Type:
    if isinstance(value, str):
        return Type(STR)
    if isinstance(value, int | float):
        return HOST_NUMBER
    raise TypeError(f"a view field holds {value!r}, which the type table does not describe")


FIELD_TYPES: Final = _field_types()


def owners(base: Type, attribute: str) -> list[str]:
    """The objects that `attribute` may be read from when the value before the dot is of type `base`."""
    having = [name for name, names in grammar.FIELDS.items() if attribute in names]
    known = [name for name in having if base.kinds & VIEW[name]]
    return known if base.kinds and not base.kinds & OTHER and known else having


_PLAIN_VALUES: Final[tuple[object, ...]] = (
    0,
    0.0,
    0j,
    "",
    [],
    (),
    {},
    set(),
    range(0),
    None,
    len,
    owners,
    api.Assign,
    api.HOLD,
)
_AMBIGUOUS: Final = frozenset(name for value in _PLAIN_VALUES for name in dir(value)) & grammar.READABLE
"""Fields that a value which is no view may have too, and then of any size: `range(a, b, c).step`."""


def of_attribute(base: Type, attribute: str) -> Type:
    """The type of `value.attribute` where `value` is of type `base`."""
    if attribute in _AMBIGUOUS and not base.within(ANY_VIEW | NONE):
        return ANYTHING
    having = owners(base, attribute)
    return join(*(FIELD_TYPES[name][attribute] for name in having)) if having else ANYTHING


def of_element(container: Type) -> Type:
    """The type of what iterating or indexing a value of type `container` gives."""
    if not container.kinds:
        return NOTHING
    views = [VIEW[name] for name, bit in VIEWS.items() if container.kinds & bit]
    if container.within(sum(VIEWS.values()) | NONE):
        return Type(sum(views))
    return ANYTHING


def arithmetic(op: ast.operator, left: Type, right: Type, exponent: int | None = None) -> Type:
    """The type of `left op right`. `exponent` is the right operand where it is an integer literal."""
    if not left.kinds or not right.kinds:
        return NOTHING
    numeric = left.within(NUMBER) or right.within(NUMBER)
    if isinstance(op, ast.Add) and not numeric:
        return ANYTHING
    if isinstance(op, ast.Mult) and not (left.within(NUMBER) and right.within(NUMBER)):
        return REAL if left.within(FLOAT) or right.within(FLOAT) else ANYTHING
    kinds = ((left.kinds | right.kinds) & NUMBER) or NUMBER
    match op:
        case ast.Div():
            return REAL
        case ast.Add() | ast.Sub():
            return limited(kinds, max(left.bits, right.bits) + 1)
        case ast.Mult():
            return limited(kinds, left.bits + right.bits)
        case ast.FloorDiv() | ast.RShift():
            return limited(kinds, left.bits + 1)
        case ast.Mod():
            return limited(kinds, right.bits)
        case ast.Pow() if exponent is not None and left.within(NUMBER):
            return limited(NUMBER, left.bits * max(exponent, 1))
        case ast.Pow():
            return REAL if left.within(FLOAT) or right.within(FLOAT) else ANY_NUMBER
        case ast.BitAnd() | ast.BitOr() | ast.BitXor():
            return limited(INT, max(left.bits, right.bits) + 1)
        case _:
            return Type(INT, UNBOUNDED)


def needs_guard(op: ast.operator, left: Type, right: Type, exponent: int | None = None) -> bool:
    """Whether `left op right` could take or make more than a fixed amount of time or memory."""
    both = left.within(NUMBER) and right.within(NUMBER)
    either = left.within(NUMBER) or right.within(NUMBER)
    match op:
        case ast.Add() | ast.Sub():
            return not either or (
                bool(left.kinds & right.kinds & INT) and min(left.bits, right.bits) > grammar.INT_BITS
            )
        case ast.Mult():
            if left.within(FLOAT) or right.within(FLOAT):
                return False
            return not both or left.bits + right.bits > grammar.INT_BITS
        case ast.Pow():
            if left.within(FLOAT) or right.within(FLOAT):
                return False
            return exponent is None or not left.within(NUMBER) or left.bits * exponent > grammar.INT_BITS
        case ast.Mod():
            return not left.within(NUMBER)
        case ast.Div() | ast.FloorDiv():
            return False
        case ast.LShift():
            return True
        case _:
            return not either
