"""Least predicted TTFT: the replica that is expected to give the first token soonest.

The predictor is the dispatcher's: queued prefill, batch and measured step times.
Source: R. Qin et al., "Mooncake", arXiv 2407.00079, which sends a prompt where its TTFT is estimated to be least.
"""

API = 1


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    return Assign(min(replicas, key=lambda r: (r.predicted_ttft, r.inflight)).index)
