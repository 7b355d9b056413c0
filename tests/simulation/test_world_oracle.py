"""The whole world on the token-stepping oracle: the same times as on the fast replica, with every feature on."""

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopoiesis.contracts.slo import Objectives, SloClass
from autopoiesis.policy.language import compile_policy
from autopoiesis.simulator.engine import EngineConfig
from autopoiesis.simulator.fleet import Change, Fleet, ReplicaSpec
from autopoiesis.simulator.hardware import gpu
from autopoiesis.simulator.models import model
from autopoiesis.simulator.replica import Replica
from autopoiesis.simulator.report import make_run
from autopoiesis.simulator.requests.outcome import Outcome
from autopoiesis.simulator.requests.prepared import Prepared
from autopoiesis.simulator.requests.settings import Clients, WorldSettings
from autopoiesis.simulator.requests.world import World
from autopoiesis.simulator.stepping import SteppingReplica
from autopoiesis.simulator.steptime import StepTime
from autopoiesis.simulator.workload import Trace

SHAPE = model("Llama-3.2-1B")
STEPS = [StepTime(gpu(name), SHAPE) for name in ("L4", "L40S", "H100", "A100-80")]
GOALS = Objectives(
    classes={"urgent": SloClass(priority=0, ttft_s=0.5, tpot_s=0.05), "batch": SloClass(priority=2)},
    default="urgent",
)
POLICY = """API = 1
def prioritize(request, ctx):
    return request.priority * 100.0 - request.waited
def route(request, replicas, ctx):
    best = -1
    for replica in replicas:
        if replica.role == "decode" or replica.notice < 0.5:
            continue
        if best < 0 or {load} < {best}:
            best = replica.index
    if best < 0:
        return Assign(request.seq % len(replicas), priority=request.priority)
    if replicas[best].waiting > 3 and request.waited < 0.2:
        return HOLD
    return Assign(best, priority=request.priority)
{place}"""
PLACE = """def place_decode(request, replicas, ctx):
    best = -1
    for replica in replicas:
        if replica.role != "prefill" and (best < 0 or replica.inflight < replicas[best].inflight):
            best = replica.index
    return Assign(best)
"""
LOADS = ("inflight", "running + replica.waiting", "queued_prefill_tokens", "kv_used_tokens")
HITS = "waiting * 40 - replica.prefix_hit_tokens"
WHOLE = ("outcome", "replica", "attempts", "holds", "tokens", "fallback", "fuel")
TIMES = ("arrived", "sent", "started", "first", "ended", "transfer_s")
COUNTS = (
    "steps",
    "layer_tokens",
    "kv_tokens_read",
    "kv_peak_tokens",
    "tokens_out",
    "preemptions",
    "prefix_hits",
)


@dataclass(frozen=True)
class Small:
    trace: Trace
    fleet: Fleet
    policy: str
    settings: WorldSettings

    def cut_short(self, replica: str) -> bool:
        """Its last run of steps may not have come to its end: it was lost, or the last client left."""
        lost = {change.replica for change in self.fleet.changes if change.kind in {"fail", "notice"}}
        return replica in lost or self.settings.clients.retries > 0

    def run(self, engine: type[Replica | SteppingReplica]) -> Outcome:
        prepared = Prepared(self.trace, GOALS, SHAPE.name, self.settings, 1)
        policies = [compile_policy(self.policy, "dispatch") for _ in range(self.settings.routers)]
        outcome = World(prepared, self.fleet, policies, self.settings, model=engine).run()
        make_run(prepared, outcome, load=1.0)
        return outcome


def _fleet(rng: random.Random, roles: list[str], pages: int, prefix: int) -> Fleet:
    specs = []
    for number, role in enumerate(roles):
        running = rng.randint(1, 6)
        config = EngineConfig(
            kv_capacity_tokens=pages * rng.randint(100 // pages, 400 // pages),
            max_batched_tokens=running + rng.choice([1, 10, 60, 200]),
            max_running=running,
            block_tokens=pages,
            prefix_block_tokens=prefix,
            reserve_full_prompt=rng.random() < 0.5,
        )
        specs.append(
            ReplicaSpec(
                name=f"r{number}",
                model=SHAPE.name,
                gpu="X",
                steps=STEPS[number % len(STEPS)],
                config=config,
                role=role,  # type: ignore[arg-type]
                node=f"n{number // 2}",
                kv_token_bytes=SHAPE.kv_bytes_per_token,
                link_bandwidth=20e9,
                network_bandwidth=rng.choice([40e9, 5e6]),
            )
        )
    return Fleet(tuple(specs)).with_changes(_changes(rng, specs))


def _changes(rng: random.Random, specs: list[ReplicaSpec]) -> list[Change]:
    changes: list[Change] = []
    for spec in specs[1:]:
        at = rng.uniform(0.1, 3.0)
        kind = rng.choice(["", "", "fail", "silent", "drain", "notice", "sleep", "replaced"])
        if kind == "silent":
            changes.append(Change(at=at, kind="fail", replica=spec.name, takes_s=rng.uniform(0.1, 1.0)))
        elif kind == "notice":
            changes.append(Change(at=at, kind="notice", replica=spec.name, takes_s=rng.uniform(0.1, 2.0)))
        elif kind == "sleep":
            changes.append(Change(at=at, kind="sleep", replica=spec.name))
            changes.append(
                Change(at=at + rng.uniform(0.0, 2.0), kind="wake", replica=spec.name, takes_s=rng.random())
            )
        elif kind == "replaced":
            new = replace(spec, name=f"{spec.name}-new")
            changes.append(Change(at=at, kind="drain", replica=spec.name))
            changes.append(
                Change(
                    at=at,
                    kind="join",
                    replica=new.name,
                    spec=new,
                    takes_s=rng.random(),
                    after=spec.name,
                    gap_s=0.3,
                )
            )
        elif kind:
            changes.append(Change(at=at, kind=kind, replica=spec.name))  # type: ignore[arg-type]
    return changes


def _trace(rng: random.Random, prefix: int, linked: float) -> Trace:
    count = rng.randint(2, 40)
    gap = rng.choice([0.003, 0.03, 0.1])
    arrival = np.cumsum([rng.expovariate(1 / gap) for _ in range(count)])
    prompt = [rng.randint(1, 60) for _ in range(count)]
    output = [rng.randint(1, rng.choice([3, 30])) for _ in range(count)]
    parent = [rng.randrange(n) if n and rng.random() < linked else -1 for n in range(count)]
    hashes = None
    if prefix:
        hashes = []
        for tokens in map(sum, zip(prompt, output, strict=True)):
            path, node = [], 1
            for _ in range(tokens // prefix):
                node = node * 4 + rng.choice([0, 0, 0, 1])
                path.append(node)
            hashes.append(tuple(path))
    return Trace.of(
        "small",
        arrival,
        prompt,
        output,
        session=[rng.randrange(4) for _ in range(count)],
        klass=[rng.randrange(2) for _ in range(count)],
        parent=parent,
        think_s=[rng.random() if p >= 0 else 0.0 for p in parent],
        classes=("urgent", "batch"),
        block_hashes=hashes,
        block_tokens=prefix,
    )


@st.composite
def worlds(draw: st.DrawFn) -> Small:
    pages = draw(st.sampled_from([1, 4, 16]))
    prefix = draw(st.sampled_from([0, 0, 1, 2])) * pages
    roles = draw(
        st.sampled_from(
            [
                ["mixed"],
                ["mixed"] * 3,
                ["prefill", "decode"],
                ["prefill", "decode", "prefill", "decode", "mixed"],
            ]
        )
    )
    load = draw(st.sampled_from((*LOADS[:3], HITS) if prefix else LOADS))
    policy = POLICY.format(
        load=f"replica.{load}",
        best=f"replicas[best].{load.replace('replica.', 'replicas[best].')}",
        place=PLACE if draw(st.booleans()) else "",
    )
    clients = draw(st.sampled_from([Clients(), Clients(timeout_s=0.7, retries=1, retry_after_s=0.2)]))
    routers = draw(st.sampled_from([1, 1, 2]))
    linked = draw(st.sampled_from([0.0, 0.5]))
    rng = random.Random(draw(st.integers(0, 2**32)))
    settings_ = WorldSettings(routers=routers, clients=clients, drain_s=60.0)
    if prefix:
        settings_ = replace(settings_, dispatch=replace(settings_.dispatch, block_tokens=prefix))
    return Small(_trace(rng, prefix, linked), _fleet(rng, roles, pages, prefix), policy, settings_)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_the_world_is_the_same_on_the_oracle(small: Small) -> None:
    fast, slow = small.run(Replica), small.run(SteppingReplica)
    for name in WHOLE:
        assert getattr(fast.rows, name) == getattr(slow.rows, name), name
    for name in TIMES:
        expected = pytest.approx(getattr(slow.rows, name), rel=1e-9, abs=1e-9, nan_ok=True)
        assert getattr(fast.rows, name) == expected, name
    for ours, theirs in zip(fast.replicas, slow.replicas, strict=True):
        if small.cut_short(ours.name):
            continue  # the fast replica counts a run of steps at its end
        for name in COUNTS:
            assert getattr(ours, name) == getattr(theirs, name), (ours.name, name)
        for name in ("busy_s", "present_s", "loading_s"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-9, abs=1e-9), name
