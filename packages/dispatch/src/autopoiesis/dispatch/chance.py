"""Random numbers that depend on a seed alone, on every Python."""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFF_FFFF_FFFF_FFFF


def mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): 64 bits in, 64 well-mixed bits out."""
    value = (value + 0x9E37_79B9_7F4A_7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58_476D_1CE4_E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D0_49BB_1331_11EB) & MASK
    return value ^ (value >> 31)


class Chance:
    """What `ctx.random` calls. Cheap to seed, so that every decision has its own sequence."""

    __slots__ = ("_state",)

    def __init__(self, seed: int = 0) -> None:
        self._state = mix(seed & MASK)

    def seed(self, base: int, number: int) -> None:
        self._state = mix(base ^ mix(number))

    def uniform(self) -> float:
        """In [0, 1)."""
        self._state = (self._state + 0x9E37_79B9_7F4A_7C15) & MASK
        return (mix(self._state) >> 11) * 2.0**-53
