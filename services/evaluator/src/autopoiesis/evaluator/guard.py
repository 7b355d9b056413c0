"""After a promotion: roll back when the policy is quarantined, or when attainment fell significantly.

Acts in mode `auto` alone; in the others it says what it would have done. A policy rolled back is held down by its history
(see `gates/holddown.py`).
"""

import logging
from collections.abc import Sequence

from autopoiesis.contracts.messages.policy import Faulted, Kind
from autopoiesis.contracts.messages.telemetry import RequestBatch
from autopoiesis.evaluator.attainment import Attainment
from autopoiesis.evaluator.comparison import change
from autopoiesis.evaluator.settings import EvaluatorSettings
from autopoiesis.runtime.bus import Delivered
from autopoiesis.store import Mode, NotFoundError, StaleError, Standing, Store, promotion

log = logging.getLogger(__name__)

LOOKS = 6
"""Times that attainment is compared after one promotion, evenly over the window."""
CHECK_S = 1.0


class Guard:
    """Consumes `policy.faulted` and `telemetry.request`."""

    def __init__(self, store: Store, settings: EvaluatorSettings, *, configured: Mode) -> None:
        self._store = store
        self._settings = settings
        self._configured: Mode = configured
        self.memory_s = 3 * settings.guard_window_s + settings.guard_settle_s
        """Seconds of telemetry that a comparison may need."""
        self.begin()

    def begin(self) -> None:
        """Forget all that was counted; `memory_s` of telemetry from before now are to follow, and whoever led before drops out.

        Looks are taken by the clock of the data, so that the same ones are taken at the same records again.
        """
        self._attainment = Attainment(keep_s=self.memory_s)
        self._checked = float("-inf")
        self._looked: dict[int, int] = {}
        """Epoch to the last look taken."""

    async def on_fault(self, delivered: Delivered[Faulted]) -> None:
        fault = delivered.message
        if fault.quarantined:
            cause = f"quarantined by {fault.service} after {fault.strikes} faults: {fault.fault}"
            await self._roll_back(fault.scope, fault.kind, fault.epoch, cause)

    async def on_requests(self, delivered: Delivered[RequestBatch]) -> None:
        self._attainment.add(delivered.message.records)
        if self._attainment.now - self._checked >= CHECK_S:
            self._checked = self._attainment.now
            async with self._store.begin() as unit:
                standings = await unit.activations.in_force()
            for standing in standings:
                await self._compare(standing, standings)

    async def _compare(self, standing: Standing, standings: Sequence[Standing]) -> None:
        row = standing.activation
        if row.rollback or row.replaces is None:
            return
        epochs = _epochs(standing, standings)
        if epochs is None:
            return
        settings, since = self._settings, row.created.timestamp()
        settled = min(self._attainment.now - settings.guard_settle_s, since + settings.guard_window_s)
        look = int(LOOKS * (settled - since) / settings.guard_window_s)
        if look <= self._looked.get(row.epoch, 0):
            return
        self._looked[row.epoch] = look
        washout = settings.guard_washout_s if row.kind == "dispatch" else settings.guard_plan_washout_s
        before = self._attainment.between(row.scope, epochs[0], since - settings.guard_window_s, since)
        after = self._attainment.between(row.scope, epochs[1], since + washout, settled)
        found = change(before, after)
        if min(found.before, found.after) < settings.guard_requests:
            return
        if found.difference < -settings.guard_loss and found.p_value < settings.guard_alpha / LOOKS:
            cause = (
                f"attainment fell by {-found.difference:.1%} at the same load "
                f"({found.before} requests before, {found.after} after, p = {found.p_value:.1e})"
            )
            await self._roll_back(row.scope, standing.message.kind, row.epoch, cause)

    async def _roll_back(self, scope: str, kind: Kind, epoch: int, cause: str) -> None:
        try:
            async with self._store.begin() as unit:
                mode = await unit.controls.mode(scope, configured=self._configured)
                if mode != "auto":
                    log.warning("mode %s: not rolling back epoch %d of %s: %s", mode, epoch, scope, cause)
                    return
                activation = await promotion.roll_back(
                    unit, scope, kind, cause=f"rollback: {cause}", expected_epoch=epoch
                )
            log.warning("rolled back %s of %s to %s: %s", kind, scope, activation.hash[:12], cause)
        except StaleError:
            log.info("epoch %d of %s is not in force any more; nothing to roll back: %s", epoch, scope, cause)
        except NotFoundError as error:
            log.warning("cannot roll back epoch %d of %s: %s (%s)", epoch, scope, error, cause)


def _epochs(standing: Standing, standings: Sequence[Standing]) -> tuple[int, int] | None:
    """The dispatch epochs whose requests are compared, before and after. A plan policy's are of one and the same dispatch policy."""
    row = standing.activation
    if row.kind == "dispatch":
        return None if row.replaces is None else (row.replaces, row.epoch)
    for other in standings:
        if (other.activation.scope, other.activation.kind) == (row.scope, "dispatch"):
            return other.activation.epoch, other.activation.epoch
    return None
