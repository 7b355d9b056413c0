"""What dispatch policies can be built of: terms of scores, orders of queues, conditions to hold or reject.

A term is an expression in `replica`, `request` and `ctx`, scaled to about 0..1 where a difference matters, and better when
smaller. `{c}` marks a constant that is drawn anew and later perturbed. Add a line to add to the search space.
"""

from dataclasses import dataclass

_TTFT = "(request.waited + replica.predicted_ttft)"
_KV_AFTER = "(replica.kv_used_tokens + request.prompt_tokens + request.expected_output_tokens)"


@dataclass(frozen=True, slots=True)
class Phrase:
    """`text` with its constants drawn log-uniformly from `low` to `high`."""

    text: str
    low: float = 0.5
    high: float = 2.0


TERMS: dict[str, Phrase] = {
    "first token": Phrase(f"{_TTFT} / max(request.ttft_slo, 0.001)"),
    "pace": Phrase("replica.predicted_tpot / max(request.tpot_slo, 0.001)"),
    "late": Phrase(f"(1.0 if {_TTFT} > {{c}} * request.ttft_slo else 0.0)", 0.6, 1.1),
    "slow": Phrase("(1.0 if replica.predicted_tpot > {c} * request.tpot_slo else 0.0)", 0.7, 1.05),
    "overshoot": Phrase(f"max(0.0, {_TTFT} / max(request.ttft_slo, 0.001) - {{c}})", 0.5, 1.0),
    "pace headroom": Phrase("max(0.0, 1.0 - replica.predicted_tpot / max(request.tpot_slo, 0.001))"),
    "first token headroom": Phrase(f"max(0.0, 1.0 - {_TTFT} / max(request.ttft_slo, 0.001))"),
    "keep fast ones free": Phrase("request.priority * {c} / max(replica.predicted_tpot, 0.001)", 0.002, 0.02),
    "end to end": Phrase("replica.predicted_ttft + request.expected_output_tokens * replica.predicted_tpot"),
    "batch": Phrase("(replica.running + replica.waiting) / max(replica.max_running, 1)"),
    "engine queue": Phrase("replica.waiting / max(replica.max_running, 1)"),
    "own requests": Phrase("replica.inflight / max(replica.max_running, 1)"),
    "prefill backlog": Phrase("replica.queued_prefill_tokens / {c}", 2048, 16384),
    "memory": Phrase(f"{_KV_AFTER} / max(replica.kv_capacity_tokens, 1)"),
    "memory full": Phrase(f"(1.0 if {_KV_AFTER} > {{c}} * replica.kv_capacity_tokens else 0.0)", 0.8, 1.0),
    "cached prefix": Phrase("1.0 - replica.prefix_hit_tokens / max(request.prompt_tokens, 1)"),
    "session": Phrase("(0.0 if replica.id == request.session_replica else 1.0)"),
    "price": Phrase("replica.price / {c}", 2.0, 20.0),
    "stale figures": Phrase("replica.stats_age"),
    "faults": Phrase("replica.fault_rate"),
    "chance": Phrase("ctx.random()"),
}
"""Of a replica's score, lower is better."""

FILTERS: dict[str, Phrase] = {
    "meets both objectives": Phrase(
        f"{_TTFT} <= {{c}} * request.ttft_slo and replica.predicted_tpot <= {{c}} * request.tpot_slo",
        0.7,
        1.05,
    ),
    "keeps the pace": Phrase("replica.predicted_tpot <= {c} * request.tpot_slo", 0.7, 1.05),
    "first token in time": Phrase(f"{_TTFT} <= {{c}} * request.ttft_slo", 0.6, 1.1),
    "has room": Phrase(f"{_KV_AFTER} <= {{c}} * replica.kv_capacity_tokens", 0.8, 1.0),
    "no engine queue": Phrase("replica.waiting <= {c}", 0.5, 8.0),
    "no announced loss": Phrase("replica.notice > {c}", 5.0, 120.0),
}
"""Which replicas are considered, if any passes."""

ORDERS: dict[str, Phrase] = {
    "arrival": Phrase("-request.waited"),
    "class": Phrase("{c} * request.priority", 1.0, 30.0),
    "slack": Phrase("min(request.ttft_slo, {c}) - request.waited", 20.0, 120.0),
    "short answers": Phrase("request.expected_output_tokens / {c}", 100.0, 2000.0),
    "short prompts": Phrase("request.prompt_tokens / {c}", 500.0, 8000.0),
    "fair to tenants": Phrase("request.tenant_service / {c}", 2000.0, 50000.0),
    "already late goes last": Phrase("({c} if request.waited > request.ttft_slo else 0.0)", 1.0, 60.0),
}
"""Terms of `prioritize`: lower goes first."""

_BEST_TTFT = "min(replica.predicted_ttft for replica in replicas)"
_LEAST_WAITING = "min(replica.waiting for replica in replicas)"

HOLDS: dict[str, Phrase] = {
    "every batch is full": Phrase(
        "min((replica.running + replica.waiting) / max(replica.max_running, 1) for replica in replicas) > {c}",
        0.7,
        1.5,
    ),
    "every engine queues": Phrase(f"{_LEAST_WAITING} > {{c}}", 0.5, 8.0),
    "lower classes wait while the first token is late": Phrase(
        f"request.priority > 0 and request.waited < {{c}} * request.ttft_slo and {_BEST_TTFT} > {{c}} * request.ttft_slo",
        0.2,
        1.0,
    ),
}

REJECTS: dict[str, Phrase] = {
    "hopeless": Phrase(f"request.waited + {_BEST_TTFT} > {{c}} * request.ttft_slo", 1.5, 8.0),
    "hopeless lower class under strain": Phrase(
        f"request.priority > 0 and ctx.attainment < {{c}} and request.waited + {_BEST_TTFT} > request.ttft_slo",
        0.5,
        0.95,
    ),
}
