"""A flight in the words of others: what the dispatcher is told of it, and what its replica is asked."""

from __future__ import annotations

import math
from typing import Final

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.dispatch import events as ev
from autopoiesis.router.flight import Flight

BYTES_PER_TOKEN: Final = 4


def arrival(flight: Flight, *, moved: bool = False) -> ev.Arrival:
    """Tokens that the client has are part of the prompt of what is left to do. `moved`: its replica was retired under it."""
    intake, identity = flight.intake, flight.identity
    had = len(flight.token_ids)
    return ev.Arrival(
        request_id=flight.ticket,
        model=intake.model,
        prompt_bytes=intake.prompt_bytes + BYTES_PER_TOKEN * had,
        max_tokens=max(1, flight.max_tokens - had),
        priority=identity.priority,
        klass=identity.klass,
        tenant=identity.tenant,
        session=identity.session,
        workflow=identity.workflow,
        modality=intake.modality,
        ttft_slo=math.inf if had or identity.ttft_slo_s is None else identity.ttft_slo_s,
        tpot_slo=math.inf if identity.tpot_slo_s is None else identity.tpot_slo_s,
        deadline=flight.deadline,
        block_hashes=flight.block_hashes,
        begun=had > 0,
        moved=moved,
    )


def generate(flight: Flight, nth: int, now: float, router: str) -> Generate:
    """`nth` of the sends of `router` to this replica, at time `now`."""
    intake = flight.intake
    return Generate(
        request_id=flight.wire,
        router=router,
        nth=nth,
        model=intake.model,
        endpoint=intake.endpoint,
        body=flight.body,
        stream=intake.stream,
        prompt_tokens=flight.prompt_tokens,
        max_tokens=flight.max_tokens,
        priority=flight.priority,
        deadline_s=max(0.0, flight.deadline - now),
        block_hashes=flight.block_hashes,
        path=intake.path + intake.query,
        method=intake.method,
        content_type=intake.content_type,
        resume_token_ids=tuple(flight.token_ids),
        prefill_only=flight.prefill_only,
        kv_transfer=flight.kv_transfer,
    )
