"""What the synthesizer remembers of one (scope, kind), in Postgres: archive, verdicts, calls; and what it proposes."""

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from autopoiesis.contracts.messages.policy import Judgement, Kind, Origin, Proposed
from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.contracts.subjects import PROPOSED, slug
from autopoiesis.policy import library
from autopoiesis.policy.api import API_VERSION
from autopoiesis.policy.language import verify
from autopoiesis.store import Store, Unit
from autopoiesis.store.models import Completion, Evaluation, Policy
from autopoiesis.synthesizer.candidates import Scored, shipped
from autopoiesis.synthesizer.features import features
from autopoiesis.synthesizer.prompt import Message
from autopoiesis.synthesizer.proposers.llm import Call
from autopoiesis.synthesizer.replay import SIMULATOR

ELITES = 12
"""Archived policies that are scored again at the start of a cycle, beside the shipped ones."""
REFUSALS = 2
"""Refusals against one incumbent after which a policy is not proposed to replace it again."""
_ORIGINS: dict[str, Origin] = {
    "library": "library", "llm": "llm", "mutator": "mutator", "archive": "archive", "operator": "operator"
}  # fmt: skip


class Memory:
    """One (scope, kind). Every method is one transaction and raises StoreError."""

    def __init__(self, store: Store, scope: str, kind: Kind) -> None:
        self._store, self.scope, self.kind = store, scope, kind

    async def incumbent(self, initial: str) -> Scored:
        """What is in force; the shipped policy `initial` where nothing ever was."""
        async with self._store.begin() as unit:
            standing = await unit.activations.current(self.scope, self.kind)
        if standing is not None:
            return self._scored(standing.policy)
        return Scored.of(library.source(initial), self.kind, initial)

    async def seeds(self) -> list[Scored]:
        """Shipped policies, the best archived ones and the best of each cell, as far as they still verify."""
        async with self._store.begin() as unit:
            best = await unit.archive.best(self.scope, self.kind, limit=ELITES // 2)
            cells = await unit.archive.elites(self.scope, self.kind)
            ranked = sorted(cells, key=lambda entry: (-entry.score, entry.hash))[:ELITES]
            elites = [await unit.policies.get(entry.hash) for entry in ranked]
        archived = {policy.hash: self._scored(policy) for policy in [*(p for _, p in best), *elites]}
        valid = [s for s in archived.values() if verify(s.source, self.kind, complete=True).ok]
        return list({s.hash: s for s in [*shipped(self.kind), *valid[:ELITES]]}.values())

    async def judged(self, limit: int = 20) -> list[Scored]:
        """Candidates the evaluator spoke on, with its words, newest last."""
        async with self._store.begin() as unit:
            rows = await unit.evaluations.recent(self.scope, self.kind, limit=limit)
            known = await unit.policies.known([row.candidate for row in rows])
            policies = {hash_: await unit.policies.get(hash_) for hash_ in known}
        return [
            self._scored(policies[r.candidate], words(r)) for r in reversed(rows) if r.candidate in policies
        ]

    async def refused(self, incumbent: str) -> set[str]:
        """Policies refused often enough against what is in force."""
        async with self._store.begin() as unit:
            rows = await unit.evaluations.recent(self.scope, self.kind, limit=500)
        counts: dict[str, int] = {}
        for row in rows:
            if row.incumbent == incumbent and row.verdict == "reject":
                counts[row.candidate] = counts.get(row.candidate, 0) + 1
        return {hash_ for hash_, count in counts.items() if count >= REFUSALS}

    async def propose(
        self, winners: Sequence[Scored], ready: SnapshotReady, cycle: str, first_rank: int = 0
    ) -> None:
        """Keep the winners and announce them, best first."""
        async with self._store.begin() as unit:
            for rank, policy in enumerate(winners, first_rank):
                await self._keep_policy(unit, policy)
                message = Proposed(
                    scope=self.scope,
                    kind=self.kind,
                    hash=policy.hash,
                    source=policy.source,
                    api=API_VERSION,
                    origin=policy.origin,
                    parents=policy.parents,
                    snapshot=ready.snapshot,
                    sealed=ready.sealed,
                    rank=rank,
                    cycle=cycle,
                )
                name = f"{cycle}:{policy.hash}"
                await unit.outbox.add(
                    PROPOSED, message, message_id=name, scope=slug(self.scope), kind=self.kind
                )

    async def archive(
        self, entries: Sequence[Scored], *, snapshot: str, cycle: str, yardstick: float, size: int
    ) -> None:
        """Keep scored policies, the best `size` of all. `yardstick` is the best shipped policy's fitness: scores are
        relative to it, so that they do not depend on what happens to be in force.
        """
        async with self._store.begin() as unit:
            for entry in entries:
                await self._keep_policy(unit, entry)
                await unit.archive.put(
                    scope=self.scope,
                    kind=self.kind,
                    hash=entry.hash,
                    score=entry.fitness / yardstick,
                    cell=features(entry.source).cell,
                    features={**features(entry.source).to_json(), "cycle": cycle, **_numbers(entry)},
                    snapshot=snapshot,
                    simulator=SIMULATOR,
                )
            surplus = (await unit.archive.best(self.scope, self.kind, limit=100_000))[size:]
            await unit.archive.remove(self.scope, self.kind, [entry.hash for entry, _ in surplus])

    async def feedback(self, judgement: Judgement) -> None:
        """Write the evaluator's words beside the archived policy, if it is archived."""
        async with self._store.begin() as unit:
            for entry, _ in await unit.archive.best(self.scope, self.kind, limit=100_000):
                if entry.hash == judgement.hash:
                    entry.features = {**entry.features, "feedback": _words(judgement)}

    async def record(self, call: Call, cycle: str) -> None:
        """Keep one call of the language model."""
        answer = call.answer
        async with self._store.begin() as unit:
            await unit.completions.add(
                Completion(
                    scope=self.scope,
                    kind=self.kind,
                    cycle=cycle,
                    model=answer.model if answer else call.model,
                    prompt_hash=call.prompt_hash,
                    prompt=_text(call.messages),
                    completion=answer.text if answer else "",
                    prompt_tokens=answer.prompt_tokens if answer else 0,
                    completion_tokens=answer.completion_tokens if answer else 0,
                    cost=answer.cost if answer else 0.0,
                    duration_s=answer.duration_s if answer else 0.0,
                    candidate=call.candidate,
                    error=call.error,
                )
            )

    async def _keep_policy(self, unit: Unit, policy: Scored) -> None:
        await unit.policies.add(
            hash=policy.hash,
            kind=self.kind,
            api=API_VERSION,
            source=policy.source,
            origin=policy.origin,
            parents=policy.parents,
            title=policy.title[:200],
        )

    def _scored(self, policy: Policy, feedback: str = "") -> Scored:
        return Scored(
            hash=policy.hash,
            source=policy.source,
            kind=self.kind,
            origin=_ORIGINS[policy.origin],
            parents=tuple(policy.parents),
            title=policy.title,
            feedback=feedback,
        )


def cycle_name() -> str:
    return uuid.uuid4().hex


def words(row: Evaluation) -> str:
    """The evaluator's verdict in a line."""
    return f"{row.verdict}: {row.reason} (gain {row.gain:+.1%}, {row.gain_low:+.1%} to {row.gain_high:+.1%})"


def _words(judgement: Judgement) -> str:
    low, high = judgement.gain_low, judgement.gain_high
    return f"{judgement.verdict}: {judgement.reason} (gain {judgement.gain:+.1%}, {low:+.1%} to {high:+.1%})"


def _numbers(entry: Scored) -> dict[str, Any]:
    if entry.result is None:
        return {}
    return {
        "fitness": entry.result.fitness,
        "faults": entry.result.faults,
        "scores": msgspec.to_builtins(entry.result.scores),
        "breakdown": entry.result.breakdown,
    }


def _text(messages: Sequence[Message]) -> str:
    return "\n\n".join(f"===== {m['role']} =====\n{m['content']}" for m in messages)
