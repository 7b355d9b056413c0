from autopoiesis.evaluator import scoring
from autopoiesis.evaluator.case import Case
from autopoiesis.evaluator.replays import Blocks, Replays
from autopoiesis.evaluator.scoring import Replay
from autopoiesis.evaluator.settings import EvaluatorSettings
from autopoiesis.simulator.statistics import TooFewBlocksError, paired_gain
from autopoiesis.store import Store


class Decision:
    """On the sealed blocks, with fresh seeds, it is better than the incumbent with confidence, and harms no one.

    Every look at sealed blocks spends some of what they can prove, so there are `looks` of them per window, and each is
    taken at an equal share of the allowed error (Bonferroni). Only a bound that is too high promotes wrongly, so the
    two-sided interval has twice that error.
    """

    name = "decision"

    def __init__(self, store: Store, replays: Replays, settings: EvaluatorSettings) -> None:
        self._store = store
        self._replays = replays
        self._settings = settings

    async def __call__(self, case: Case) -> str | None:
        if not case.window.sealed_hash:
            return "this window has no sealed blocks to decide on"
        async with self._store.begin() as unit:
            looks = await unit.evaluations.looks(case.window.sealed_hash, self.name)
        if looks >= self._settings.looks:
            return f"{looks} candidates were decided on these sealed blocks already; it needs a new window"
        blocks = await self._replays.sealed_blocks(case.window, case.beside, seed=case.seed)
        ours = await self._replays.run(case.candidate, blocks)
        theirs = await self._replays.run(case.incumbent, blocks)
        await self._compare_with_baseline(case, blocks, ours)
        return self._note(case, ours, theirs, blocks.model_error) or self._limits(case, ours, theirs)

    def _note(
        self, case: Case, ours: list[Replay], theirs: list[Replay], model_error: float | None
    ) -> str | None:
        settings, found = self._settings, case.findings
        block_s = settings.block_s if case.beside is None else settings.plan_block_s
        found.scores, found.incumbent_scores = scoring.scores(ours), scoring.scores(theirs)
        found.faults = sum(replay.faults for replay in ours)
        found.fuel_mean = scoring.fuel_mean(ours)
        found.model_error = model_error
        found.confidence = 1 - 2 * (1 - settings.confidence) / settings.looks
        try:
            found.gain = paired_gain(
                scoring.blocks(ours, block_s),
                scoring.blocks(theirs, block_s),
                confidence=found.confidence,
                seed=case.seed,
            )
        except TooFewBlocksError as error:
            return f"too short a sealed window: {error}"
        return None

    def _limits(self, case: Case, ours: list[Replay], theirs: list[Replay]) -> str | None:
        settings, found = self._settings, case.findings
        if found.gain.low <= settings.min_gain:
            return (
                f"gain {found.gain.gain:+.1%} is not certain to be above {settings.min_gain:.1%}: "
                f"{found.gain.low:+.1%} to {found.gain.high:+.1%} at {found.confidence:.1%} confidence"
            )
        if found.faults > settings.max_faults:
            return f"{found.faults} faults in its replays; {settings.max_faults} are allowed"
        if found.fuel_mean > settings.max_fuel:
            return f"it uses {found.fuel_mean:.0f} fuel per request; {settings.max_fuel:.0f} are allowed"
        if found.model_error is not None and found.model_error > settings.max_model_error:
            return f"the simulator is off by {found.model_error:.0%} here; {settings.max_model_error:.0%} are allowed"
        rejected = max(score.rejected for score in found.scores)
        if rejected > settings.max_rejected:
            return f"it rejects {rejected:.1%} of arrivals; {settings.max_rejected:.1%} are allowed"
        for slice_, allowed in (("klass", settings.max_class_loss), ("gpu", settings.max_gpu_loss)):
            for name, loss in scoring.losses(ours, theirs, slice_).items():
                if loss > allowed:
                    return f"{name} loses {loss:.1%} attainment; {allowed:.1%} is allowed"
        return None

    async def _compare_with_baseline(self, case: Case, blocks: Blocks, ours: list[Replay]) -> None:
        best = case.findings.best_baseline
        if best is not None:
            theirs = scoring.goodput(await self._replays.run(best, blocks))
            case.findings.gain_over_baseline = scoring.goodput(ours) / theirs - 1 if theirs else 0.0
