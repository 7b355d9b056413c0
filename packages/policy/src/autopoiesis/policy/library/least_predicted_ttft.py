"""Least predicted TTFT: the replica that is expected to give the first token soonest.

The predictor is the dispatcher's: queued prefill, batch and measured step times.
"""

API = 1


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    return Assign(min(replicas, key=lambda r: (r.predicted_ttft, r.inflight)).index)
