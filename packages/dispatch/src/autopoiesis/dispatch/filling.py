"""Filling of views: per policy, functions that write only the fields it reads.

The tables say how each field is computed; one function per view is generated from the rows a policy needs, because a
call per field and replica would cost more than the policy itself. Names in the expressions: `t` the ticket, `a` its
arrival, `m` its model, `s` a replica's state, `l` its latency model, `c` the traffic counts, `now`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from autopoiesis.dispatch.handover import transfer_time
from autopoiesis.dispatch.models import Offer
from autopoiesis.dispatch.ticket import Ticket
from autopoiesis.policy.api import DispatchContext, Request

REQUEST: Final[dict[str, str]] = {
    "seq": "t.seq",
    "prompt_tokens": "t.prompt_tokens",
    "max_tokens": "a.max_tokens",
    "expected_output_tokens": "t.expected_output",
    "arrival": "t.arrival",
    "waited": "now - t.arrival",
    "priority": "a.priority",
    "tenant": "t.tenant.number",
    "session": "t.session.number",
    "model": "m.number",
    "adapter": "t.adapter",
    "modality": "a.modality",
    "ttft_slo": "a.ttft_slo",
    "tpot_slo": "a.tpot_slo",
    "deadline": "a.deadline",
    "session_replica": "t.session.replica.view.id if t.session.replica and t.session.replica.ready else -1",
    "tenant_service": "t.tenant.service.at(now)",
    "session_service": "t.session.service.at(now)",
    "attempts": "t.attempts",
    "workflow": "t.workflow.view(now) if t.workflow else None",
}

CONTEXT: Final[dict[str, str]] = {
    "now": "now",
    "queue_length": "len(m.queue.entries)",
    "queued_prompt_tokens": "m.queue.prompt_tokens",
    "arrival_rate": "c.arrival_rate(now)",
    "arrival_rate_60": "c.arrival_rate_60(now)",
    "attainment": "c.attainment(now)",
    "mean_output_tokens": "c.mean_output_tokens(now)",
    "mean_output_tokens_60": "c.mean_output_tokens_60(now)",
    "mean_prompt_tokens": "c.mean_prompt_tokens(now)",
    "mean_prompt_tokens_60": "c.mean_prompt_tokens_60(now)",
    "routers": "offer.routers",
}
"""`random` is bound once, and seeded for each decision."""

CORRECTED: Final[dict[str, str]] = {
    "running": "running",
    "waiting": "waiting",
    "queued_prefill_tokens": "s.fresh_prefill + (s.queued if s.queued > 0 else 0)",
    "kv_used_tokens": "s.fresh_kv + (s.held if s.held > 0 else 0)",
    "inflight": "len(s.flights)",
}
"""Fields of replicas that change with what happens to them, written for those that something happened to."""

CALLED: Final[dict[str, str]] = {
    "prefix_hit_tokens": "hit",
    "adapter_loaded": "a.adapter in s.beat.adapters",
    "predicted_ttft": "l.raw_ttft(prompt - hit) * l.ttft_correction.factor",
    "predicted_tpot": "l.raw_tpot(prompt) * l.tpot_correction.factor",
    "stats_age": "now - s.beat_at",
    "uptime": "s.beat.uptime_s + now - s.beat_at",
    "notice": "max(0.0, s.notice_at - now)",
    "fault_rate": "s.faults.at(now)",
    "transfer_time": "transfer_time(s, t)",
}
"""Fields of replicas that depend on the request or on the time."""

SHORTHANDS: Final = {"a": "a = t.event", "m": "m = t.model", "c": "c = m.traffic"}
HIT: Final = frozenset({"prefix_hit_tokens", "predicted_ttft"})
LATENCY: Final = frozenset({"predicted_ttft", "predicted_tpot"})

Fill = Callable[[Request, DispatchContext, Ticket, Offer, float], None]
Hits = Callable[[Ticket], Mapping[int, int]]
Reads = Mapping[str, frozenset[str]]


def request_filler(reads: Reads) -> Fill:
    """A function that fills the request and the context for one call."""
    return _function(_described(reads), {})


def filler(reads: Reads, hits: Hits, *, alone: bool = True) -> Fill:
    """A function that fills the request, the context and the views of an offer's replicas for one call.

    Not `alone`: another policy fills the same views, so that what happened to replicas is left for it to find.
    """
    fields = reads.get("Replica", frozenset())
    corrected = _rows(CORRECTED, fields)
    if fields & {"running", "waiting"}:
        corrected = ["running, waiting = s.batch()", *corrected]
    called = _rows(CALLED, fields)
    if fields & HIT:
        called = ["if found: hit = found.get(s.slot, 0)", *called]
    if fields & LATENCY:
        called = ["if s.stale: s.predict(now, offer.routers)", "l = s.latency", *called]
    lines = _described(reads)
    if corrected and alone:
        lines += ["if m.reader is not reader: m.reader = reader; m.touched.update(dict.fromkeys(m.members))"]
        lines += ["if m.touched:", *_each("m.touched", corrected), "    m.touched.clear()"]
    elif corrected:
        called = corrected + called
    if called:
        lines += ["prompt = t.prompt_tokens"]
        lines += ["found = hits(t)", "hit = 0"] if fields & HIT else []
        lines += [line[4:] for line in _each("offer.states", called)]
    return _function(lines, {"hits": hits, "reader": object()})


def _described(reads: Reads) -> list[str]:
    request, context = (reads.get(view, frozenset()) for view in ("Request", "DispatchContext"))
    lines = [f"r.{field} = {value}" for field, value in REQUEST.items() if field in request]
    return lines + [f"x.{field} = {value}" for field, value in CONTEXT.items() if field in context]


def _rows(table: Mapping[str, str], fields: frozenset[str]) -> list[str]:
    return [f"v.{field} = {value}" for field, value in table.items() if field in fields]


def _each(states: str, body: list[str]) -> list[str]:
    return [f"    for s in {states}:", *(f"        {line}" for line in ["v = s.view", *body])]


def _function(lines: list[str], names: dict[str, Any]) -> Fill:
    named = set(re.findall(r"\b([amc])\.", "\n".join(lines)))
    lines = [
        line for name, line in SHORTHANDS.items() if name in named or (name == "m" and "c" in named)
    ] + lines
    source = "def fill(r, x, t, offer, now):\n" + "".join(f"    {line}\n" for line in lines or ["pass"])
    namespace = {"math": math, "transfer_time": transfer_time, **names}
    exec(compile(source, "<views>", "exec"), namespace)  # noqa: S102 - the text comes from the tables above alone
    function: Fill = namespace["fill"]
    return function
