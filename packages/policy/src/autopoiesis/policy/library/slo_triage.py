"""SLO triage at arrival: to a replica predicted to meet TTFT and TPOT with KV room, most prefix hits first.

What can no longer meet its SLO is sent where it hurts least: to the replica that is furthest behind already, at the
back of that engine's queue. The backlog of an overload so gathers in one place, and the others stay fit for requests
that can still be served in time; a shared backlog would make every request late. Source: ours.
"""

API = 1

LAST = 1_000_000
PATIENCE = 60.0


def prioritize(request, ctx):
    return request.arrival + min(request.ttft_slo, PATIENCE)


def route(request, replicas, ctx):
    able = [r for r in replicas if meets(request, r)]
    if able:
        return Assign(max(able, key=lambda r: (r.prefix_hit_tokens, -r.predicted_ttft)).index)
    return Assign(max(replicas, key=lambda r: (r.predicted_ttft, r.predicted_tpot)).index, priority=LAST)


def meets(request, replica):
    return (
        request.waited + replica.predicted_ttft <= request.ttft_slo
        and replica.predicted_tpot <= request.tpot_slo
        and has_room(request, replica)
    )


def has_room(request, replica):
    needed = request.prompt_tokens - replica.prefix_hit_tokens + request.expected_output_tokens
    return replica.kv_used_tokens + needed <= replica.kv_capacity_tokens
