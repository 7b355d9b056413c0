"""Which statistics a dispatcher keeps: all where policies are swapped, else those that the one policy or the fallback reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

PARTIES = frozenset({"tenant", "session", "session_replica", "tenant_service", "session_service", "adapter"})
SERVICE = frozenset({"tenant_service", "session_service"})
LENGTHS = frozenset({"expected_output_tokens", "workflow"})


class Kept(NamedTuple):
    """Prompt sizes, mean answers, rates and predicted first tokens are always kept: estimates, refusals and the fallback need
    them.
    """

    callers: bool = True
    """Whose each request is: its tenant, session, adapter and workflow."""
    service: bool = True
    """Tokens served to tenants and sessions."""
    lengths: bool = True
    """Answers by class and length of the prompt, not their mean alone."""
    attainment: bool = True
    paces: bool = True
    """Predicted time per output token."""


def kept_for(reads: Mapping[str, frozenset[str]]) -> Kept:
    """For one policy that stays; `reads` as in `CompiledPolicy.reads`."""
    request = reads.get("Request", frozenset())
    return Kept(
        callers=bool(request & (PARTIES | {"workflow"})),
        service=bool(request & SERVICE),
        lengths=bool(request & LENGTHS),
        attainment="attainment" in reads.get("DispatchContext", frozenset()),
        paces="predicted_tpot" in reads.get("Replica", frozenset()),
    )
