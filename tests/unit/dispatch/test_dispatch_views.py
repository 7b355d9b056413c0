import math
from collections.abc import Sequence
from typing import Any

import pytest
from dispatch_fakes import EVERYTHING, STEP, FakePolicy, arrival, beat, dispatcher

from autopoiesis.dispatch import events as ev
from autopoiesis.dispatch.filling import CALLED, CONTEXT, CORRECTED, REQUEST
from autopoiesis.policy.api import Assign, DispatchContext, Replica, Request, RouteDecision

DESCRIBED = {
    "node", "zone", "gpu", "tp", "role", "preemptible", "kv_capacity_tokens", "max_running", "step_time", "price",
}  # fmt: skip


class Camera:
    """Copies what every call of `route` sees, and sends to the first replica."""

    def __init__(self, **reads: frozenset[str]) -> None:
        self.policy = FakePolicy(self.route, reads=reads or EVERYTHING)
        self.requests: list[dict[str, Any]] = []
        self.contexts: list[dict[str, Any]] = []
        self.replicas: list[list[dict[str, Any]]] = []

    def route(self, request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
        self.requests.append(fields(request))
        self.contexts.append(fields(ctx))
        self.replicas.append([fields(replica) for replica in replicas])
        return Assign(0)


def fields(view: object) -> dict[str, Any]:
    return {name: getattr(view, name) for name in vars(type(view))["__slots__"]}


def test_every_field_of_the_views_is_filled_by_somebody() -> None:
    assert EVERYTHING["Request"] == set(REQUEST)
    assert EVERYTHING["DispatchContext"] == {*CONTEXT, "random"}
    assert EVERYTHING["Replica"] == {*CALLED, *CORRECTED, *DESCRIBED, "id", "index", "transfer_time"}


def test_a_request_is_described() -> None:
    camera = Camera()
    core = dispatcher(camera.policy)
    core.handle(0.0, beat("a"))
    core.handle(0.0, beat("other", model="other"))
    event = arrival(
        "1",
        prompt_bytes=1000,
        max_tokens=200,
        priority=2,
        tenant="t",
        session="s",
        adapter="lora",
        modality=1,
        ttft_slo=1.5,
        tpot_slo=0.05,
        deadline=99.0,
    )
    core.handle(0.5, arrival("0", model="other"))
    core.handle(0.5, event)
    seen = camera.requests[-1]
    expected = {
        "seq": 1, "prompt_tokens": 250, "max_tokens": 200, "expected_output_tokens": 200, "arrival": 0.5, "waited": 0.0,
        "priority": 2, "tenant": 1, "session": 1, "model": 0, "adapter": 1, "modality": 1, "ttft_slo": 1.5, "tpot_slo": 0.05,
        "deadline": 99.0, "session_replica": -1, "tenant_service": 0.0, "session_service": 0.0, "attempts": 0, "workflow": None,
    }  # fmt: skip
    assert seen == expected


def test_sessions_and_tenants_are_remembered() -> None:
    camera = Camera()
    core = dispatcher(camera.policy, suspect_after_s=1000.0)
    core.handle(0.0, beat("a"))
    core.handle(0.0, arrival("1", prompt_bytes=400, tenant="t", session="s"))
    core.handle(0.0, ev.Ended(request_id="1", output_tokens=60))
    core.handle(60.0, arrival("2", tenant="t", session="s"))
    seen, view = camera.requests[-1], camera.replicas[-1][0]
    assert seen["tenant_service"] == pytest.approx(80.0)
    assert seen["session_service"] == pytest.approx(80.0)
    assert seen["session_replica"] == view["id"]
    core.handle(60.0, ev.ReplicaGone("a", "gone"))
    core.handle(60.0, beat("b"))
    core.handle(60.0, arrival("3", tenant="u", session="s"))
    assert camera.requests[-1]["session_replica"] == -1
    assert camera.requests[-1]["tenant_service"] == 0.0
    core.handle(60.0, arrival("4", tenant="u"))
    assert (camera.requests[-1]["session"], camera.requests[-1]["session_service"]) == (0, 0.0)


def test_long_answers_are_charged_while_they_run() -> None:
    camera = Camera()
    core = dispatcher(camera.policy)
    core.handle(0.0, beat("a"))
    core.handle(0.0, arrival("1", prompt_bytes=400))
    core.handle(0.0, ev.Tokens("1", 70))
    core.handle(0.0, arrival("2"))
    assert camera.requests[-1]["tenant_service"] == 170.0
    core.handle(0.0, ev.Ended(request_id="1", output_tokens=100))
    core.handle(0.0, arrival("3"))
    assert camera.requests[-1]["tenant_service"] == 300.0


def test_a_replica_is_described() -> None:
    camera = Camera()
    core = dispatcher(camera.policy)
    core.handle(0.0, beat("x", node="n0", zone="z0"))
    event = beat(
        "a", node="n1", zone="z1", gpu="L40S", tp=2, role="prefill", preemptible=True, notice_s=30.0, price=1.5, uptime_s=10.0,
        running=3, waiting=0, queued_prefill_tokens=500, kv_used_tokens=4000, kv_capacity_tokens=90_000, max_running=32,
        step_time_s=0.02, adapters=("lora",), received={"r1": 0, "r2": 5},
    )  # fmt: skip
    core.handle(0.25, event)
    core.handle(0.5, arrival(adapter="lora"))
    seen = camera.replicas[-1][1]
    expected = {
        "index": 1, "node": 1, "zone": 1, "gpu": "L40S", "tp": 2, "role": "prefill", "preemptible": True, "notice": 29.75,
        "uptime": 10.25, "running": 3, "waiting": 0, "queued_prefill_tokens": 500, "kv_used_tokens": 4000,
        "kv_capacity_tokens": 90_000, "max_running": 32, "inflight": 0, "prefix_hit_tokens": 0, "adapter_loaded": True,
        "step_time": 0.02, "stats_age": 0.25, "fault_rate": 0.0, "price": 1.5, "transfer_time": 0.0,
    }  # fmt: skip
    assert {name: seen[name] for name in expected} == expected
    assert camera.contexts[-1]["routers"] == 2
    assert camera.replicas[-1][0]["notice"] == math.inf
    assert not camera.replicas[-1][0]["adapter_loaded"]


def test_prefix_hits_are_those_of_blocks_sent_there() -> None:
    camera = Camera()
    core = dispatcher(camera.policy, block_tokens=100)
    core.handle(0.0, beat("a"))
    core.handle(0.0, beat("b"))
    core.handle(0.0, arrival("1", prompt_bytes=1200, block_hashes=(1, 2, 3)))
    core.handle(0.0, arrival("2", prompt_bytes=1200, block_hashes=(1, 2, 4)))
    core.handle(0.0, arrival("3", prompt_bytes=600, block_hashes=(1, 2)))
    hits = [[replica["prefix_hit_tokens"] for replica in call] for call in camera.replicas]
    assert hits == [[0, 0], [200, 0], [150, 0]]
    core.handle(0.0, ev.ReplicaGone("a", "gone"))
    core.handle(0.0, beat("a", 2))
    core.handle(0.0, arrival("4", prompt_bytes=600, block_hashes=(1, 2)))
    assert camera.replicas[-1][0]["prefix_hit_tokens"] == 0


def test_a_replica_that_names_its_model_late_serves_it() -> None:
    camera = Camera()
    core = dispatcher(camera.policy)
    core.handle(0.0, beat("a", 1, model="", state="loading"))
    core.handle(0.1, beat("a", 2, state="ready"))
    core.handle(0.2, arrival("1"))
    assert [replica["index"] for replica in camera.replicas[-1]] == [0]


def test_blocks_that_a_heartbeat_reports_gone_are_no_hits() -> None:
    camera = Camera()
    core = dispatcher(camera.policy, block_tokens=100)

    def hits(name: str) -> int:
        core.handle(0.0, arrival(name, prompt_bytes=2000, block_hashes=(1, 2, 3, 4)))
        core.handle(0.0, ev.Left(name))
        return int(camera.replicas[-1][0]["prefix_hit_tokens"])

    core.handle(0.0, beat("a", 1, evictions=7, evicted=(8, 9)))
    assert hits("1") == 0
    assert hits("2") == 400
    core.handle(0.0, beat("a", 2, evictions=8, evicted=(8, 9, 3)))
    assert hits("3") == 200
    core.handle(0.0, beat("a", 3, evictions=8, evicted=(8, 9, 3)))
    assert hits("4") == 400, "an eviction that is told again has been counted already"
    core.handle(0.0, beat("a", 6, evictions=300, evicted=(70, 71)))
    assert hits("5") == 0, "heartbeats were lost: nobody knows what is left"
    core.handle(0.0, beat("a", 7, incarnation="i2"))
    assert hits("6") == 0


def test_prefix_hits_shorten_the_predicted_prefill() -> None:
    camera = Camera()
    core = dispatcher(camera.policy, block_tokens=100)
    core.handle(0.0, beat("a"))
    core.handle(0.0, beat("b"))
    core.handle(0.0, arrival("1", prompt_bytes=1600, block_hashes=(1, 2, 3, 4)))
    core.handle(0.0, ev.Tokens("1", 1))
    core.handle(0.0, ev.Ended(request_id="1", output_tokens=1, prompt_tokens=400))
    core.handle(0.0, arrival("2", prompt_bytes=1600, block_hashes=(1, 2, 3, 4)))
    warm, cold = (replica["predicted_ttft"] for replica in camera.replicas[-1])
    assert cold == pytest.approx(STEP.base_s + 400 * STEP.prefill_token_s)
    assert warm < cold / 2


def test_the_context_counts_what_is_held() -> None:
    camera = Camera()
    core = dispatcher(camera.policy)
    core.handle(0.0, arrival("1", prompt_bytes=400))
    core.handle(0.0, arrival("2", prompt_bytes=800))
    core.handle(1.0, beat("a"))
    core.handle(1.0, arrival("3", prompt_bytes=1200))
    seen = camera.contexts[-1]
    assert (seen["now"], seen["queue_length"], seen["queued_prompt_tokens"]) == (1.0, 2, 300)
    assert seen["arrival_rate"] == seen["arrival_rate_60"] == 3.0
    assert seen["mean_prompt_tokens"] == seen["mean_prompt_tokens_60"] == 200.0
    assert (seen["mean_output_tokens"], seen["attainment"], seen["routers"]) == (0.0, 1.0, 1)


def test_attainment_counts_misses_of_every_kind() -> None:
    camera = Camera()
    core = dispatcher(camera.policy, no_replica_wait_s=0.0)
    core.handle(0.0, arrival("refused"))
    core.handle(0.0, beat("a"))
    goals = {"ttft_slo": 0.5, "tpot_slo": 0.1}
    for name in ("good", "late", "slow", "failed", "left"):
        core.handle(0.0, arrival(name, **goals))
    for name in ("good", "slow", "failed"):
        core.handle(0.25, ev.Tokens(name, 1))
    core.handle(0.5, beat("a", 2))
    core.handle(0.75, ev.Tokens("late", 1))
    core.handle(0.75, ev.Ended(request_id="good", output_tokens=11))
    core.handle(0.75, ev.Ended(request_id="late", output_tokens=1))
    core.handle(0.75, ev.Ended(request_id="failed", code="internal"))
    core.handle(0.75, ev.Left("left"))
    core.handle(1.25, ev.Ended(request_id="slow", output_tokens=3))
    core.handle(1.25, arrival("now"))
    assert camera.contexts[-1]["attainment"] == 1 / 5
    assert camera.contexts[-1]["mean_output_tokens"] == 5.0


def test_workflows_follow_their_calls() -> None:
    camera = Camera()
    core = dispatcher(camera.policy, suspect_after_s=1000.0)
    core.handle(0.0, beat("a"))
    core.handle(0.0, arrival("1", workflow="w", max_tokens=11))
    core.handle(2.0, ev.Ended(request_id="1", output_tokens=11))
    core.handle(3.0, arrival("2", workflow="w", max_tokens=11))
    core.handle(3.0, arrival("3", workflow="w", max_tokens=11))
    view = camera.requests[-1]["workflow"]
    step = STEP.base_s + STEP.sequence_s + STEP.kv_token_s * (100 + 11 / 2)
    alone = STEP.base_s + 100 * STEP.prefill_token_s + 10 * step
    assert (view.age, view.attained, view.calls_done, view.calls_open) == (3.0, 2.0, 1, 2)
    assert view.horizon == pytest.approx(2 * alone)
    assert view.remaining_path == pytest.approx(alone)
    assert view.projected_ratio == pytest.approx((3.0 + alone) / (2 * alone))


def test_only_what_the_policy_reads_is_filled() -> None:
    camera = Camera(
        Request=frozenset({"seq"}), Replica=frozenset({"inflight"}), DispatchContext=frozenset({"now"})
    )
    core = dispatcher(camera.policy)
    core.handle(0.0, beat("a", running=7, queued_prefill_tokens=100))
    core.handle(0.5, arrival("1", prompt_bytes=400, tenant="t", priority=3))
    core.handle(0.5, arrival("2", prompt_bytes=400, tenant="t", priority=3))
    untouched = fields(Request())
    assert {**untouched, "seq": 1} == camera.requests[-1]
    seen = camera.replicas[-1][0]
    assert (seen["inflight"], seen["predicted_ttft"], seen["stats_age"]) == (1, 0.0, 0.0)
    assert camera.contexts[-1]["now"] == 0.5
    assert camera.contexts[-1]["arrival_rate"] == 0.0


def test_faults_of_a_replica_show() -> None:
    camera = Camera()
    core = dispatcher(camera.policy)
    core.handle(0.0, beat("a"))
    core.handle(0.0, arrival("1"))
    core.handle(0.0, ev.Ended(request_id="1", code="internal"))
    core.handle(0.0, arrival("2"))
    assert camera.replicas[-1][0]["fault_rate"] == pytest.approx(0.1)
    core.handle(0.0, ev.Ended(request_id="2", code="invalid_request"))
    core.handle(0.0, arrival("3"))
    assert camera.replicas[-1][0]["fault_rate"] == pytest.approx(0.09)


def test_prompt_estimates_follow_the_engines_counts() -> None:
    camera = Camera()
    core = dispatcher(camera.policy)
    core.handle(0.0, beat("a"))
    for number in range(200):
        core.handle(0.0, arrival(str(number), prompt_bytes=1000))
        core.handle(0.0, ev.Ended(request_id=str(number), prompt_tokens=500, output_tokens=3))
    core.handle(0.0, arrival("last", prompt_bytes=1000))
    assert camera.requests[-1]["prompt_tokens"] == pytest.approx(500, abs=5)
    assert camera.requests[-1]["expected_output_tokens"] == pytest.approx(3, abs=25)
