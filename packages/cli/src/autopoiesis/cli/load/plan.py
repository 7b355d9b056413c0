"""From a trace to what is sent and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from autopoiesis.simulator.workload import Trace

TOKEN_BYTES: Final = 4
"""Bytes of prompt text per token of a trace, as simulated engines count."""

Lengths = Literal["simulate", "pin"]
Parts = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One request. Due at `due_s`, or `think_s` after request `parent` ended. Seconds since the run's start."""

    index: int
    due_s: float
    parent: int
    """Index of another request, -1 for none."""
    think_s: float
    klass: str
    session: str
    prompt: Parts
    """Names and sizes (bytes) of the texts that make up the prompt: equal names, equal text."""
    prompt_tokens: int
    output_tokens: int


def plan(trace: Trace, *, stretch: tuple[float, float] | None) -> tuple[list[Planned], float]:
    """The requests of a trace, or of a stretch of it (s on its clock), and over how many seconds they are due.

    Raises `ValueError` where there is no arrival.
    """
    if stretch is None:
        part, begin, window_s = trace, float(trace.arrival[0]) if len(trace) else 0.0, trace.duration
    else:
        begin, end = stretch
        part, window_s = trace.between(begin, end), end - begin
    if not len(part):
        where = "" if stretch is None else f" between {stretch[0]:g} s and {stretch[1]:g} s"
        raise ValueError(f"trace {trace.name} has no arrival{where}")
    sessions, classes = part.session.tolist(), [part.classes[klass] for klass in part.klass.tolist()]
    planned = [
        Planned(
            index=index,
            due_s=due - begin,
            parent=parent,
            think_s=think_s,
            klass="" if classes[index] == "default" else classes[index],
            session=str(sessions[index]) if sessions[index] else "",
            prompt=_parts(part, index, tokens, sessions[index]),
            prompt_tokens=tokens,
            output_tokens=output,
        )
        for index, (due, parent, think_s, tokens, output) in enumerate(
            zip(
                part.arrival.tolist(),
                part.parent.tolist(),
                part.think_s.tolist(),
                part.prompt_tokens.tolist(),
                part.output_tokens.tolist(),
                strict=True,
            )
        )
    ]
    return planned, window_s


def _parts(trace: Trace, index: int, tokens: int, session: int) -> Parts:
    """Recorded prefix blocks first; what follows is the session's own text, which later turns repeat, or nobody's."""
    size = tokens * TOKEN_BYTES
    parts: list[tuple[str, int]] = []
    if trace.block_hashes is not None:
        block = trace.block_tokens * TOKEN_BYTES
        for name in trace.block_hashes[index]:
            if size < block:
                break
            parts.append((f"b{name}", block))
            size -= block
    if size:
        parts.append((f"s{session}" if session and not parts else f"r{index}", size))
    return tuple(parts)
