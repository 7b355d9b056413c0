"""A policy together with the views it is shown."""

from __future__ import annotations

import math
from typing import cast

from autopoiesis.dispatch.chance import Chance
from autopoiesis.dispatch.filling import LATENCY, Hits, filler, request_filler
from autopoiesis.dispatch.models import Offer
from autopoiesis.dispatch.port import CompiledPolicy, PlacesDecode
from autopoiesis.dispatch.ticket import Ticket
from autopoiesis.policy.api import DispatchContext, Request, RouteDecision


class Decider:
    """Fills what `policy` reads and calls it. Whatever the policy raises passes through."""

    __slots__ = (
        "_chance",
        "_context",
        "_fill",
        "_fill_request",
        "_request",
        "_seed",
        "_uses_chance",
        "places",
        "policy",
        "predicts",
    )

    def __init__(self, policy: CompiledPolicy, hits: Hits, seed: int, *, alone: bool = True) -> None:
        self.policy = policy
        self.places = "place_decode" in getattr(policy, "functions", ())
        """It chooses where computed prompts go on."""
        self._seed = seed
        self._chance = Chance()
        self._request = Request()
        self._context = DispatchContext()
        self._context.random = self._chance.uniform
        self._fill_request = request_filler(policy.reads)
        self._fill = filler(policy.reads, hits, alone=alone)
        self.predicts = bool(LATENCY & policy.reads.get("Replica", frozenset()))
        self._uses_chance = "random" in policy.reads.get("DispatchContext", ())

    def key(self, now: float, ticket: Ticket, offer: Offer) -> float:
        """The policy's priority. Raises ValueError where it is not a number."""
        self._fill_request(self._request, self._context, ticket, offer, now)
        if self._uses_chance:
            self._chance.seed(self._seed, 2 * ticket.seq)
        try:
            key = float(self.policy.prioritize(self._request, self._context))
        finally:
            ticket.fuel += self.policy.fuel_used
        if math.isnan(key):
            raise ValueError("prioritize returned nan; a number that can be ordered is needed")
        return key

    def route(self, now: float, ticket: Ticket, offer: Offer) -> RouteDecision:
        """The policy's decision."""
        self._fill(self._request, self._context, ticket, offer, now)
        if self._uses_chance:
            self._chance.seed(self._seed, 2 * ticket.seq + 1)
        policy = self.policy
        try:
            return policy.route(self._request, offer.views, self._context)
        finally:
            ticket.fuel += policy.fuel_used

    def place_decode(self, now: float, ticket: Ticket, offer: Offer) -> RouteDecision:
        """The policy's second choice; only where it `places`."""
        self._fill(self._request, self._context, ticket, offer, now)
        if self._uses_chance:
            self._chance.seed(~self._seed, 2 * ticket.seq + 1)
        try:
            return cast(PlacesDecode, self.policy).place_decode(self._request, offer.views, self._context)
        finally:
            ticket.fuel += self.policy.fuel_used
