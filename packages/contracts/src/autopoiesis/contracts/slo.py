"""Service-level objectives: named classes, shared by the router, the snapshots and the evaluator."""

import msgspec


class SloClass(msgspec.Struct, frozen=True, kw_only=True):
    """What a class of requests expects. None: no expectation."""

    priority: int = 0
    """0 is the highest."""
    ttft_s: float | None = None
    """Seconds from arrival to the first token."""
    tpot_s: float | None = None
    """Mean seconds per output token after the first."""


class Objectives(msgspec.Struct, frozen=True, kw_only=True):
    """The classes of one scope. A request names its class by header; the rest belong to `default`."""

    classes: dict[str, SloClass]
    default: str

    def __post_init__(self) -> None:
        if self.default not in self.classes:
            known = ", ".join(sorted(self.classes)) or "none"
            raise ValueError(f"default class {self.default!r} is not among the classes ({known})")

    def of(self, klass: str) -> SloClass:
        """The class named, or the default for names that are not configured."""
        return self.classes.get(klass, self.classes[self.default])


STANDARD = Objectives(
    classes={
        "interactive": SloClass(priority=0, ttft_s=1.0, tpot_s=0.06),
        "batch": SloClass(priority=1, ttft_s=8.0, tpot_s=0.15),
    },
    default="interactive",
)
"""In use where nothing is configured; printed at start."""


def met(
    ttft_s: float | None,
    tpot_s: float | None,
    *,
    ttft_slo_s: float | None,
    tpot_slo_s: float | None,
    finished: bool,
) -> bool:
    """Whether one arrival met its objectives: it finished, its first token was in time, its pace was kept.

    `tpot_s` is None for answers of fewer than two tokens, which have no pace to miss.
    """
    if not finished or ttft_s is None:
        return False
    if ttft_slo_s is not None and ttft_s > ttft_slo_s:
        return False
    return tpot_slo_s is None or tpot_s is None or tpot_s <= tpot_slo_s
