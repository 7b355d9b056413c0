from autopoiesis.evaluator.case import Case
from autopoiesis.evaluator.replays import Replays
from autopoiesis.simulator.requests.recorded import UnplannedError, planning_of


class Planned:
    """A plan policy can be replayed: a planner of one model was at work in the window."""

    name = "planned"

    def __init__(self, replays: Replays) -> None:
        self._replays = replays

    async def __call__(self, case: Case) -> str | None:
        if case.beside is None:
            return None
        blocks = await self._replays.open_blocks(case.window, case.beside)
        try:
            planning_of(case.candidate.source, blocks.window.info)
        except UnplannedError as error:
            return str(error)
        return None
