"""Containers as policies see them: sets without order, and constants that no call can change."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from autopoiesis.policy.api import Assign, Replicas


class _Unordered:
    __slots__ = ()

    def __iter__(self) -> NoReturn:
        raise TypeError("sets have no order: they are for `in` and `len` only")

    def pop(self) -> NoReturn:
        raise TypeError("sets have no order: nothing can be popped from them")


class Labels(_Unordered, set[Any]):
    """A set for membership and length. Its order would differ from run to run, so nothing iterates it."""

    __slots__ = ()

    def copy(self) -> Labels:
        return Labels(self)  # copied in one step, not iterated


class FrozenLabels(_Unordered, frozenset[Any]):
    """An immutable `Labels`."""

    __slots__ = ()

    def copy(self) -> FrozenLabels:
        return self


def _refuse(self: object, *args: object, **kwargs: object) -> NoReturn:
    raise TypeError("constants of the file cannot be changed: a policy has no state between calls")


class FrozenList(list[Any]):
    """A list constant of the file."""

    __slots__ = ()
    append = extend = insert = pop = remove = clear = sort = reverse = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse

    def copy(self) -> list[Any]:
        return list(self)


class FrozenDict(dict[Any, Any]):
    """A dict constant of the file."""

    __slots__ = ()
    setdefault = pop = update = clear = _refuse
    __setitem__ = __delitem__ = __ior__ = _refuse

    def copy(self) -> dict[Any, Any]:
        return dict(self)


CONTAINERS: Final = frozenset(
    {list, tuple, dict, FrozenList, FrozenDict, Labels, FrozenLabels, set, frozenset, Assign, Replicas}
)
"""Types whose comparison and hash look at what they hold."""
