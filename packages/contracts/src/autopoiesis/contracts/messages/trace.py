"""The observer's findings: a new snapshot, or a workload that moved."""

import msgspec


class SnapshotReady(msgspec.Struct, frozen=True, kw_only=True):
    """A window was cut in two: earlier blocks to learn on, later blocks (`sealed`) to decide on."""

    scope: str
    snapshot: str
    """Hash of the open blob."""
    sealed: str
    """Hash of the sealed blob, which only the evaluator's role can read; empty if none."""
    start_unix_s: float
    cut_unix_s: float
    end_unix_s: float
    arrivals: int
    sealed_arrivals: int
    cause: str
    """`interval`, `drift` or `operator`."""


class Drifted(msgspec.Struct, frozen=True, kw_only=True):
    scope: str
    at_unix_s: float
    feature: str
    """What moved: `arrival_rate`, `prompt_tokens`, `output_tokens`, …"""
    test: str
    """Name of the statistical test."""
    statistic: float
    p_value: float
    before: float
    """Mean in the reference window."""
    after: float
    """Mean in the recent window."""
