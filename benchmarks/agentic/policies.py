"""Dispatch policies for agentic workflows on prefill-decode clusters: an order of waiting calls times a placement, each a few lines.

After HexAGenT (arXiv 2605.16637) and the schedulers it compares with; `run.py` says what is and is not its.
"""

from __future__ import annotations

ORDERS = {
    "call FCFS": "request.arrival",
    "workflow FCFS": "ctx.now - request.workflow.age",
    "workflow LLF": "request.workflow.horizon - request.workflow.age - request.workflow.remaining_path",
    "ATLAS": "request.workflow.attained",
    "HexAGenT": "0.0 - request.workflow.projected_ratio",
}
"""Keys of calls that wait for a prefill replica, lowest first. ATLAS: least attained service on the critical path (Autellix).
LLF: laxity is the horizon less the age and what is left. HexAGenT: most of its horizon used up, in projection."""

PLACEMENTS = {
    "balanced": """
def place(request, free, decodes):
    prefill = min(free, key=lambda r: (r.queued_prefill_tokens, (r.index - request.seq) % 64))
    decode = min(decodes, key=lambda r: (r.inflight, (r.index - request.seq) % 64))
    return prefill, decode
""",
    "joint": """
def place(request, free, decodes):
    best, least = (free[0], decodes[0]), math.inf
    needed = request.prompt_tokens + request.expected_output_tokens
    for decode in decodes:
        room = decode.kv_used_tokens + needed <= decode.kv_capacity_tokens
        after = decode.transfer_time + request.expected_output_tokens * decode.predicted_tpot
        for prefill in free:
            finish = prefill.predicted_ttft + after + (0.0 if room else FULL)
            if finish < least:
                best, least = (prefill, decode), finish
    return best
""",
}
"""Where a call goes. Joint: the pair of prefill and decode replica with the earliest projected end, as far as the cache has room."""

_TEXT = '''"""{order}, {placement} placement, prefill and decode apart.

Calls are held at the router, where they can still be ordered, until a prefill replica is nearly done with its prompts.
"""

API = 1

BACKLOG = 2048
FULL = 1000.0


def prioritize(request, ctx):
    if request.workflow is None:
        return request.arrival
    return {key}


def route(request, replicas, ctx):
    decodes = [r for r in replicas if r.role != "prefill"]
    free = [r for r in replicas if r.role == "prefill" and r.queued_prefill_tokens <= BACKLOG]
    if not decodes or not [r for r in replicas if r.role == "prefill"]:
        return Assign(min(replicas, key=lambda r: (r.inflight, r.index)).index)
    if not free:
        return HOLD
    prefill, decode = place(request, free, decodes)
    return Assign(prefill.index, decode=decode.index, priority=0)

{place}'''

COMPARED = (
    ("call FCFS", "balanced"),
    ("workflow FCFS", "balanced"),
    ("workflow LLF", "balanced"),
    ("ATLAS", "balanced"),
    ("HexAGenT", "balanced"),
    ("call FCFS", "joint"),
    ("HexAGenT", "joint"),
)
"""The paper's baselines, its order and its placement each alone, and both."""


def name_of(order: str, placement: str) -> str:
    return f"{order}, {placement}"


def source(order: str, placement: str) -> str:
    """One policy of the two tables."""
    place = PLACEMENTS[placement]
    return _TEXT.format(order=order, placement=placement, key=ORDERS[order], place=place)


def compared() -> dict[str, str]:
    return {name_of(*pair): source(*pair) for pair in COMPARED}
