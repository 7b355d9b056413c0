"""The monitoring step: hold the lease, look, ask the policy, place its plan, tell the nodes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from autopoiesis.contracts.messages.fleet import DesiredReplica, DesiredState, PlanChanged
from autopoiesis.contracts.messages.policy import Activation, Faulted
from autopoiesis.contracts.subjects import DESIRED_STATE, FAULTED, PLAN_CHANGED, PLAN_OBSERVED, slug
from autopoiesis.policy.api import PlanContext, Replicas
from autopoiesis.router.planner.deciding import Decider, Decision, PlanFaultError
from autopoiesis.router.planner.demand import Demand
from autopoiesis.router.planner.fleet import Fleet, Node
from autopoiesis.router.planner.lease import Lease
from autopoiesis.router.planner.observation import Observer
from autopoiesis.router.planner.placement import PlacementError, Wanted, changes, kinds_of, place
from autopoiesis.router.planner.policies import Policies
from autopoiesis.router.planner.recording import observed
from autopoiesis.router.planner.settings import PlannerSettings
from autopoiesis.runtime.bus import Bus, BusError

log = structlog.get_logger(__name__)

PUBLISH_S: Final = 5.0


class Planner:
    """One of possibly several planners of a scope. Whoever does not hold the lease looks on, so as to know what to go on with."""

    def __init__(
        self,
        bus: Bus,
        settings: PlannerSettings,
        *,
        scope: str,
        instance: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fleet = Fleet(settings.silence_s, clock())
        self.demand = Demand(settings.window_s)
        self.policies = Policies(settings.policy, max_strikes=settings.max_strikes)
        self.lease = Lease(bus, scope=scope, holder=instance, duration_s=settings.lease_s, clock=clock)
        self._bus = bus
        self._settings = settings
        self._scope = scope
        self._instance = instance
        self._clock = clock
        self._observer = Observer(settings.models, settings.quota)
        self._decider = Decider(settings.schedule_s, seed=settings.seed)
        self._wanted: Wanted = {}
        self._told: dict[str, DesiredState] = {}
        self._leading = 0
        self._revision = 0
        self._changed_s = -math.inf
        self._gpus: dict[str, int] = {}
        self._faults = 0

    def on_desired(self, state: DesiredState) -> None:
        """What this or another planner told a node."""
        known = self._told.get(state.node)
        if known is None or (state.lease_epoch, state.revision) > (known.lease_epoch, known.revision):
            self._told[state.node] = state

    def hear(self, activation: Activation) -> None:
        """Another plan policy: it is asked at the next step, whatever the cooldown."""
        if self.policies.hear(activation):
            self._changed_s = -math.inf

    async def keep_lease(self) -> None:
        """Renew the lease for ever; steps may take longer than it lasts."""
        while True:
            try:
                await self.lease.renew(self._highest_epoch())
            except BusError as error:
                log.warning("the lease cannot be renewed", error=str(error))
            await asyncio.sleep(self._settings.lease_s / 4)

    async def run(self) -> None:
        """Monitoring steps for ever."""
        while True:
            started = self._clock()
            if self.lease.held:
                try:
                    await self.step()
                except BusError as error:
                    log.warning("monitoring step broken off", error=str(error))
            await asyncio.sleep(max(0.0, self._settings.step_s - (self._clock() - started)))

    async def step(self) -> None:
        """One monitoring step of the planner that holds the lease. Raises BusError."""
        now = self._clock()
        nodes = self.fleet.nodes(now)
        if not nodes or not self.fleet.settled(now, self._told):
            return
        self._adopt(nodes)
        loads = self.demand.loads(self.fleet.load(), now)
        ctx = self._observer.observe(nodes, loads, self._all_wanted(), now)
        gpus = {pool.type: pool.count for pool in ctx.gpus}
        await self._record(ctx)
        came_or_went = gpus != self._gpus
        if self.policies.idle or not (came_or_went or now - self._changed_s >= self._settings.cooldown_s):
            return
        decision = await self._ask(ctx)
        if decision is None:
            return
        self._gpus = gpus
        if decision.plan is not None:
            self._observer.rescheduled(ctx)
            try:
                after = self._placed(decision.plan, nodes)
            except PlacementError as error:
                await self._fault(ctx, PlanFaultError(f"the plan fits no machines: {error.args[0]}"))
                return
            if after != self._wanted:
                await self._apply(after, gpus, decision)
        self.policies.succeeded()

    async def close(self) -> None:
        """Hand the lease over and end the jail."""
        try:
            await self.lease.release()
        except BusError as error:
            log.warning("the lease was not released; it runs out", error=str(error))
        await self._decider.close()

    def _adopt(self, nodes: Mapping[str, Node]) -> None:
        """Go on with what nodes were told before, or with what runs on a node that nobody told anything."""
        if self._leading != self.lease.epoch:
            self._leading, self._wanted = self.lease.epoch, {}
        for name, node in nodes.items():
            if name not in self._wanted:
                told = self._told.get(name)
                self._wanted[name] = told.replicas if told is not None else node.running()
        for gone in self._wanted.keys() - nodes.keys():
            del self._wanted[gone]

    def _placed(self, plan: tuple[Replicas, ...], nodes: Mapping[str, Node]) -> Wanted:
        counts = self._observer.counts_of(plan)
        if counts == dict(kinds_of(self._wanted)):
            return self._wanted
        return place(counts, self._wanted, {name: node.gpus for name, node in nodes.items()})

    def _all_wanted(self) -> list[DesiredReplica]:
        return [replica for _, there in sorted(self._wanted.items()) for replica in there]

    async def _record(self, ctx: PlanContext) -> None:
        """Tell what this step saw. Planning goes on where nobody can be told."""
        seen = observed(
            ctx,
            kinds_of(self._wanted),
            scope=self._scope,
            policy=self.policies.hash,
            epoch=self.policies.epoch,
            rules=self._settings.rules,
        )
        msg_id = f"{self._instance}-step-{ctx.step}"
        try:
            await self._bus.publish_event(
                PLAN_OBSERVED, seen, msg_id=msg_id, timeout=PUBLISH_S, scope=slug(self._scope)
            )
        except BusError as error:
            log.warning("a monitoring step was not recorded", error=str(error))

    async def _ask(self, ctx: PlanContext) -> Decision | None:
        """None where the policy broke, or where another one was activated meanwhile: that one is asked at the next step."""
        asked = self.policies.epoch
        try:
            decision = await self._decider.decide(self.policies.source, ctx)
        except PlanFaultError as fault:
            if self.policies.epoch == asked:
                await self._fault(ctx, fault)
            return None
        return decision if self.policies.epoch == asked else None

    async def _fault(self, ctx: PlanContext, fault: PlanFaultError) -> None:
        """The plan in force stays, and everybody who judges policies hears why."""
        strikes = self.policies.faulted()
        self._faults += 1
        log.warning(
            "plan policy fault", hash=self.policies.hash, fault=str(fault), line=fault.line, step=ctx.step
        )
        event = Faulted(
            scope=self._scope,
            kind="plan",
            epoch=self.policies.epoch,
            hash=self.policies.hash,
            service=self._instance,
            fault=str(fault),
            line=fault.line,
            strikes=strikes,
            quarantined=self.policies.quarantined,
            at_unix_s=time.time(),
        )
        msg_id = f"{self._instance}-plan-fault-{self._faults}"
        await self._bus.publish_event(
            FAULTED, event, msg_id=msg_id, timeout=PUBLISH_S, scope=slug(self._scope), kind="plan"
        )

    async def _apply(self, after: Wanted, gpus: dict[str, int], decision: Decision) -> None:
        """Tell every node its part, then the history. Not if the lease has run out meanwhile."""
        if not self.lease.held or self.lease.epoch != self._leading:
            log.warning("the lease ran out while the policy decided; its plan is dropped")
            return
        started, stopped = changes(self._wanted, after)
        self._revision += 1
        self._wanted, self._changed_s = after, self._clock()
        for node, replicas in after.items():
            await self._tell(node, replicas)
        change = PlanChanged(
            scope=self._scope,
            epoch=self.policies.epoch,
            lease_epoch=self._leading,
            revision=self._revision,
            at_unix_s=time.time(),
            cause=f"plan policy {self.policies.hash[:12]}: {len(started)} started, {len(stopped)} stopped",
            replicas=tuple(self._all_wanted()),
            policy=self.policies.hash,
            started=started,
            stopped=stopped,
            gpus=gpus,
            decision_s=decision.cpu_s,
        )
        log.info("plan changed", revision=self._revision, started=started, stopped=stopped)
        await self._bus.publish_event(
            PLAN_CHANGED, change, msg_id=self._msg_id("plan"), timeout=PUBLISH_S, scope=slug(self._scope)
        )

    async def _tell(self, node: str, replicas: tuple[DesiredReplica, ...]) -> None:
        state = DesiredState(node=node, lease_epoch=self._leading, revision=self._revision, replicas=replicas)
        self._told[node] = state
        await self._bus.publish_event(
            DESIRED_STATE, state, msg_id=self._msg_id(node), timeout=PUBLISH_S, node=slug(node)
        )

    def _msg_id(self, what: str) -> str:
        return f"{what}-{self._leading}-{self._revision}"

    def _highest_epoch(self) -> int:
        told = (state.lease_epoch for state in self._told.values())
        return max((self.fleet.highest_lease, *told))
