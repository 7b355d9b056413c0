"""From a proposal to a judgement, and from a judgement to an activation.

Candidates of a cycle come in the order of their rank, one after another, and each is judged against what is in force when
its turn comes: the first that proves itself is promoted, and those behind it must then beat *it*. That ends at the best of
the cycle without waiting for the others, without a state that dies with this process, and every activation rests on a
comparison with the policy that it really replaced. A swap costs the router nothing.
"""

import logging
import secrets
from collections.abc import Mapping, Sequence

from msgspec import structs
from opentelemetry import trace

from autopoiesis.contracts.messages.policy import Judgement, Kind, Proposed, Verdict
from autopoiesis.contracts.subjects import EVALUATED, REJECTED, slug
from autopoiesis.evaluator.case import Arm, Case, unjudged
from autopoiesis.evaluator.gates import Gate
from autopoiesis.evaluator.metrics import Metrics
from autopoiesis.evaluator.replays import FailedReplayError
from autopoiesis.evaluator.shipped import in_force, shipped
from autopoiesis.policy.api import API_VERSION
from autopoiesis.policy.language import PolicyError, compile_policy
from autopoiesis.store import Mode, NotFoundError, StaleError, Store, promotion
from autopoiesis.store.models import Snapshot
from autopoiesis.store.repositories.evaluations import judgement_of

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

ATTEMPTS = 3
"""Judgements of one proposal when what is in force moves under them."""


class Judge:
    """Takes proposals through the gates. `simulator` is the version that scores are comparable within.

    Where a shipped policy makes a candidate needless, that one is judged in its place, and first: it may be what the
    candidate would have replaced.
    """

    def __init__(
        self,
        store: Store,
        gates: Sequence[Gate],
        *,
        first: Mapping[Kind, Arm],
        configured: Mode,
        simulator: str,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._gates = gates
        self._first = first
        self._configured: Mode = configured
        self._simulator = simulator
        self._metrics = metrics

    async def judge(self, proposal: Proposed) -> Judgement:
        """The judgement, stored and on its way to the bus when this returns; the earlier one where there is one.

        Raises what the store or the snapshot's file raise: the proposal is then to be delivered again.
        """
        for _ in range(ATTEMPTS):
            try:
                with tracer.start_as_current_span("policy.judge", attributes={"policy.hash": proposal.hash}):
                    judgement = await self._judge(proposal)
            except StaleError as error:
                log.info(
                    "%s was judged against a policy that is not in force any more: %s",
                    proposal.hash[:12],
                    error,
                )
                continue
            log.info("%s %s: %s", judgement.verdict, judgement.hash[:12], judgement.reason)
            return judgement
        return await self._refuse(proposal, "what is in force moved again and again while it was judged")

    async def _judge(self, proposal: Proposed) -> Judgement:
        if proposal.api != API_VERSION:
            return await self._refuse(proposal, f"policy API version {proposal.api}; this is {API_VERSION}")
        mode = await self._mode(proposal.scope)
        if mode in {"off", "paused"}:
            return await self._refuse(proposal, f"mode is {mode}: nothing is judged")
        try:
            window = await self._window(proposal)
            candidate = await self._candidate(proposal)
        except (NotFoundError, PolicyError) as error:
            return await self._refuse(proposal, str(error))
        async with self._store.begin() as unit:
            known = await unit.evaluations.find(
                candidate=candidate.hash, snapshot=window.hash, simulator=self._simulator
            )
        if known is not None:
            return judgement_of(known)
        case = Case(
            proposal=proposal,
            candidate=candidate,
            incumbent=await self._in_force(proposal.scope, proposal.kind),
            baselines=shipped(proposal.kind),
            window=window,
            beside=await self._in_force(proposal.scope, "dispatch") if proposal.kind == "plan" else None,
            seed=secrets.randbits(62),
        )
        objection = await self._through_gates(case)
        if (better := case.findings.dominated_by) is not None:
            await self.judge(_instead(proposal, better))
        return await self._conclude(case, objection, mode)

    async def _through_gates(self, case: Case) -> str | None:
        for gate in self._gates:
            case.findings.gate = gate.name
            try:
                with self._metrics.timed(gate.name):
                    objection = await gate(case)
            except FailedReplayError as error:
                whose = "its" if error.arm == case.candidate else f"the rival's ({error.arm.hash[:12]})"
                objection = f"{whose} replay failed: {error}"
            if objection is not None:
                return f"{gate.name}: {objection}"
        return None

    async def _conclude(self, case: Case, objection: str | None, mode: Mode) -> Judgement:
        found = case.findings
        verdict: Verdict = "reject" if objection else "promote" if mode == "auto" else "advise"
        reason = objection or (
            f"{found.gain.gain:+.1%} goodput ({found.gain.low:+.1%} to {found.gain.high:+.1%})"
            f" against what was in force, on blocks that nobody had seen"
        )
        judgement = case.judgement(verdict, reason, simulator=self._simulator)
        scope, kind = case.proposal.scope, case.proposal.kind
        async with self._store.begin() as unit:
            evaluation = await unit.evaluations.add(
                judgement, gate=found.gate, cycle=case.proposal.cycle, seed=case.seed
            )
            if evaluation is None:
                log.info("%s was judged elsewhere at the same time", judgement.hash[:12])
                return judgement
            subject = REJECTED if verdict == "reject" else EVALUATED
            await unit.outbox.add(subject, judgement, scope=slug(scope), kind=kind)
            if verdict == "promote":
                await promotion.promote(
                    unit,
                    scope,
                    kind,
                    judgement.hash,
                    expected=case.incumbent.hash,
                    cause=f"evaluated: {found.gain.gain:+.1%} goodput",
                    evaluation=evaluation,
                )
        self._metrics.judged(judgement)
        return judgement

    async def _refuse(self, proposal: Proposed, reason: str) -> Judgement:
        """Reject what no gate could look at; it leaves no evaluation behind."""
        judgement = unjudged(proposal, reason, simulator=self._simulator)
        async with self._store.begin() as unit:
            await unit.outbox.add(REJECTED, judgement, scope=slug(proposal.scope), kind=proposal.kind)
        self._metrics.judged(judgement)
        return judgement

    async def _in_force(self, scope: str, kind: Kind) -> Arm:
        return await in_force(self._store, scope, kind, first=self._first[kind])

    async def _mode(self, scope: str) -> Mode:
        async with self._store.begin() as unit:
            return await unit.controls.mode(scope, configured=self._configured)

    async def _window(self, proposal: Proposed) -> Snapshot:
        async with self._store.begin() as unit:
            if proposal.snapshot:
                return await unit.snapshots.get(proposal.snapshot)
            newest = await unit.snapshots.recent(proposal.scope, limit=1)
        if not newest:
            raise NotFoundError(f"no snapshot of {proposal.scope} to judge it on")
        return newest[0]

    async def _candidate(self, proposal: Proposed) -> Arm:
        """The policy as the store keeps it: what is judged is what would be activated."""
        policy = compile_policy(proposal.source, proposal.kind)
        async with self._store.begin() as unit:
            await unit.policies.add(
                hash=policy.hash,
                kind=proposal.kind,
                api=API_VERSION,
                source=policy.source,
                origin=proposal.origin,
                parents=proposal.parents,
                title=policy.title.partition("\n")[0],
            )
            kept = await unit.policies.get(policy.hash)
        return Arm(proposal.hash, kept.source, kept.title)


def _instead(proposal: Proposed, arm: Arm) -> Proposed:
    return structs.replace(proposal, hash=arm.hash, source=arm.source, origin="library", parents=())
