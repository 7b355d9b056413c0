"""What the other services keep: windows, segments, judgements, completions, archive."""

from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
import pytest

from autopoiesis.contracts.messages.policy import Judgement, Score
from autopoiesis.store import NotFoundError, Store
from autopoiesis.store.models import Completion
from autopoiesis.store.repositories.completions import Spent
from autopoiesis.store.repositories.evaluations import judgement_of

SCOPE = "local/m"
JUDGEMENT = Judgement(
    scope=SCOPE,
    kind="dispatch",
    hash="new",
    snapshot="open",
    sealed="shut",
    verdict="promote",
    reason="better",
    incumbent="old",
    gain=0.1,
    gain_low=0.02,
    gain_high=0.18,
    confidence=0.95,
    scores=(Score(load=1.0, goodput=9.0, attainment=0.9, rejected=0.0, ttft_p95_s=0.5, tpot_p95_s=0.05),),
    simulator="1",
)


@pytest.fixture
async def store(migrated_url: str) -> AsyncIterator[Store]:
    async with await Store.open(migrated_url) as opened:
        yield opened


async def test_policies_are_kept_once(store: Store) -> None:
    async with store.begin() as unit:
        assert await unit.policies.add(
            hash="h", kind="dispatch", api=1, source="a", origin="llm", parents=["p"]
        )
        assert not await unit.policies.add(hash="h", kind="dispatch", api=1, source="b", origin="mutator")
    async with store.begin() as unit:
        policy = await unit.policies.get("h")
        assert (policy.source, policy.origin, policy.parents) == ("a", "llm", ["p"])
        assert await unit.policies.known(["h", "x"]) == {"h"}
        assert list(await unit.policies.recent(kind="plan")) == []
        with pytest.raises(NotFoundError, match="'x'"):
            await unit.policies.get("x")


async def test_one_judgement_per_evidence(store: Store) -> None:
    async with store.begin() as unit:
        assert await unit.evaluations.add(JUDGEMENT, gate="decision", cycle="c1", seed=2**40) is not None
        assert (
            await unit.evaluations.add(msgspec.structs.replace(JUDGEMENT, verdict="reject"), gate="decision")
            is None
        )
        assert (
            await unit.evaluations.add(msgspec.structs.replace(JUDGEMENT, snapshot="other"), gate="selection")
            is not None
        )
    async with store.begin() as unit:
        row = await unit.evaluations.find(candidate="new", snapshot="open", simulator="1")
        assert row is not None
        assert judgement_of(row) == JUDGEMENT
        assert len(await unit.evaluations.of("new")) == 2
        newest = await unit.evaluations.newest(["new", "never judged"])
        assert {name: found.snapshot for name, found in newest.items()} == {"new": "other"}
        assert await unit.evaluations.by_id([row.id]) == {row.id: row}
        assert await unit.evaluations.looks("shut", "decision") == 1
        assert [found.id for found in await unit.evaluations.recent(SCOPE, "dispatch", cycle="c1")] == [
            row.id
        ]


async def test_segments_are_found_by_overlap_and_expire(store: Store) -> None:
    async with store.begin() as unit:
        for start in (0.0, 10.0, 20.0):
            assert await unit.segments.add(
                scope=SCOPE,
                content="requests",
                path=f"{start}",
                start_unix_s=start,
                end_unix_s=start + 10,
                rows=1,
                bytes=2**40,
            )
        assert not await unit.segments.add(
            scope=SCOPE, content="requests", path="0.0", start_unix_s=0, end_unix_s=1, rows=1, bytes=1
        )
        found = await unit.segments.between(SCOPE, "requests", 12.0, 20.0)
        assert [segment.path for segment in found] == ["10.0"]
        assert [segment.path for segment in await unit.segments.expire(15.0)] == ["0.0"]
        assert [segment.path for segment in await unit.segments.last()] == ["20.0", "10.0"]


async def test_archive_keeps_the_newest_score_and_the_elite_of_each_cell(store: Store) -> None:
    async with store.begin() as unit:
        for hash_, cell, score in (("a", "x", 1.0), ("b", "x", 2.0), ("c", "y", 0.5), ("a", "x", 3.0)):
            await unit.policies.add(hash=hash_, kind="dispatch", api=1, source=hash_, origin="llm")
            await unit.archive.put(
                scope=SCOPE, kind="dispatch", hash=hash_, score=score, cell=cell, features={"n": 1}
            )
    async with store.begin() as unit:
        best = await unit.archive.best(SCOPE, "dispatch")
        assert [(entry.score, policy.source) for entry, policy in best] == [
            (3.0, "a"),
            (2.0, "b"),
            (0.5, "c"),
        ]
        assert [entry.hash for entry in await unit.archive.elites(SCOPE, "dispatch")] == ["a", "c"]
        await unit.archive.remove(SCOPE, "dispatch", ["a"])
        assert [entry.hash for entry in await unit.archive.elites(SCOPE, "dispatch")] == ["b", "c"]


async def test_completions_are_summed(store: Store) -> None:
    async with store.begin() as unit:
        for cycle in ("one", "one", "two"):
            await unit.completions.add(
                Completion(
                    scope=SCOPE,
                    kind="dispatch",
                    cycle=cycle,
                    model="m",
                    prompt_hash="p",
                    prompt="?",
                    completion="!",
                    prompt_tokens=100,
                    completion_tokens=10,
                    cost=0.25,
                )
            )
    async with store.begin() as unit:
        assert await unit.completions.spent(cycle="one") == Spent(2, 200, 20, 0.5)
        assert (await unit.completions.spent()).calls == 3
        assert await unit.completions.spent(last=timedelta(days=1)) == Spent(3, 300, 30, 0.75)
        assert await unit.completions.spent(last=timedelta(days=-1)) == Spent(0, 0, 0, 0.0)
        assert await unit.completions.spent(cycle="none") == Spent(0, 0, 0, 0.0)
        assert len(await unit.completions.of_cycle("two")) == 1
