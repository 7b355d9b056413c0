"""The accelerators of one machine: which are free, and how a process is told which are its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

CPU: Final = "CPU"
"""Kind of device that stands for the processor itself."""


class DevicePool:
    """`kinds`: the kind of each device, by its number on this machine."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self._kinds = tuple(kinds)
        self._free = set(range(len(self._kinds)))

    @property
    def counts(self) -> dict[str, int]:
        """Devices by kind, free or not."""
        return {kind: self._kinds.count(kind) for kind in dict.fromkeys(self._kinds)}

    def take(self, kind: str, count: int) -> tuple[int, ...]:
        """Numbers of `count` free devices, the lowest. Raises `ValueError` where there are not as many."""
        free = [number for number in sorted(self._free) if self._kinds[number] == kind]
        if len(free) < count:
            have = ", ".join(f"{n} x {name}" for name, n in self.counts.items()) or "none"
            raise ValueError(f"{count} x {kind} needed, {len(free)} free (devices here: {have})")
        taken = tuple(free[:count])
        self._free.difference_update(taken)
        return taken

    def take_again(self, numbers: Sequence[int]) -> bool:
        """Take the very devices `numbers`, if all of them are free."""
        free = self._free.issuperset(numbers)
        if free:
            self._free.difference_update(numbers)
        return free

    def give_back(self, numbers: Sequence[int]) -> None:
        self._free.update(numbers)

    def visible(self, numbers: Sequence[int]) -> str:
        """`CUDA_VISIBLE_DEVICES` for these devices."""
        return ",".join(str(number) for number in numbers if self._kinds[number] != CPU)
