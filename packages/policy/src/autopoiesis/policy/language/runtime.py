"""What compiled policies call instead of the operations that could cost more than they look.

One `Runtime` per compiled policy. Its names start with two underscores in the policy's globals, where the verified
source cannot say them. Every guard charges for what it is about to do *before* doing it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from functools import reduce
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final, NoReturn

from autopoiesis.policy.api import Assign, Replicas
from autopoiesis.policy.language import grammar
from autopoiesis.policy.language.errors import OutOfFuel
from autopoiesis.policy.language.values import CONTAINERS, FrozenDict, FrozenLabels, FrozenList, Labels

_NUMBERS: Final = frozenset({int, float, bool})
_SEQUENCES: Final = (list, tuple)
_TRAVERSE: Final = 4
"""Fuel per element of a container that is compared or hashed."""
_COLLIDING: Final = 1 << 63
"""Python hashes integers modulo 2**61 - 1: beyond this there is no end of those that share a hash."""
_COLLISION: Final = 100
"""Fuel to hash one of them, so that a table of them stays too small to be slow."""
_MOST_DIGITS: Final = 20
_LONGEST_INTEGER: Final = 1 << grammar.INT_BITS


class Runtime:
    """The meter and the guards of one compiled policy. Not thread-safe: one call at a time."""

    __slots__ = ("_growth", "depth", "fuel")

    def __init__(self, growth: int) -> None:
        self.fuel = 0
        self.depth = 0
        self._growth = growth

    def exhausted(self) -> NoReturn:
        raise OutOfFuel("out of fuel")

    def charge(self, cost: int) -> None:
        self.fuel -= cost
        if self.fuel < 0:
            raise OutOfFuel("out of fuel")

    # iteration

    def loop(self, items: Any, weight: int) -> Any:
        """`items`, after charging `weight` for each of them."""
        self.fuel -= weight * len(items)
        if self.fuel < 0:
            raise OutOfFuel("out of fuel")
        return items

    def loop_sorting(self, items: Any, weight: int) -> Any:
        """Like `loop`, plus the comparisons of sorting."""
        count = len(items)
        self.charge(count * (weight + 3 * count.bit_length()))
        return items

    # calls

    def guard(self, function: Callable[..., Any], cost: int) -> Callable[..., Any]:
        """`function`, charging `cost` at every call and bounding how deeply such calls nest."""

        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.fuel -= cost
            if self.fuel < 0:
                raise OutOfFuel("out of fuel")
            self.depth += 1
            try:
                if self.depth > grammar.CALL_DEPTH:
                    raise RecursionError(f"calls nested deeper than {grammar.CALL_DEPTH}")
                return function(*args, **kwargs)
            finally:
                self.depth -= 1

        return guarded

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a value. Bound methods of containers are no functions of the language: they would run unmetered."""
        kind = type(function)
        if kind is FunctionType or (kind is MethodType and function.__self__ is self):
            return function(*args, **kwargs)
        if (kind is BuiltinFunctionType or kind is type) and function in PLAIN_BUILTINS:
            return function(*args, **kwargs)
        raise TypeError(f"a {kind.__name__} cannot be called")

    def freeze(self, value: Any) -> Any:
        """A constant of the file, with every list, dict and set in it made unchangeable; parts that it shares are charged for
        as often as they are there.
        """
        kind = type(value)
        if kind is list or kind is tuple:
            self.charge(len(value))
            return (FrozenList if kind is list else tuple)([self.freeze(item) for item in value])
        if kind is dict:
            self.charge(len(value))
            return FrozenDict({key: self.freeze(item) for key, item in value.items()})
        return FrozenLabels(set(set.__iter__(value))) if kind is Labels else value

    # comparison and hashing

    def weigh(self, value: Any) -> Any:
        """`value`, after charging for everything a comparison or hash of it may look at."""
        if type(value) in CONTAINERS:
            self._traverse(value, grammar.VALUE_DEPTH)
        elif type(value) is int and not -_COLLIDING < value < _COLLIDING:
            self.charge(_COLLISION)
        return value

    def _traverse(self, value: Any, depth: int) -> int:
        if depth == 0:
            raise ValueError(f"containers nested deeper than {grammar.VALUE_DEPTH} cannot be compared")
        kind = type(value)
        if kind is Assign or kind is Replicas:
            parts = [getattr(value, name) for name in grammar.CONSTRUCTORS[kind.__name__]]
        elif isinstance(value, dict):
            parts = [*value.keys(), *value.values()]
        elif isinstance(value, set | frozenset):
            parts = [None] * len(value)  # elements were weighed when they went in
        else:
            parts = value
        cost = _TRAVERSE * (1 + len(parts))
        self.charge(cost)
        for part in parts:
            if type(part) in CONTAINERS:
                cost += self._traverse(part, depth - 1)
            elif type(part) is int and not -_COLLIDING < part < _COLLIDING:
                self.charge(_COLLISION)
                cost += _COLLISION
        return cost

    def contains(self, value: Any, items: Any) -> bool:
        """`value in items`."""
        kind = type(items)
        if kind is range:
            if type(value) is not int:
                self.charge(len(items))
            return value in items
        effort = self._effort(value)
        if not isinstance(items, dict | set | frozenset | str):
            self.charge(effort * len(items))
        return value in items

    def _effort(self, value: Any) -> int:
        """Fuel of one comparison with `value`."""
        return self._traverse(value, grammar.VALUE_DEPTH) if type(value) in CONTAINERS else 1

    # arithmetic

    def add(self, left: Any, right: Any) -> Any:
        kind = type(left)
        if kind in _NUMBERS:
            return _short(left + right)
        if kind is str:
            return _text(left, right)
        if isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
            self.charge(len(left) + len(right))
        return _plain(left) + _plain(right)

    def iadd(self, left: Any, right: Any) -> Any:
        """`left += right`, in place for a list."""
        if type(left) is list:
            left += self._lengthening(right)
            return left
        _not_constant(left)
        return self.add(left, right)

    def imul(self, left: Any, right: Any) -> Any:
        """`left *= right`, in place for a list."""
        if type(left) is list and isinstance(right, int):
            self.charge((1 + self._growth) * len(left) * max(right, 0))
            left *= right
            return left
        _not_constant(left)
        return self.mul(left, right)

    def sub(self, left: Any, right: Any) -> Any:
        if type(left) in _NUMBERS:
            return _short(left - right)
        raise TypeError(f"a {type(left).__name__} cannot be subtracted from")

    def mul(self, left: Any, right: Any) -> Any:
        if type(left) in _NUMBERS and type(right) in _NUMBERS:
            if type(left) is not float and type(right) is not float:
                _fits(left.bit_length() + right.bit_length())
            return left * right
        if type(left) in _NUMBERS:
            left, right = right, left
        if type(left) is str:
            raise TypeError("strings are labels: they cannot be repeated")
        if isinstance(right, int) and isinstance(left, _SEQUENCES):
            self.charge(len(left) * max(right, 0))
        return _plain(left) * right

    def power(self, left: Any, right: Any) -> Any:
        if type(left) is int and type(right) is int and right > 0:
            _fits(int(right * math.log2(abs(left) or 1)))
        return left**right

    def mod(self, left: Any, right: Any) -> Any:
        if type(left) not in _NUMBERS:
            raise TypeError(f"`%` needs numbers, not {type(left).__name__}")
        return left % right

    def shift(self, left: Any, right: Any) -> Any:
        if type(right) is int and right > 0:
            _fits(left.bit_length() + right)
        return left << right

    def bits(self, name: str, left: Any, right: Any) -> Any:
        """`&`, `|`, `^` and `>>`, for integers."""
        if type(left) not in _NUMBERS:
            raise TypeError(f"bit operations need integers, not {type(left).__name__}")
        return _BIT_OPERATIONS[name](left, right)

    def augment(self, name: str, items: Any, key: Any, value: Any) -> None:
        """`items[key] op= value`."""
        old = items[self.weigh(key)]
        if name in _BIT_OPERATIONS:
            items[key] = self.bits(name, old, value)
        elif name in _QUOTIENTS:
            items[key] = _QUOTIENTS[name](old, value)
        else:
            items[key] = getattr(self, name)(old, value)

    # subscripts and containers

    def piece(self, items: Any, start: Any, stop: Any, step: Any) -> Any:
        """`items[start:stop:step]`."""
        part = slice(start, stop, step)
        if type(items) is not range:
            self.charge(len(range(*part.indices(len(items)))))
        return items[part]

    def make_set(self, items: Iterable[Any]) -> Labels:
        """A set of already charged `items`."""
        return Labels([self.weigh(item) for item in items])

    def make_frozenset(self, items: Iterable[Any]) -> FrozenLabels:
        """A frozenset of already charged `items`."""
        return FrozenLabels([self.weigh(item) for item in items])

    def new_set(self, items: Any = ()) -> Labels:
        return Labels([self.weigh(item) for item in self.loop(items, 2)])

    def new_frozenset(self, items: Any = ()) -> FrozenLabels:
        return FrozenLabels([self.weigh(item) for item in self.loop(items, 2)])

    def new_dict(self, items: Any = ()) -> dict[Any, Any]:
        """A dict from a sized collection or from already charged pairs."""
        if hasattr(items, "__len__"):
            self.loop(items, 4)
        if not isinstance(items, dict):
            items = [(self.weigh(key), value) for key, value in items]
        return dict(items)

    def new_list(self, items: Any = ()) -> list[Any]:
        return list(self.loop(items, 1))

    def new_tuple(self, items: Any = ()) -> tuple[Any, ...]:
        return tuple(self.loop(items, 1))

    # numbers

    def sum(self, items: Any, start: Any = 0) -> Any:
        return self.total(self.loop(items, 1), start)

    def total(self, items: Iterable[Any], start: Any = 0) -> Any:
        """Sum of already charged `items`, from left to right on every version of Python."""
        if type(start) not in _NUMBERS:
            raise TypeError(f"sum starts from a number, not {type(start).__name__}")
        return reduce(operator.add, items, start)

    def integer(self, value: Any = 0) -> int:
        if type(value) not in _NUMBERS:
            raise TypeError(f"int() needs a number, not {type(value).__name__}")
        return int(value)

    def rounded(self, value: Any, digits: Any = None) -> Any:
        """`round` with a number of digits that is not a literal."""
        if digits is not None and not -_MOST_DIGITS <= digits <= _MOST_DIGITS:
            raise ValueError(f"round takes at most {_MOST_DIGITS} digits")
        return round(value, digits)

    def some(self, items: Any) -> bool:
        return any(self.loop(items, 1))

    def every(self, items: Any) -> bool:
        return all(self.loop(items, 1))

    # order

    def minimum(self, *items: Any, key: Any = None, **default: Any) -> Any:
        return self._extreme(min, items, key, default)

    def maximum(self, *items: Any, key: Any = None, **default: Any) -> Any:
        return self._extreme(max, items, key, default)

    def _extreme(self, choose: Callable[..., Any], items: Any, key: Any, default: dict[str, Any]) -> Any:
        candidates = self._listed(items[0]) if len(items) == 1 else list(items)
        if not candidates:
            return choose(candidates, **default)
        keys = self._keys(candidates, key)
        return candidates[choose(range(len(keys)), key=keys.__getitem__)]

    def ordered(self, items: Any, *, key: Any = None, reverse: bool = False) -> list[Any]:
        candidates = self._listed(items)
        keys = self._keys(candidates, key, comparisons=len(candidates).bit_length())
        return [candidates[i] for i in sorted(range(len(keys)), key=keys.__getitem__, reverse=reverse)]

    def _lengthening(self, items: Any) -> list[Any]:
        """Elements to be added to a list that a loop may be under way over."""
        listed = self._listed(items)
        self.charge(self._growth * len(listed))
        return listed

    def _listed(self, items: Any) -> list[Any]:
        """The elements of a sized collection, charged here, or of a generator, which charges itself."""
        return list(self.loop(items, 2) if hasattr(items, "__len__") else items)

    def _keys(self, items: list[Any], key: Any, comparisons: int = 1) -> list[Any]:
        keys = items if key is None else [self.call(key, item) for item in items]
        self.charge(2 * len(keys) * (1 + comparisons))
        for one in keys:
            if type(one) in CONTAINERS:
                self.charge(comparisons * self._traverse(one, grammar.VALUE_DEPTH))
        return keys

    # methods

    def append(self, items: Any, value: Any) -> None:
        """`items.append(value)` where a loop over `items` may be under way, which this makes longer."""
        self.fuel -= self._growth
        if self.fuel < 0:
            raise OutOfFuel("out of fuel")
        if type(items) is not list:
            raise TypeError(f"nothing can be appended to a {type(items).__name__}")
        items.append(value)

    def method(self, name: str, items: Any, *args: Any, **kwargs: Any) -> Any:
        """A method that looks at, copies or moves whole containers."""
        if name == "sort":
            return self._sort(items, **kwargs)
        if name in {"extend", "update"}:
            return self._grow(name, items, *args)
        if name in {"index", "count", "remove"} and args:
            self.charge(self._effort(args[0]) * len(items))
        elif name in {"pop", "insert"}:
            self.charge(1 + (len(items) >> 5) + self._growth)
            self.weigh(args[0])
        else:
            self.charge(len(items))
        return getattr(items, name)(*args, **kwargs)

    def _sort(self, items: Any, *, key: Any = None, reverse: bool = False) -> None:
        if type(items) is not list:
            raise TypeError(f"a {type(items).__name__} cannot be sorted in place")
        items[:] = self.ordered(items, key=key, reverse=reverse)

    def _grow(self, name: str, items: Any, other: Any) -> None:
        if name == "extend":
            items += self._lengthening(other)
        elif isinstance(items, set):
            items.update([self.weigh(item) for item in self._listed(other)])
        else:
            items.update(self.new_dict(other))


def _plain(value: Any) -> Any:
    """Module constants are frozen lists; what is computed from them is an ordinary list."""
    return list(value) if isinstance(value, list) else value


def _not_constant(value: Any) -> None:
    if isinstance(value, FrozenList):
        raise TypeError("constants of the file cannot be changed: a policy has no state between calls")


def _fits(bits: int) -> None:
    if bits > grammar.INT_BITS:
        raise OverflowError(f"integers have at most {grammar.INT_BITS} bits")


def _short(value: Any) -> Any:
    if type(value) is int and not -_LONGEST_INTEGER < value < _LONGEST_INTEGER:
        raise OverflowError(f"integers have at most {grammar.INT_BITS} bits")
    return value


def _text(left: str, right: Any) -> Any:
    if type(right) is str and len(left) + len(right) > grammar.TEXT_LIMIT:
        raise OverflowError(f"strings have at most {grammar.TEXT_LIMIT} characters")
    return left + right


_QUOTIENTS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "divide": operator.truediv,
    "floor_divide": operator.floordiv,
}
_BIT_OPERATIONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "bit_and": operator.and_,
    "bit_or": operator.or_,
    "bit_xor": operator.xor,
    "shift_right": operator.rshift,
}
PLAIN_BUILTINS: Final[frozenset[Any]] = frozenset(
    {abs, bool, float, len, *(getattr(math, name) for name in grammar.MATH_FUNCTIONS)}
)
"""Builtins that cost one step, so that they may be called as values."""
