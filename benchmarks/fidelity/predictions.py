"""What a router believed of its replicas, and what came of it: time to first token, predicted beside observed.

    python benchmarks/fidelity/predictions.py RECORD [--every 10] [--policy NAME]

RECORD is what a router wrote to its setting `router.record` (`rank.py --record FILE` has one written). The record is replayed through
a fresh dispatcher, which then decides as the router did. Per `--every` seconds and replica: requests sent, their predicted and
observed TTFT (means, s), the correction that the router had learned, the step that it took a full batch to need (ms), and how
many requests were there. Beside it what the router took for a mean answer, in tokens.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from autopoiesis.contracts.messages.fleet import Heartbeat, StepModel
from autopoiesis.dispatch import Dispatcher, DispatchSettings
from autopoiesis.dispatch import events as ev
from autopoiesis.dispatch.recording import Line
from autopoiesis.policy import library
from autopoiesis.router.policies import compile_activation
from autopoiesis.router.prompts import BLOCK_BYTES

PROMPT_TOKENS: Final = 256
"""In the step that is printed, beside a full batch."""


@dataclass(slots=True, kw_only=True)
class Sent:
    """One request, as the router saw its replica when it sent it. Seconds."""

    at: float
    replica: str
    predicted_s: float
    correction: float
    mean_answer: float
    step_s: float
    inflight: int
    observed_s: float | None = None


def lines(path: Path) -> Iterator[Line]:
    """Raises `ValueError` naming the line where one cannot be read; the last may be cut."""
    decoder = msgspec.json.Decoder(Line)
    rows = path.read_bytes().splitlines(keepends=True)
    for number, row in enumerate(rows, 1):
        try:
            yield decoder.decode(row)
        except msgspec.DecodeError as error:
            if number < len(rows) or row.endswith(b"\n"):
                raise ValueError(f"{path}, line {number}: {error}") from error


def router_of(record: Iterable[Line]) -> str:
    """Its name, from the first heartbeat that acknowledges a send."""
    for line in record:
        if isinstance(line.event, ev.Beat) and line.event.heartbeat.received:
            return next(iter(line.event.heartbeat.received))
    return ""


def watch(record: Iterable[Line], dispatcher: Dispatcher) -> Iterator[tuple[float, str] | Sent]:
    """Every request, in the order of sends, and (when, which) policies came in force."""
    waiting: dict[str, Sent] = {}
    beats: dict[str, Heartbeat] = {}
    for line in record:
        event = line.event
        if isinstance(event, ev.Beat):
            beats[event.heartbeat.replica] = event.heartbeat
        elif isinstance(event, ev.Activated):
            yield line.now, event.activation.cause
        for action in dispatcher.handle(line.now, event):
            if isinstance(action, ev.Send):
                sent = waiting[action.request_id] = _sent(dispatcher, line.now, action, beats[action.replica])
                yield sent
        if isinstance(event, ev.Tokens | ev.Ended) and event.request_id in waiting:
            sent = waiting.pop(event.request_id)
            sent.observed_s = line.now - sent.at


def _sent(dispatcher: Dispatcher, now: float, send: ev.Send, beat: Heartbeat) -> Sent:
    ticket = dispatcher._live[send.request_id]  # noqa: SLF001 - nobody else asks a dispatcher what it believes
    state = ticket.replica
    assert state is not None
    factor = state.latency.ttft_correction.factor
    return Sent(
        at=now,
        replica=send.replica,
        predicted_s=ticket.raw_ttft * factor,
        correction=factor,
        mean_answer=ticket.model.lengths.mean,
        step_s=_full_step(beat.step_model, beat.max_running),
        inflight=len(state.flights),
    )


def _full_step(steps: StepModel | None, running: int) -> float:
    if steps is None:
        return 0.0
    return steps.base_s + steps.sequence_s * running + steps.prefill_token_s * PROMPT_TOKENS


def show(seen: Iterable[tuple[float, str] | Sent], every: float) -> None:
    print(
        f"{'s':>6} {'replica':>16} {'sent':>5} {'predicted s':>12} {'observed s':>11} {'correction':>11}",
        end="",
    )
    print(f" {'full step ms':>13} {'in flight':>10} {'answer':>7}")
    start: float | None = None
    bins: dict[tuple[int, str], list[Sent]] = defaultdict(list)
    changes: dict[int, str] = {}
    for item in seen:
        at = item.at if isinstance(item, Sent) else item[0]
        start = at if start is None else start
        if isinstance(item, Sent):
            bins[int((at - start) / every), item.replica].append(item)
        else:
            changes[int((at - start) / every)] = item[1]
    for (number, replica), group in sorted(bins.items()):
        if number in changes:
            print(f"{number * every:6.0f} another policy: {changes.pop(number)}")
        print(f"{number * every:6.0f} {replica:>16} {len(group):5} {_row(group)}")


def _row(group: list[Sent]) -> str:
    compared = [sent for sent in group if sent.observed_s is not None and sent.predicted_s]
    predicted = statistics.fmean(sent.predicted_s for sent in compared) if compared else 0.0
    observed = statistics.fmean(sent.observed_s or 0.0 for sent in compared) if compared else 0.0
    last = group[-1]
    return (
        f"{predicted:12.2f} {observed:11.2f} {last.correction:11.2f} {last.step_s * 1e3:13.1f}"
        f" {last.inflight:10} {last.mean_answer:7.0f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Predicted beside observed times to first token.")
    parser.add_argument("record", type=Path, metavar="RECORD")
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--policy", default="round_robin", help="the router's at its start")
    args = parser.parse_args()
    try:
        record = list(lines(args.record))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    dispatcher = Dispatcher(
        DispatchSettings(block_bytes=BLOCK_BYTES),
        router=router_of(record),
        policy=library.load(args.policy),
        compile=compile_activation,
    )
    show(watch(record, dispatcher), args.every)
    return 0


if __name__ == "__main__":
    sys.exit(main())
