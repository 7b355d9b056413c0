from autopoiesis.contracts.messages.policy import Score
from autopoiesis.evaluator import scoring
from autopoiesis.evaluator.case import Arm, Case
from autopoiesis.evaluator.replays import FailedReplayError, Replays


class Selection:
    """On the open blocks it beats the incumbent, and no shipped policy is at least as good at every load and better at one.

    The rivals' replays are shared by all candidates of a window: seeds are per window here, and fresh only where it is
    decided.
    """

    name = "selection"

    def __init__(self, replays: Replays) -> None:
        self._replays = replays

    async def __call__(self, case: Case) -> str | None:
        trace = await self._replays.open_blocks(case.window)
        rivals = [arm for arm in case.baselines if arm.hash != case.candidate.hash]
        try:
            ours = await self._replays.run(case.candidate, trace)
        except FailedReplayError as error:
            return f"its replay failed: {error}"
        theirs = await self._replays.run(case.incumbent, trace)
        case.findings.scores, case.findings.incumbent_scores = scoring.scores(ours), scoring.scores(theirs)
        case.findings.faults = sum(replay.faults for replay in ours)
        case.findings.fuel_mean = scoring.fuel_mean(ours)
        against = {arm: scoring.scores(await self._replays.run(arm, trace)) for arm in rivals}
        self._note_baseline(case, against)
        if _mean(case.findings.scores) <= _mean(case.findings.incumbent_scores):
            return "on the open blocks it does not beat the incumbent"
        for arm, scores in against.items():
            if _dominates(scores, case.findings.scores):
                return f"on the open blocks {arm.name} is at least as good at every load and better at one"
        return None

    def _note_baseline(self, case: Case, against: dict[Arm, tuple[Score, ...]]) -> None:
        if not against:
            return
        best = max(against, key=lambda arm: (_mean(against[arm]), arm.name))
        case.findings.best_baseline = best
        theirs = _mean(against[best])
        case.findings.gain_over_baseline = _mean(case.findings.scores) / theirs - 1 if theirs else 0.0


def _mean(scores: tuple[Score, ...]) -> float:
    return sum(score.goodput for score in scores) / len(scores)


def _dominates(one: tuple[Score, ...], other: tuple[Score, ...]) -> bool:
    pairs = [(a.goodput, b.goodput) for a, b in zip(one, other, strict=True)]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
