import logging

from autopoiesis.contracts.messages.policy import Score
from autopoiesis.evaluator import scoring
from autopoiesis.evaluator.case import Arm, Case
from autopoiesis.evaluator.replays import Blocks, FailedReplayError, Replays

log = logging.getLogger(__name__)

EDGE = 0.01
"""Relative goodput by which a shipped policy must lead over all loads: near the ceiling a single request is no lead."""


class Selection:
    """On the open blocks it beats the incumbent, and no shipped policy is at least as good at every load and clearly better.

    The rivals' replays are shared by all candidates of a window: seeds are per window here, and fresh only where it is
    decided.
    """

    name = "selection"

    def __init__(self, replays: Replays) -> None:
        self._replays = replays

    async def __call__(self, case: Case) -> str | None:
        found = case.findings
        blocks = await self._replays.open_blocks(case.window, case.beside)
        ours = await self._replays.run(case.candidate, blocks)
        found.scores = scoring.scores(ours)
        found.incumbent_scores = scoring.scores(await self._replays.run(case.incumbent, blocks))
        found.faults = sum(replay.faults for replay in ours)
        found.fuel_mean = scoring.fuel_mean(ours)
        if _mean(found.scores) <= _mean(found.incumbent_scores):
            return "on the open blocks it does not beat the incumbent"
        rivals = await self._rivals(case, blocks)
        self._note_best(case, rivals)
        better = [arm for arm, scores in rivals.items() if _dominates(scores, found.scores)]
        if not better:
            return None
        best = found.dominated_by = max(better, key=lambda arm: (_mean(rivals[arm]), arm.name))
        return f"on the open blocks {best.name} is at least as good at every load and clearly better"

    async def _rivals(self, case: Case, blocks: Blocks) -> dict[Arm, tuple[Score, ...]]:
        """Every other shipped policy; one whose replay fails is no rival here."""
        rivals: dict[Arm, tuple[Score, ...]] = {}
        for arm in case.baselines:
            if arm.hash != case.candidate.hash:
                try:
                    rivals[arm] = scoring.scores(await self._replays.run(arm, blocks))
                except FailedReplayError as error:
                    log.warning("no comparison with %s: its replay failed: %s", arm.name, error)
        return rivals

    def _note_best(self, case: Case, rivals: dict[Arm, tuple[Score, ...]]) -> None:
        if not rivals:
            return
        best = max(rivals, key=lambda arm: (_mean(rivals[arm]), arm.name))
        case.findings.best_baseline = best
        theirs = _mean(rivals[best])
        case.findings.gain_over_baseline = _mean(case.findings.scores) / theirs - 1 if theirs else 0.0


def _mean(scores: tuple[Score, ...]) -> float:
    return sum(score.goodput for score in scores) / len(scores)


def _dominates(one: tuple[Score, ...], other: tuple[Score, ...]) -> bool:
    never_worse = all(a.goodput >= b.goodput for a, b in zip(one, other, strict=True))
    return never_worse and _mean(one) > (1 + EDGE) * _mean(other)
