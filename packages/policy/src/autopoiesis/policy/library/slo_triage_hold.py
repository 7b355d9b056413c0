"""SLO triage with HOLD: as `slo_triage`, but a request that could still make it elsewhere or later waits in the queue.

Waiting ends when hardly a replica would give the first token in time any more; then the request goes where it hurts
least, to the replica that is furthest behind already. Source: ours.
"""

API = 1

LAST = 1_000_000
PATIENCE = 60.0
MARGIN = 0.8


def prioritize(request, ctx):
    return request.arrival + min(request.ttft_slo, PATIENCE)


def route(request, replicas, ctx):
    able = [r for r in replicas if meets(request, r)]
    if able:
        return Assign(max(able, key=lambda r: (r.prefix_hit_tokens, -r.predicted_ttft)).index)
    soonest = min(r.predicted_ttft for r in replicas)
    if request.waited + soonest <= MARGIN * min(request.ttft_slo, PATIENCE):
        return HOLD
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
