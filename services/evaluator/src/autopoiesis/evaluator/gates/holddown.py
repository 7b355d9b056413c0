from autopoiesis.evaluator.case import Case
from autopoiesis.store import Store


class HoldDown:
    """It was not rolled back since this window was recorded: what failed live does not return on the evidence it had then."""

    name = "hold-down"

    def __init__(self, store: Store) -> None:
        self._store = store

    async def __call__(self, case: Case) -> str | None:
        proposal = case.proposal
        async with self._store.begin() as unit:
            at = await unit.activations.rolled_back_unix_s(proposal.scope, proposal.kind, case.candidate.hash)
        if at is not None and case.window.end_unix_s <= at:
            return "it was rolled back after this window; it needs newer evidence"
        return None
