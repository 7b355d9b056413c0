"""SLO triage at arrival: to a replica predicted to meet TTFT and TPOT with KV room, most prefix hits first.

What can no longer meet its SLO is sent where it hurts least: to the replica that is already furthest behind, and to
the back of that engine's queue, so that the others stay fit for requests that can still be served in time.
"""

API = 1

PATIENCE = 60.0


def prioritize(request, ctx):
    return request.arrival + min(request.ttft_slo, PATIENCE)


def route(request, replicas, ctx):
    able = [r for r in replicas if meets(request, r)]
    if able:
        return Assign(max(able, key=lambda r: (r.prefix_hit_tokens, -r.predicted_ttft)).index)
    prompt = [
        r for r in replicas if request.waited + r.predicted_ttft <= request.ttft_slo and has_room(request, r)
    ]
    if prompt:
        return Assign(min(prompt, key=lambda r: (r.predicted_tpot, r.predicted_ttft)).index)
    open_ones = [r for r in replicas if r.waiting < r.max_running]
    if open_ones:
        return Assign(max(open_ones, key=lambda r: (r.predicted_ttft, r.predicted_tpot)).index, priority=1)
    return Assign(min(replicas, key=lambda r: (r.predicted_ttft, r.inflight)).index, priority=1)


def meets(request, replica):
    return (
        request.waited + replica.predicted_ttft <= request.ttft_slo
        and replica.predicted_tpot <= request.tpot_slo
        and has_room(request, replica)
    )


def has_room(request, replica):
    needed = request.prompt_tokens - replica.prefix_hit_tokens + request.expected_output_tokens
    return replica.kv_used_tokens + needed <= replica.kv_capacity_tokens
