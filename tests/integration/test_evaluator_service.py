"""The evaluator as a process, with its own rights: a proposal goes in, an activation comes out."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from evaluator_window import SCOPE, keep_window

from autopoiesis.contracts.messages.policy import Proposed
from autopoiesis.contracts.subjects import EVALUATED, PROMOTED, PROPOSED, REJECTED, slug
from autopoiesis.evaluator.app import open_store
from autopoiesis.evaluator.settings import EvaluatorSettings
from autopoiesis.policy import library
from autopoiesis.policy.api import API_VERSION
from autopoiesis.policy.language import policy_hash
from autopoiesis.runtime import embedded
from autopoiesis.runtime.bus import Bus
from autopoiesis.runtime.errors import OperatorError
from autopoiesis.runtime.settings import Settings
from autopoiesis.store import BlobStore, Role, Store, operations, provision

WaitFor = Callable[..., Awaitable[None]]


@pytest.fixture
async def roles(database_url: str) -> dict[Role, str]:
    return await provision(database_url, lambda role: f"{role}-test")


@pytest.fixture
async def observer(roles: dict[Role, str]) -> AsyncIterator[Store]:
    async with await Store.open(roles["observer"]) as store:
        yield store


def start(
    supervisor: embedded.Supervisor,
    roles: dict[Role, str],
    nats_url: str,
    blobs: Path,
    name: str,
) -> embedded.Child:
    return supervisor.start(
        name,
        [sys.executable, "-m", "autopoiesis.evaluator"],
        env={
            "AUTOPOIESIS_SCOPE": SCOPE,
            "AUTOPOIESIS_MODE": "auto",
            "AUTOPOIESIS_BUS_URL": nats_url,
            "AUTOPOIESIS_DATABASE_URL": roles["evaluator"],
            "AUTOPOIESIS_BLOBS_DIR": str(blobs),
            "AUTOPOIESIS_EVALUATOR_LOADS": json.dumps([0.9, 1.0]),
            "AUTOPOIESIS_EVALUATOR_SEEDS": "1",
            "AUTOPOIESIS_EVALUATOR_NICE": "0",
        },
        cwd=blobs,
        ready="notify",
    )


ALL_TO_THE_SLOWEST = '''"""Whoever is slowest gets everything."""
API = 1


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    return Assign(max(replicas, key=lambda replica: (replica.predicted_ttft, replica.index)).index)
'''


def proposal(source: str, snapshot: str, sealed: str, rank: int = 0) -> Proposed:
    return Proposed(
        scope=SCOPE,
        kind="dispatch",
        hash=policy_hash(source, "dispatch"),
        source=source,
        api=API_VERSION,
        origin="library",
        snapshot=snapshot,
        sealed=sealed,
        rank=rank,
        cycle="c",
    )


async def propose(bus: Bus, message: Proposed) -> None:
    await bus.publish_event(
        PROPOSED, message, msg_id=f"{message.cycle}-{message.rank}", scope=slug(SCOPE), kind="dispatch"
    )


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    bus = await Bus.connect(nats_url, name="test")
    await bus.ensure_streams()
    yield bus
    await bus.close()


@pytest.mark.timeout(120)
async def test_a_proposal_becomes_an_activation_and_a_killed_evaluator_loses_nothing(
    own_supervisor: embedded.Supervisor,
    roles: dict[Role, str],
    observer: Store,
    nats_url: str,
    bus: Bus,
    tmp_path: Path,
    wait_for: WaitFor,
) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    ready = await keep_window(observer, blobs)
    child = await asyncio.to_thread(start, own_supervisor, roles, nats_url, blobs.directory, "evaluator-1")

    async def initial_is_published() -> bool:
        return bool(await bus.last_all(PROMOTED))

    await wait_for(initial_is_published)
    (first,) = await bus.last_all(PROMOTED)
    assert first.message.name == "round_robin"

    await propose(bus, proposal(library.source("slo_triage"), ready.snapshot, ready.sealed))
    await propose(bus, proposal(ALL_TO_THE_SLOWEST, ready.snapshot, ready.sealed, rank=1))
    child.kill()
    child = await asyncio.to_thread(start, own_supervisor, roles, nats_url, blobs.directory, "evaluator-2")

    async def judged() -> bool:
        (now,) = await bus.last_all(PROMOTED)
        return now.message.epoch > first.message.epoch and bool(await bus.last_all(REJECTED))

    await wait_for(judged, timeout=90.0)
    (passed,), (refused,) = await bus.last_all(EVALUATED), await bus.last_all(REJECTED)
    assert (passed.message.verdict, passed.message.hash) == (
        "promote",
        policy_hash(library.source("slo_triage"), "dispatch"),
    )
    assert passed.message.gain_low > 0.2
    assert passed.message.faults == 0
    assert passed.message.model_error == 0.05
    assert refused.message.reason == "selection: on the open blocks it does not beat the incumbent"
    (activation,) = await bus.last_all(PROMOTED)
    assert activation.message.hash == passed.message.hash

    assert child.ready is not None
    async with httpx.AsyncClient(base_url=child.ready["http"]) as client:
        assert (await client.get("/health")).json()["leading"]
        assert (await client.get("/ready")).status_code == 200
        counted = 'autopoiesis_evaluator_judgements_total{kind="dispatch",verdict="promote"} 1.0'

        async def counts_it() -> bool:
            return counted in (await client.get("/metrics")).text

        await wait_for(counts_it)
    async with await Store.open(roles["operator"]) as operator:
        assert len(await operations.history(operator, SCOPE, "dispatch")) == 2


async def test_stopped_while_it_judges_it_goes_at_once_and_gives_the_proposal_back(
    own_supervisor: embedded.Supervisor,
    roles: dict[Role, str],
    observer: Store,
    nats_url: str,
    bus: Bus,
    tmp_path: Path,
    wait_for: WaitFor,
) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    ready = await keep_window(observer, blobs)
    child = await asyncio.to_thread(start, own_supervisor, roles, nats_url, blobs.directory, "evaluator")
    await propose(bus, proposal(library.source("slo_triage"), ready.snapshot, ready.sealed))

    async def held() -> bool:
        info = await bus.client.jetstream().consumer_info("proposals", "evaluators")
        return bool(info.num_ack_pending == 1)

    await wait_for(held)
    assert await asyncio.to_thread(child.stop) == 0, child.tail(80)
    info = await bus.client.jetstream().stream_info("proposals")
    assert info.state.messages == 1
    assert "Traceback" not in child.log.read_text()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "evaluator.initial",
            "best",
            "evaluator.initial = 'best' is not a shipped dispatch policy; there are",
        ),
        ("database.url", "", "database.url is empty"),
        (
            "database.url",
            "postgresql://a:b@127.0.0.1:1/c",
            "Is it running there? If not there, set database.url",
        ),
    ],
)
async def test_settings_that_cannot_be_are_named(
    roles: dict[Role, str], key: str, value: str, said: str
) -> None:
    flags = {"database.url": roles["evaluator"], key: value}
    settings = Settings.load(EvaluatorSettings, env={}, flags=flags)
    with pytest.raises(OperatorError, match=re.escape(said)):
        await open_store(settings, settings[EvaluatorSettings])
