"""What decides where no policy can: our own Python, in the shape of a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autopoiesis.policy.api import Assign, DispatchContext, Replica, Request, RouteDecision


class Fallback:
    """The replica with the least predicted time to first token, of equal ones the one with fewer requests in flight.
    First come, first served. Replicas that only decode are used where there is no other. Computed prompts go on at the replica with
    the fewest requests in flight, in proportion to its KV cache.
    """

    hash = "fallback"
    reads: Mapping[str, frozenset[str]] = {
        "Request": frozenset({"arrival"}),
        "Replica": frozenset({"index", "role", "predicted_ttft", "inflight", "kv_capacity_tokens"}),
    }
    functions = frozenset({"prioritize", "route", "place_decode"})
    fuel_used = 0

    def prioritize(self, request: Request, ctx: DispatchContext) -> float:
        return request.arrival

    def route(self, request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
        best = min(
            replicas, key=lambda replica: (replica.role == "decode", replica.predicted_ttft, replica.inflight)
        )
        return Assign(best.index)

    def place_decode(
        self, request: Request, replicas: Sequence[Replica], ctx: DispatchContext
    ) -> RouteDecision:
        best = min(
            replicas, key=lambda r: (r.role == "prefill", (r.inflight + 1) / max(1, r.kv_capacity_tokens))
        )
        return Assign(best.index)
