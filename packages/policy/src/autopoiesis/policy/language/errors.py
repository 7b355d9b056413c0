"""What can go wrong with a policy, as one hierarchy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autopoiesis.policy.language.report import Report


class PolicyError(Exception):
    """Base of everything that verifying, linking, compiling or calling a policy raises."""


class VerificationError(PolicyError):
    """The source is not a policy of its kind. `report` lists every problem."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.text())
        self.report = report


class LinkError(PolicyError):
    """A function is missing and no named parent provides it."""


class OutOfFuel(PolicyError):  # noqa: N818
    """The call would have cost more than its budget."""


class PolicyFault(PolicyError):  # noqa: N818
    """The policy raised. `line` is a line of the linked source, 0 where unknown."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


class InvalidDecision(PolicyError):  # noqa: N818
    """The policy returned something its caller cannot carry out. `reason` says what and what would be right."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
