"""The synthesizer on real servers: cycles, a language model that answers badly, budgets, verdicts, nothing ambient."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.policy import Judgement, Proposed
from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.contracts.subjects import PROPOSED, REJECTED, SNAPSHOT, slug
from autopoiesis.policy.jail import Jail, Limits
from autopoiesis.policy.language import policy_hash, verify
from autopoiesis.runtime.settings import Settings
from autopoiesis.simulator.workload import generate
from autopoiesis.simulator.workload.snapshot import write_snapshot
from autopoiesis.simulator.workload.window import SnapshotInfo
from autopoiesis.store import BlobStore, Store, provision
from autopoiesis.synthesizer.app import language_model
from autopoiesis.synthesizer.candidates import shipped
from autopoiesis.synthesizer.cycle import Cycle
from autopoiesis.synthesizer.llm import LanguageModel
from autopoiesis.synthesizer.preview import show_prompt
from autopoiesis.synthesizer.replay import MODULES
from autopoiesis.synthesizer.settings import LlmSettings, SynthesizerSettings

SCOPE = "local/Llama-3.1-8B"
MODEL = "Llama-3.1-8B"
SECONDS = 15.0

NO_MODEL = LlmSettings()

GOOD = '''Requests should go where their first token comes soonest, and to the pace they need.

```python
"""Soonest first token among those that keep the pace."""
API = 1


def prioritize(request, ctx):
    return request.priority * 10.0 - request.waited


def route(request, replicas, ctx):
    able = [r for r in replicas if r.predicted_tpot <= request.tpot_slo]
    return Assign(min(able or replicas, key=lambda r: r.predicted_ttft).index)
```
'''
BAD = "```python\nimport os\n\n\ndef route(request, replicas, ctx):\n    return os.getpid()\n```"


@dataclass
class Endpoint:
    """An OpenAI-compatible chat endpoint; `answers` go out in order, the last one for ever."""

    answers: list[str]
    url: str = ""
    requests: list[dict] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                length = next(
                    int(line[15:]) for line in head.splitlines() if line.lower().startswith("content-length:")
                )
                self.requests.append(json.loads(await reader.readexactly(length)))
                self.headers.append(head)
                text = self.answers[min(len(self.requests), len(self.answers)) - 1]
                body = json.dumps(
                    {
                        "id": "x",
                        "object": "chat.completion",
                        "created": 0,
                        "model": "tiny",
                        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
                        "choices": [
                            {
                                "index": 0,
                                "finish_reason": "stop",
                                "message": {"role": "assistant", "content": text},
                            }
                        ],
                    }
                ).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                writer.write(f"content-length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def endpoint(*answers: str) -> AsyncIterator[Endpoint]:
    found = Endpoint(list(answers))
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield found


def snapshot(blobs: BlobStore, *, rate: float = 14.0, cause: str = "interval") -> SnapshotReady:
    """A quarter of a minute on one H100 and one L40S at a load that tells policies apart."""
    trace = generate.poisson(rate, SECONDS, mix=(generate.INTERACTIVE, generate.BATCH), seed=3)
    records = [
        RequestRecord(
            request_id=f"secret-request-{n}",
            scope=SCOPE,
            model=MODEL,
            arrival_unix_s=1000.0 + float(trace.arrival[n]),
            stream=True,
            prompt_bytes=int(trace.prompt_tokens[n]) * 4,
            prompt_tokens=int(trace.prompt_tokens[n]),
            prompt_tokens_estimated=int(trace.prompt_tokens[n]),
            max_tokens=4096,
            output_tokens=int(trace.output_tokens[n]),
            output_censored=False,
            outcome="finished",
            klass=trace.classes[int(trace.klass[n])],
            tenant="secret-tenant",
        )
        for n in range(len(trace))
    ]
    fleet = tuple(
        Heartbeat(
            node=name,
            replica=name,
            incarnation="i",
            beat=1,
            state="ready",
            model=MODEL,
            gpu=gpu,
            max_running=128,
            kv_capacity_tokens=capacity,
        )
        for name, gpu, capacity in (("secret-replica", "H100", 400_000), ("b", "L40S", 190_000))
    )
    info = SnapshotInfo(scope=SCOPE, start_unix_s=1000.0, end_unix_s=1000.0 + SECONDS, fleet=fleet)
    name = blobs.put(write_snapshot(records, info))
    return SnapshotReady(
        scope=SCOPE,
        snapshot=name,
        sealed="",
        start_unix_s=1000.0,
        cut_unix_s=1000.0 + SECONDS,
        end_unix_s=1000.0 + SECONDS,
        arrivals=len(trace),
        sealed_arrivals=0,
        cause=cause,
    )


@pytest.fixture
async def role_urls(database_url):
    return await provision(database_url, lambda role: f"password of {role}")


@pytest.fixture
async def store(role_urls):
    async with Store(role_urls["synthesizer"]) as opened:
        yield opened


@pytest.fixture(scope="module")
def jail():
    with Jail(MODULES, workers=2, limits=Limits(wall_s=20, cpu_s=20)) as built:
        yield built


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def run_cycle(store, jail, blobs):
    async def run(ready, *, llm=NO_MODEL, **settings):
        own = SynthesizerSettings(
            **{
                "cycle_s": 30.0,
                "candidates": 10,
                "population": 5,
                "loads": (1.0, 1.3),
                "min_gain": 0.01,
                **settings,
            }
        )
        model = language_model(llm)
        cycle = Cycle(own, ready, "dispatch", store=store, blobs=blobs, jail=jail, model=model)
        try:
            winners = await cycle.run()
        finally:
            if model:
                await model.close()
        async with store.begin() as unit:
            completions = await unit.completions.of_cycle(cycle.name)
            outgoing = await unit.outbox.waiting("synthesizer")
        return cycle, winners, completions, outgoing

    return run


async def test_a_cycle_proposes_valid_policies_that_beat_the_incumbent(run_cycle, blobs, store):
    cycle, winners, completions, outgoing = await run_cycle(snapshot(blobs))
    assert winners
    assert not completions
    assert [o.subject for o in outgoing] == [PROPOSED.at(scope=slug(SCOPE), kind="dispatch")] * len(winners)
    for rank, out in enumerate(outgoing):
        proposed = json.loads(out.payload)
        assert proposed["rank"] == rank
        assert proposed["cycle"] == cycle.name
        assert proposed["hash"] == policy_hash(proposed["source"], "dispatch")
        assert verify(proposed["source"], "dispatch", complete=True).ok
    assert winners[0].fitness > 1.05  # round robin leaves much to gain here
    assert cycle.budget.candidates <= 10
    async with store.begin() as unit:
        archived = await unit.archive.best(SCOPE, "dispatch")
        known = await unit.policies.known([w.hash for w in winners])
    assert {w.hash for w in winners} == known
    assert any(entry.features["scores"] for entry, _ in archived)


async def test_on_drift_the_archive_answers_before_the_search(run_cycle, blobs):
    _, winners, _, outgoing = await run_cycle(snapshot(blobs, cause="drift"), candidates=0)
    assert json.loads(outgoing[0].payload)["origin"] == "library"
    assert winners


async def test_a_bad_answer_is_repaired_and_every_call_is_kept(run_cycle, blobs):
    async with endpoint(BAD, GOOD, "I would rather not.") as model:
        llm = LlmSettings(base_url=model.url, model="tiny", prompt_price=10.0, completion_price=20.0)
        cycle, _, completions, _ = await run_cycle(snapshot(blobs), llm=llm, calls=4, candidates=5)
    assert [bool(c.error) for c in completions] == [True, False, True, True]
    assert "import" in completions[0].error
    assert completions[1].candidate
    assert "SEARCH/REPLACE" in completions[2].error
    assert [c.prompt_tokens for c in completions] == [1000] * 4
    assert completions[0].cost == pytest.approx((1000 * 10 + 100 * 20) / 1e6)
    assert (cycle.budget.calls, cycle.budget.tokens) == (4, 4400)
    repair = model.requests[1]["messages"]
    assert [m["role"] for m in repair] == ["system", "user", "assistant", "user"]
    assert "[import]" in repair[-1]["content"]
    for request in model.requests:
        assert "secret" not in json.dumps(request)
    assert "Why the last attempts failed" in model.requests[2]["messages"][1]["content"]


async def test_what_a_model_wrote_is_raced_and_archived_as_its_own(run_cycle, blobs, store):
    async with endpoint(GOOD) as model:
        llm = LlmSettings(base_url=model.url, model="tiny")
        _, _, completions, _ = await run_cycle(snapshot(blobs), llm=llm, calls=1, candidates=1)
    async with store.begin() as unit:
        entries = {policy.hash: policy for _, policy in await unit.archive.best(SCOPE, "dispatch")}
    assert entries[completions[0].candidate].origin == "llm"


@pytest.mark.parametrize("bound", ["calls", "tokens", "cost", "no money at all"])
async def test_no_call_beyond_any_budget(run_cycle, blobs, bound):
    """Every call is weighed by the most it could use before it is made."""
    ready = snapshot(blobs)
    async with endpoint("no policy here") as model:
        llm = LlmSettings(
            base_url=model.url, model="tiny", prompt_price=100.0, completion_price=1.0, max_tokens=1000
        )
        await run_cycle(ready, llm=llm, candidates=1, calls=1, cost=100.0)
        tokens, cost = LanguageModel(llm).worst_case(model.requests[0]["messages"])
        limits: dict[str, dict[str, float]] = {
            "calls": {"calls": 2},
            "tokens": {"tokens": tokens + 600},
            "cost": {"cost": cost + 0.06},
            "no money at all": {"cost": 0.0},
        }
        model.requests.clear()
        cycle, *_ = await run_cycle(
            ready, llm=llm, candidates=1, **({"calls": 9, "cost": 100.0} | limits[bound])
        )
    calls = {"calls": 2, "tokens": 1, "cost": 1, "no money at all": 0}[bound]
    assert (len(model.requests), cycle.budget.calls) == (calls, calls)


async def test_an_ambient_key_spends_nothing_and_is_not_sent(run_cycle, blobs, monkeypatch):
    async with endpoint(GOOD) as model:
        for name, value in (
            ("OPENAI_API_KEY", "ambient-key"),
            ("OPENAI_BASE_URL", model.url),
            ("OPENAI_ORG_ID", "ambient-org"),
            ("OPENAI_PROJECT_ID", "ambient-project"),
        ):
            monkeypatch.setenv(name, value)
        _, _, completions, _ = await run_cycle(snapshot(blobs), candidates=1)
        assert not model.requests
        assert not completions
        llm = LlmSettings(base_url=model.url, model="tiny")
        await run_cycle(snapshot(blobs), llm=llm, calls=1, candidates=1)
    assert model.requests
    assert "ambient" not in "".join(model.headers)


async def test_an_endpoint_that_is_away_costs_a_call_and_nothing_else(run_cycle, blobs, free_port):
    llm = LlmSettings(base_url=f"http://127.0.0.1:{free_port}/v1", model="tiny", timeout_s=2)
    _, winners, completions, _ = await run_cycle(snapshot(blobs), llm=llm, calls=3, candidates=5)
    assert winners
    assert completions[0].error.startswith("tiny at http://127.0.0.1")


async def test_show_prompt_says_what_a_cycle_would_send(store, role_urls, blobs):
    ready = snapshot(blobs)
    async with Store(role_urls["observer"]) as observer, observer.begin() as unit:
        await unit.snapshots.add(ready, path=str(blobs.path(ready.snapshot)))
    flags = {"scope": SCOPE, "database.url": role_urls["synthesizer"], "blobs.dir": str(blobs.directory)}
    text = await show_prompt(Settings.load(SynthesizerSettings, env={}, flags=flags))
    for part in ("predicted_ttft", "What may not, and why", "INCUMBENT", "class batch", "1 x H100", "SEARCH"):
        assert part in text
    assert "secret" not in text


@pytest.fixture
def service(supervisor, nats_url, role_urls, blobs, tmp_path):
    children = []

    def start(**env):
        child = supervisor.start(
            f"synthesizer-{tmp_path.name}",
            [sys.executable, "-m", "autopoiesis.synthesizer"],
            env={
                "AUTOPOIESIS_BUS_URL": nats_url,
                "AUTOPOIESIS_DATABASE_URL": role_urls["synthesizer"],
                "AUTOPOIESIS_BLOBS_DIR": str(blobs.directory),
                "AUTOPOIESIS_SYNTHESIZER_CANDIDATES": "5",
                "AUTOPOIESIS_SYNTHESIZER_LOADS": "[1.0]",
                **env,
            },
            ready="notify",
            timeout=60,
            restart=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.stop()


async def test_the_service_answers_snapshots_survives_a_kill_and_hears_verdicts(
    service, bus, store, blobs, wait_for
):
    await bus.ensure_streams()
    ready = snapshot(blobs)
    await bus.publish_event(SNAPSHOT, ready, msg_id="older than the service", scope=slug(SCOPE))
    child = service()
    niced = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    assert os.getpriority(os.PRIO_PROCESS, child.ready["pid"]) == niced
    child.kill()  # in the middle of its first cycle, or before: the snapshot comes again
    proposals: list[Proposed] = []

    async def proposed(delivered):
        proposals.append(delivered.message)

    await bus.consume(PROPOSED, "test", proposed)
    await wait_for(lambda: proposals, timeout=60)
    best = proposals[0]
    verdict = Judgement(
        scope=SCOPE,
        kind="dispatch",
        hash=best.hash,
        snapshot=ready.snapshot,
        sealed="",
        verdict="reject",
        reason="a test says so",
        incumbent=shipped("dispatch")[0].hash,
        gain=-0.1,
        gain_low=-0.2,
        gain_high=0.0,
        confidence=0.95,
    )

    async def archived():
        async with store.begin() as unit:
            return {entry.hash: entry.features for entry, _ in await unit.archive.best(SCOPE, "dispatch")}

    async def remembered():
        return best.hash in await archived()

    async def heard():
        return "a test says so" in (await archived())[best.hash].get("feedback", "")

    await wait_for(remembered, timeout=60)
    await bus.publish_event(REJECTED, verdict, msg_id="v", scope=slug(SCOPE), kind="dispatch")
    await wait_for(heard, timeout=20)


async def test_mode_off_starts_no_cycle(service, bus, store, blobs, wait_for):
    await bus.ensure_streams()
    child = service(AUTOPOIESIS_MODE="off")
    await bus.publish_event(SNAPSHOT, snapshot(blobs), msg_id="s", scope=slug(SCOPE))
    await wait_for(lambda: "mode is off" in child.log.read_text(), timeout=20)
    async with store.begin() as unit:
        assert not await unit.archive.best(SCOPE, "dispatch")
