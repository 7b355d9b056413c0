"""From proposal to activation, on a real store; the simulator is replaced by policies whose true quality is known."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autopoiesis.contracts.codec import decode
from autopoiesis.contracts.messages.policy import Activation, Judgement, Proposed
from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.evaluator.ahead import Ahead
from autopoiesis.evaluator.case import Arm
from autopoiesis.evaluator.gates import gates
from autopoiesis.evaluator.judge import Judge
from autopoiesis.evaluator.metrics import Metrics
from autopoiesis.evaluator.replays import Blocks, FailedReplayError, Replays
from autopoiesis.evaluator.scoring import Replay
from autopoiesis.evaluator.settings import EvaluatorSettings
from autopoiesis.evaluator.shipped import in_force, initial, initials, keep_shipped, shipped
from autopoiesis.policy.api import API_VERSION
from autopoiesis.policy.jail import Jail
from autopoiesis.policy.language import policy_hash
from autopoiesis.runtime.bus import Received
from autopoiesis.simulator.workload.snapshot import SnapshotInfo, write_snapshot
from autopoiesis.store import BlobStore, CorruptBlobError, Mode, Store, operations, promotion

SCOPE = "local/m"
SPAN_S = 60.0
BASE = 0.6
SIMULATOR = "test-1"


def candidate(number: int) -> str:
    return (
        f'"""Candidate {number}."""\nAPI = 1\n\ndef prioritize(request, ctx):\n    return request.arrival + {number}\n\n'
        "def route(request, replicas, ctx):\n    return Assign(min(replicas, key=lambda r: r.inflight).index)\n"
    )


def hash_of(source: str) -> str:
    return policy_hash(source, "dispatch")


class KnownQuality:
    """Stands for the simulator: each policy meets a fixed share of arrivals, on fates that all policies share."""

    def __init__(self) -> None:
        self.quality: dict[str, float] = {}
        self.sealed_quality: dict[str, float] = {}
        self.sealed = ""
        self.extra: dict[str, dict[str, Any]] = {}
        self.runs: list[tuple[str, str, float, int]] = []
        self.failing: set[str] = set()

    async def __call__(self, arm: Arm, blocks: Blocks, *, load: float, seed: int) -> Replay:
        self.runs.append((arm.hash, blocks.name, load, seed))
        if arm.hash in self.failing:
            raise FailedReplayError(arm, "JailTimeout")
        table = {**self.quality, **(self.sealed_quality if blocks.name == self.sealed else {})}
        share = table.get(arm.hash, BASE) / load
        fates = np.random.default_rng([seed, round(load * 100)])
        count = 600
        met = fates.random(count) < share
        more = self.extra.get(arm.hash, {})
        return Replay(
            load=load,
            seed=seed,
            span_s=SPAN_S,
            arrival_s=np.linspace(0, SPAN_S, count, endpoint=False),
            klass=np.where(np.arange(count) % 2, "batch", "interactive"),
            gpu=np.full(count, "H100"),
            met=met,
            rejected=more.get("rejected", np.zeros(count, np.bool_)),
            ttft_s=np.full(count, 0.5),
            tpot_s=np.full(count, 0.05),
            faults=more.get("faults", 0),
            fuel=more.get("fuel", 1000),
        )


@pytest.fixture(scope="module")
def jail() -> Any:
    with Jail(["autopoiesis.evaluator.properties"], workers=1) as jail:
        yield jail


@pytest.fixture
async def store(migrated_url: str) -> AsyncIterator[Store]:
    async with await Store.open(migrated_url) as opened:
        await keep_shipped(opened)
        yield opened


class Bench:
    """An evaluator without its bus."""

    def __init__(
        self, store: Store, blobs: BlobStore, jail: Jail, mode: Mode, settings: EvaluatorSettings
    ) -> None:
        self.store, self.blobs, self.settings = store, blobs, settings
        self.simulate = KnownQuality()
        first = initials(settings)
        self.incumbent = first["dispatch"].hash
        replays = self.replays = Replays(self.simulate, store, blobs, settings)
        self.ahead = Ahead(store, replays, first=first, configured=mode)
        self.judge = Judge(
            store,
            gates(store, jail, replays, settings),
            first=first,
            configured=mode,
            simulator=SIMULATOR,
            metrics=Metrics(),
        )

    async def window(self, number: int = 0) -> SnapshotReady:
        open_, sealed = (blob(number * 1000 + half * 100.0) for half in (0, 1))
        name = self.blobs.put(open_)
        from hashlib import sha256

        ready = SnapshotReady(
            scope=SCOPE,
            snapshot=name,
            sealed=sha256(sealed).hexdigest(),
            start_unix_s=0.0,
            cut_unix_s=100.0,
            end_unix_s=200.0,
            arrivals=600,
            sealed_arrivals=600,
            cause="test",
        )
        async with self.store.begin() as unit:
            await unit.snapshots.add(ready, path=str(self.blobs.path(name)), sealed=sealed)
        self.simulate.sealed = ready.sealed
        return ready

    async def propose(
        self, source: str, ready: SnapshotReady, /, *, rank: int = 0, **changes: Any
    ) -> Judgement:
        fields: dict[str, Any] = {
            "scope": SCOPE,
            "kind": "dispatch",
            "hash": hash_of(source),
            "source": source,
            "api": API_VERSION,
            "origin": "mutator",
            "snapshot": ready.snapshot,
            "sealed": ready.sealed,
            "rank": rank,
            "cycle": "c1",
        }
        return await self.judge.judge(Proposed(**{**fields, **changes}))

    async def in_force(self) -> str:
        return (await operations.in_force(self.store))[0].policy.hash

    async def sent(self) -> list[str]:
        async with self.store.begin() as unit:
            return [row.subject.split(".")[1] for row in await unit.outbox.waiting("evaluator")]


def blob(start: float) -> bytes:
    record = RequestRecord(
        request_id=f"{start}",
        scope=SCOPE,
        model="m",
        arrival_unix_s=start,
        stream=True,
        prompt_bytes=40,
        prompt_tokens=10,
        prompt_tokens_estimated=10,
        max_tokens=10,
        output_tokens=10,
        output_censored=False,
        outcome="finished",
    )
    return write_snapshot([record], SnapshotInfo(scope=SCOPE, start_unix_s=start, end_unix_s=start + SPAN_S))


@pytest.fixture
def make(store: Store, tmp_path: Path, jail: Jail) -> Any:
    def build(mode: Mode = "auto", **settings: Any) -> Bench:
        return Bench(store, BlobStore(tmp_path), jail, mode, EvaluatorSettings(**settings))

    return build


async def test_a_window_is_read_once_and_never_unless_it_is_what_its_name_says(make: Any) -> None:
    bench = make()
    ready, other = await bench.window(), await bench.window(1)
    async with bench.store.begin() as unit:
        window, broken = await unit.snapshots.get(ready.snapshot), await unit.snapshots.get(other.snapshot)
    first = await bench.replays.open_blocks(window)
    bench.blobs.remove(ready.snapshot)
    assert (await bench.replays.open_blocks(window)).packed is first.packed
    bench.blobs.path(other.snapshot).write_bytes(b"another")
    with pytest.raises(CorruptBlobError):
        await bench.replays.open_blocks(broken)


async def test_a_better_candidate_is_promoted_and_the_world_is_told(make: Any) -> None:
    bench = make()
    source = candidate(1)
    bench.simulate.quality[hash_of(source)] = 0.8
    judgement = await bench.propose(source, await bench.window())
    assert (judgement.verdict, judgement.incumbent) == ("promote", bench.incumbent)
    assert 0.1 < judgement.gain_low < judgement.gain < judgement.gain_high < 0.5
    assert judgement.gain_over_baseline == pytest.approx(judgement.gain, abs=0.1)
    assert [score.load for score in judgement.scores] == [0.9, 1.0, 1.15]
    assert await bench.in_force() == hash_of(source)
    assert await bench.sent() == ["promoted", "evaluated", "promoted"]
    shown = await operations.show(bench.store, hash_of(source))
    assert shown.policy.title == "Candidate 1."
    assert shown.evaluations[0].gate == "decision"
    assert shown.in_force[0].activation.evaluation == shown.evaluations[0].id


async def test_what_was_replayed_ahead_of_a_candidate_is_not_replayed_again(make: Any, wait_for: Any) -> None:
    bench = make()
    ready, simulate = await bench.window(), bench.simulate
    bench.ahead.on_snapshot(Received(ready, "trace.snapshot.s", "trace.snapshot.{scope}", "", {}))
    rivals = {bench.incumbent, *(arm.hash for arm in shipped("dispatch"))}
    cells = len(bench.settings.loads) * bench.settings.seeds
    await wait_for(lambda: len(simulate.runs) == cells * len(rivals))
    await bench.ahead.stop()
    simulate.quality[hash_of(candidate(1))] = 0.8
    assert (await bench.propose(candidate(1), ready)).verdict == "promote"
    on_open = [run for run in simulate.runs if run[1] == ready.snapshot]
    assert len(on_open) == len(set(on_open)) == cells * (len(rivals) + 1)


@pytest.mark.parametrize("mode", ["off", "paused"])
async def test_nothing_is_replayed_ahead_where_nothing_would_be_judged(make: Any, mode: Mode) -> None:
    bench = make(mode=mode)
    await bench.ahead.replay(await bench.window())
    assert bench.simulate.runs == []


async def test_mode_advise_judges_the_same_and_activates_nothing(make: Any) -> None:
    bench = make(mode="advise")
    source = candidate(1)
    bench.simulate.quality[hash_of(source)] = 0.8
    judgement = await bench.propose(source, await bench.window())
    assert (judgement.verdict, judgement.gain > 0.2) == ("advise", True)
    assert await bench.in_force() == bench.incumbent
    assert await bench.sent() == ["promoted", "evaluated"]


@pytest.mark.parametrize("mode", ["off", "paused"])
async def test_off_and_paused_judge_nothing(make: Any, mode: Mode) -> None:
    bench = make()
    await operations.set_mode(bench.store, SCOPE, mode)
    judgement = await bench.propose(candidate(1), await bench.window())
    assert (judgement.verdict, judgement.reason) == ("reject", f"mode is {mode}: nothing is judged")
    assert bench.simulate.runs == []


async def test_an_equal_candidate_does_not_come_past_the_open_blocks(make: Any) -> None:
    bench = make()
    judgement = await bench.propose(candidate(1), await bench.window())
    assert judgement.verdict == "reject"
    assert judgement.reason == "selection: on the open blocks it does not beat the incumbent"
    assert all(name != bench.simulate.sealed for _, name, _, _ in bench.simulate.runs)
    assert await bench.sent() == ["promoted", "rejected"]


async def test_one_that_a_shipped_policy_dominates_is_refused_and_that_one_judged_instead(make: Any) -> None:
    bench = make()
    source = candidate(1)
    best, good = (
        next(arm for arm in shipped("dispatch") if arm.name == name)
        for name in ("slo_triage", "power_of_two")
    )
    bench.simulate.quality.update({hash_of(source): 0.7, best.hash: 0.8, good.hash: 0.75})
    judgement = await bench.propose(source, await bench.window())
    assert "slo_triage is at least as good at every load" in judgement.reason
    assert judgement.best_baseline == "slo_triage"
    assert judgement.gain_over_baseline < 0
    assert await bench.in_force() == best.hash
    assert await bench.sent() == ["promoted", "evaluated", "promoted", "rejected"]


async def test_a_shipped_policy_is_a_candidate_like_any_other(make: Any) -> None:
    bench = make()
    best = next(arm for arm in shipped("dispatch") if arm.name == "slo_triage")
    bench.simulate.quality[best.hash] = 0.8
    judgement = await bench.propose(best.source, await bench.window(), origin="library")
    assert judgement.verdict == "promote"
    assert judgement.best_baseline != "slo_triage"
    async with bench.store.begin() as unit:
        message = (await unit.activations.current(SCOPE, "dispatch")).message
    assert message.name == "slo_triage"


async def test_what_holds_on_open_blocks_alone_is_refused(make: Any) -> None:
    bench = make()
    source = candidate(1)
    bench.simulate.quality[hash_of(source)] = 0.9
    bench.simulate.sealed_quality[hash_of(source)] = BASE
    judgement = await bench.propose(source, await bench.window())
    assert judgement.verdict == "reject"
    assert judgement.reason.startswith("decision: gain +0.0% is not certain")


@pytest.mark.parametrize(
    ("extra", "settings", "reason"),
    [
        ({"faults": 1}, {}, "6 faults in its replays"),
        ({"fuel": 600 * 60_000}, {}, "it uses 60000 fuel per request"),
        ({"rejected": np.arange(600) < 90}, {}, "it rejects 15.0% of arrivals"),
        ({}, {"min_gain": 0.5}, "is not certain"),
    ],
)
async def test_limits_of_the_decision(make: Any, extra: Any, settings: Any, reason: str) -> None:
    bench = make(**settings)
    source = candidate(1)
    bench.simulate.quality[hash_of(source)] = 0.8
    bench.simulate.extra[hash_of(source)] = extra
    judgement = await bench.propose(source, await bench.window())
    assert judgement.verdict == "reject"
    assert reason in judgement.reason


async def test_candidates_of_a_cycle_must_beat_whoever_won_before(make: Any) -> None:
    bench = make()
    good, best, worse = candidate(1), candidate(2), candidate(3)
    for source, share in ((good, 0.7), (best, 0.9), (worse, 0.8)):
        bench.simulate.quality[hash_of(source)] = share
    ready = await bench.window()
    verdicts = [await bench.propose(source, ready, rank=n) for n, source in enumerate((good, best, worse))]
    assert [verdict.verdict for verdict in verdicts] == ["promote", "promote", "reject"]
    assert [verdict.incumbent for verdict in verdicts] == [bench.incumbent, hash_of(good), hash_of(best)]
    assert await bench.in_force() == hash_of(best)


async def test_delivered_twice_it_is_judged_once(make: Any) -> None:
    bench = make()
    source = candidate(1)
    bench.simulate.quality[hash_of(source)] = 0.8
    ready = await bench.window()
    first = await bench.propose(source, ready)
    runs = len(bench.simulate.runs)
    assert await bench.propose(source, ready) == first
    assert len(bench.simulate.runs) == runs
    assert len(await bench.sent()) == 3


async def test_two_evaluators_at_once_activate_once(make: Any, store: Store) -> None:
    one, two = make(), make()
    ready = await one.window()
    await two.window()
    source = candidate(1)
    for bench in (one, two):
        bench.simulate.quality[hash_of(source)] = 0.8
    await asyncio.gather(one.propose(source, ready), two.propose(source, ready))
    assert len(await operations.history(store, SCOPE, "dispatch")) == 2
    assert len((await operations.show(store, hash_of(source))).evaluations) == 1


async def test_a_judgement_against_what_is_gone_is_not_applied_but_made_anew(make: Any, store: Store) -> None:
    bench = make()
    source, other = candidate(1), candidate(2)
    bench.simulate.quality.update({hash_of(source): 0.8, hash_of(other): 0.95})
    await in_force(store, SCOPE, "dispatch", first=initial("round_robin"))
    async with store.begin() as unit:
        await unit.policies.add(hash=hash_of(other), kind="dispatch", api=1, source=other, origin="operator")
    decision = bench.judge._gates[-1]

    async def while_an_operator_acts(case: Any) -> str | None:
        objection: str | None = await decision(case)
        if case.incumbent.hash == bench.incumbent:
            await operations.promote(store, SCOPE, "dispatch", hash_of(other), "meanwhile")
        return objection

    while_an_operator_acts.name = "decision"  # type: ignore[attr-defined]
    bench.judge._gates = (*bench.judge._gates[:-1], while_an_operator_acts)
    judgement = await bench.propose(source, await bench.window())
    assert (judgement.verdict, judgement.incumbent) == ("reject", hash_of(other))
    assert await bench.in_force() == hash_of(other)


async def test_what_was_rolled_back_needs_newer_evidence(make: Any, store: Store) -> None:
    bench = make()
    source = candidate(1)
    bench.simulate.quality[hash_of(source)] = 0.8
    assert (await bench.propose(source, await bench.window())).verdict == "promote"
    await operations.rollback(store, SCOPE, "dispatch")
    again = await bench.propose(source, await bench.window(1))
    assert again.reason == "hold-down: it was rolled back after this window; it needs newer evidence"


async def test_sealed_blocks_are_looked_at_a_few_times_only(make: Any) -> None:
    bench = make(looks=2)
    ready = await bench.window()
    reasons = []
    for number in range(3):
        source = candidate(number)
        bench.simulate.quality[hash_of(source)] = 0.9
        bench.simulate.sealed_quality[hash_of(source)] = BASE
        judgement = await bench.propose(source, ready)
        reasons.append(judgement.reason)
    assert judgement.confidence == 0.0
    assert "not certain" in reasons[1]
    assert reasons[2].startswith("decision: 2 candidates were decided on these sealed blocks already")


async def test_candidate_and_rivals_share_seeds_and_sealed_seeds_are_fresh(make: Any) -> None:
    bench = make()
    ready = await bench.window()
    for number in (1, 2):
        source = candidate(number)
        bench.simulate.quality[hash_of(source)] = 0.8 + number / 20
        await bench.propose(source, ready)

    def seeds(hash_: str, name: str) -> set[int]:
        return {seed for run, blocks, _, seed in bench.simulate.runs if (run, blocks) == (hash_, name)}

    one, two = hash_of(candidate(1)), hash_of(candidate(2))
    assert seeds(one, ready.snapshot) == seeds(two, ready.snapshot) == seeds(bench.incumbent, ready.snapshot)
    assert len(seeds(one, ready.snapshot)) == 2
    assert seeds(two, ready.sealed) < seeds(one, ready.sealed)
    assert seeds(bench.incumbent, ready.sealed) == seeds(one, ready.sealed) - seeds(two, ready.sealed)
    rivals = [run for run in bench.simulate.runs if run[1] == ready.snapshot]
    assert len(rivals) == len(set(rivals))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hash": "f" * 64}, "verification: its hash is"),
        ({"source": "import os\n"}, "import"),
        ({"source": "def route(:\n"}, "syntax"),
        ({"kind": "plan"}, "should_reschedule"),
        ({"api": 99}, "policy API version 99"),
        ({"snapshot": "0" * 64}, "no snapshot '000"),
    ],
)
async def test_bad_proposals_are_refused_with_a_reason(make: Any, changes: Any, reason: str) -> None:
    bench = make()
    judgement = await bench.propose(candidate(1), await bench.window(), **changes)
    assert judgement.verdict == "reject"
    assert reason.lower() in judgement.reason.lower()
    assert bench.simulate.runs == []


async def test_properties_and_failed_replays_reject(make: Any) -> None:
    bench = make()
    ready = await bench.window()
    holds = candidate(1).replace(
        "return Assign(min(replicas, key=lambda r: r.inflight).index)", "return HOLD"
    )
    judgement = await bench.propose(holds, ready)
    assert judgement.reason.startswith("properties: answered HOLD with every replica idle")
    source = candidate(2)
    bench.simulate.failing.add(hash_of(source))
    assert (await bench.propose(source, ready)).reason == "selection: its replay failed: JailTimeout"
    bench.simulate.failing = {bench.incumbent}
    assert "selection: the rival's (" in (await bench.propose(candidate(3), ready)).reason


async def test_a_shipped_policy_whose_replay_fails_is_no_rival(make: Any) -> None:
    bench = make()
    source = candidate(1)
    bench.simulate.quality[hash_of(source)] = 0.8
    bench.simulate.failing = {arm.hash for arm in shipped("dispatch") if arm.name != "round_robin"}
    judgement = await bench.propose(source, await bench.window())
    assert (judgement.verdict, judgement.best_baseline) == ("promote", "round_robin")


async def test_the_kept_source_is_what_is_judged(make: Any, store: Store) -> None:
    """Somebody with the right to add policies kept another source under this hash: it is not activated."""
    bench = make()
    source = candidate(1)
    async with store.begin() as unit:
        await unit.policies.add(
            hash=hash_of(source), kind="dispatch", api=1, source=candidate(2), origin="llm"
        )
    bench.simulate.quality[hash_of(source)] = 0.9
    judgement = await bench.propose(source, await bench.window())
    assert judgement.reason.startswith("verification: its hash is")
    assert await bench.in_force() == bench.incumbent


async def test_promotion_survives_as_an_event(make: Any, store: Store) -> None:
    bench = make()
    source = candidate(1)
    bench.simulate.quality[hash_of(source)] = 0.8
    await bench.propose(source, await bench.window())
    async with store.begin() as unit:
        rows: Sequence[Any] = await unit.outbox.waiting("evaluator")
    activation = decode(Activation, rows[-1].payload.encode())
    assert (activation.hash, activation.source) == (hash_of(source), source)
    assert activation.cause.startswith("evaluated: +")
    assert (
        promotion.subject_of((await operations.in_force(store))[0]).pattern
        == "policy.promoted.{scope}.{kind}"
    )
