from typing import Protocol

from autopoiesis.evaluator.case import Case


class Gate(Protocol):
    """One question that a candidate must answer."""

    @property
    def name(self) -> str: ...

    async def __call__(self, case: Case) -> str | None:
        """None: pass on. Otherwise why not."""
