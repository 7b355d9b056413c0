"""Each shipped policy does what its docstring promises, on random fleets."""

import math
import re
from collections import Counter
from typing import Any

import pytest
from golden import state
from hypothesis import given, settings
from hypothesis import strategies as st

from autopoiesis.policy import library
from autopoiesis.policy.api import HOLD, Assign, DispatchContext, Replica, Request, Workflow
from autopoiesis.policy.language import CompiledPolicy

DISPATCH = library.names("dispatch", every=True)
ORDERS = (
    "earliest_deadline",
    "first_come_first_served",
    "least_attained_service",
    "least_laxity",
    "shortest_predicted_job",
    "virtual_token_fairness",
)
POLICIES = {name: library.load(name) for name in DISPATCH}
seeds = st.integers(0, 100_000)
sizes = st.integers(1, 12)


def load(replica: Replica) -> int:
    return replica.running + replica.waiting


def chosen(name: str, request: Request, fleet: tuple[Replica, ...], context: DispatchContext) -> Replica:
    decision = POLICIES[name].route(request, fleet, context)
    assert isinstance(decision, Assign)
    return fleet[decision.replica]


@pytest.mark.parametrize("name", DISPATCH)
@settings(max_examples=60)
@given(seeds, sizes)
def test_always_answers_within_a_tenth_of_its_fuel(name: str, seed: int, size: int) -> None:
    request, fleet, context = state(seed, size)
    policy = POLICIES[name]
    policy.route(request, fleet, context)
    assert policy.fuel_used <= policy.fuel // 10
    policy.prioritize(request, context)


@pytest.mark.parametrize("name", DISPATCH)
def test_says_what_it_is(name: str) -> None:
    assert POLICIES[name].title
    assert re.search(r"\bSources?:", library.source(name).split('"""')[1])
    assert library.source(name).isascii()


def test_names_are_found_by_kind_and_unknown_ones_are_explained() -> None:
    assert set(library.RIVALS) == {*library.names("dispatch"), *library.names("plan")}
    assert set(library.names("dispatch")) <= set(DISPATCH)
    assert "round_robin" not in library.names("plan", every=True)
    with pytest.raises(KeyError, match="no shipped policy 'best'; there are capacity_proportional"):
        library.source("best")


@given(seeds, sizes)
def test_round_robin_takes_turns(seed: int, size: int) -> None:
    request, fleet, context = state(seed, size)
    turns = []
    for _ in range(2 * size):
        turns.append(chosen("round_robin", request, fleet, context).index)
        request.seq += 1
    assert Counter(turns) == dict.fromkeys(range(size), 2)


def _shares(name: str, fleet: tuple[Replica, ...], request: Request, draws: int = 4000) -> list[float]:
    context = DispatchContext()
    counts = [0] * len(fleet)
    for number in range(draws):
        context.random = lambda number=number: (number * 0.6180339887498949) % 1.0  # type: ignore[misc]
        counts[chosen(name, request, fleet, context).index] += 1
    return [count / draws for count in counts]


def test_random_is_uniform_whatever_the_load() -> None:
    request, fleet, _ = state(5, 5)
    assert _shares("random", fleet, request) == pytest.approx([0.2] * 5, abs=0.01)


def test_capacity_proportional_follows_capacity() -> None:
    request, fleet, _ = state(5, 3)
    for replica, capacity in zip(fleet, (10_000, 30_000, 60_000), strict=True):
        replica.kv_capacity_tokens = capacity
    assert _shares("capacity_proportional", fleet, request) == pytest.approx([0.1, 0.3, 0.6], abs=0.01)


@given(seeds, st.integers(2, 12))
def test_power_of_two_never_takes_the_busiest_and_draws_two_different_ones(seed: int, size: int) -> None:
    request, fleet, context = state(seed, size)
    for position, replica in enumerate(fleet):
        replica.running, replica.waiting = position, 0
    assert chosen("power_of_two", request, fleet, context) is not fleet[-1]


@given(seeds, sizes)
def test_least_policies_take_a_minimum(seed: int, size: int) -> None:
    request, fleet, context = state(seed, size)
    assert load(chosen("least_requests", request, fleet, context)) == min(map(load, fleet))
    ttft = chosen("least_predicted_ttft", request, fleet, context).predicted_ttft
    assert ttft == min(replica.predicted_ttft for replica in fleet)
    tokens = [replica.kv_used_tokens + replica.queued_prefill_tokens for replica in fleet]
    assert tokens[chosen("least_kv_tokens", request, fleet, context).index] == min(tokens)


@pytest.mark.parametrize(
    "name",
    [
        "least_requests",
        "least_kv_tokens",
        "llmd_scorers",
        "llumnix_freeness",
        "sglang_cache_aware",
        "session_affinity",
    ],
)
def test_an_idle_fleet_is_filled_evenly(name: str) -> None:
    request, fleet, context = state(3, 4)
    for replica in fleet:
        replica.running = replica.waiting = replica.kv_used_tokens = replica.queued_prefill_tokens = (
            replica.prefix_hit_tokens
        ) = 0
        replica.kv_capacity_tokens = 1000
    request.session_replica = -1
    used = set()
    for _ in fleet:
        used.add(chosen(name, request, fleet, context).index)
        request.seq += 1
    assert len(used) == 4


class TestConsistentHashing:
    @given(seeds, st.integers(2, 12), st.integers(1, 1000))
    def test_a_session_stays_and_only_the_leavers_sessions_move(
        self, seed: int, size: int, session: int
    ) -> None:
        request, fleet, context = state(seed, size)
        for replica in fleet:
            replica.running = replica.waiting = 0
        request.session = session
        home = chosen("consistent_hashing", request, fleet, context)
        request.seq += 17
        assert chosen("consistent_hashing", request, fleet, context) is home
        gone = fleet[seed % size]
        rest = tuple(replica for replica in fleet if replica is not gone)
        for position, replica in enumerate(rest):
            replica.index = position
        if gone is not home:
            assert chosen("consistent_hashing", request, rest, context) is home

    @given(seeds, sizes)
    def test_load_stays_bounded(self, seed: int, size: int) -> None:
        request, fleet, context = state(seed, size)
        total = sum(map(load, fleet))
        assert load(chosen("consistent_hashing", request, fleet, context)) + 1 <= max(
            1.25 * (total + 1) / size, 1
        )

    def test_sessions_spread(self) -> None:
        request, fleet, context = state(1, 4)
        for replica in fleet:
            replica.running = replica.waiting = 0
        homes: Counter[int] = Counter()
        for session in range(1, 2001):
            request.session = session
            homes[chosen("consistent_hashing", request, fleet, context).index] += 1
        assert all(400 < homes[position] < 600 for position in range(4))


class TestTriage:
    @staticmethod
    def meets(request: Request, replica: Replica) -> bool:
        needed = request.prompt_tokens - replica.prefix_hit_tokens + request.expected_output_tokens
        return (
            request.waited + replica.predicted_ttft <= request.ttft_slo
            and replica.predicted_tpot <= request.tpot_slo
            and replica.kv_used_tokens + needed <= replica.kv_capacity_tokens
        )

    @pytest.mark.parametrize("name", ["slo_triage", "slo_triage_hold"])
    @given(seeds, sizes)
    def test_takes_the_most_cached_of_those_that_meet_the_slo(self, name: str, seed: int, size: int) -> None:
        request, fleet, context = state(seed, size)
        able = [replica for replica in fleet if self.meets(request, replica)]
        decision = POLICIES[name].route(request, fleet, context)
        if able:
            assert isinstance(decision, Assign)
            assert fleet[decision.replica] in able
            assert fleet[decision.replica].prefix_hit_tokens == max(
                replica.prefix_hit_tokens for replica in able
            )
        elif name == "slo_triage":
            assert isinstance(decision, Assign)

    @given(seeds, sizes)
    def test_lost_requests_go_to_the_back_of_an_engine_that_is_behind(self, seed: int, size: int) -> None:
        request, fleet, context = state(seed, size)
        request.waited = 100.0
        for name in ("slo_triage", "slo_triage_hold"):
            decision = POLICIES[name].route(request, fleet, context)
            assert isinstance(decision, Assign)
            assert decision.priority == 1_000_000
            assert fleet[decision.replica].predicted_ttft == max(replica.predicted_ttft for replica in fleet)

    @given(seeds, sizes)
    def test_holds_while_the_first_token_can_still_come_in_time(self, seed: int, size: int) -> None:
        request, fleet, context = state(seed, size)
        request.waited = 0.0
        for replica in fleet:
            replica.predicted_tpot, replica.predicted_ttft = 10.0, 0.1
        assert POLICIES["slo_triage_hold"].route(request, fleet, context) is HOLD
        assert isinstance(POLICIES["slo_triage"].route(request, fleet, context), Assign)


@given(seeds, sizes)
def test_session_affinity_stays_whatever_the_load(seed: int, size: int) -> None:
    request, fleet, context = state(seed, size)
    home = fleet[seed % size]
    request.session_replica = home.id
    home.running = 10_000
    assert chosen("session_affinity", request, fleet, context) is home


@given(seeds, st.integers(2, 12))
def test_sticky_least_loaded_leaves_a_hot_spot(seed: int, size: int) -> None:
    request, fleet, context = state(seed, size)
    home = fleet[seed % size]
    request.session_replica = home.id
    home.running = home.waiting = 0
    assert chosen("sticky_least_loaded", request, fleet, context) is home
    home.running = 10_000
    assert load(chosen("sticky_least_loaded", request, fleet, context)) == min(map(load, fleet))


@given(seeds, st.integers(2, 12))
def test_sglang_follows_the_prefix_only_in_a_balanced_fleet(seed: int, size: int) -> None:
    request, fleet, context = state(seed, size)
    request.prompt_tokens = 1000
    for replica in fleet:
        replica.running, replica.waiting, replica.prefix_hit_tokens = 10, 0, 0
    home = fleet[seed % size]
    home.prefix_hit_tokens = 301
    assert chosen("sglang_cache_aware", request, fleet, context) is home
    home.running = 200
    assert chosen("sglang_cache_aware", request, fleet, context) is not home


@given(seeds, st.integers(2, 12), st.integers(0, 3))
def test_llmd_prefers_what_is_better_in_one_score_and_worse_in_none(seed: int, size: int, which: int) -> None:
    request, fleet, context = state(seed, size)
    request.prompt_tokens = 1000
    for replica in fleet:
        replica.waiting, replica.prefix_hit_tokens, replica.kv_used_tokens, replica.kv_capacity_tokens = (
            5,
            10,
            500,
            1000,
        )
    better = fleet[seed % size]
    better.waiting, better.prefix_hit_tokens, better.kv_used_tokens = (
        (4, 10, 500) if which == 0 else (5, 20, 500) if which == 1 else (5, 10, 400)
    )
    assert chosen("llmd_scorers", request, fleet, context) is better


@given(seeds, st.integers(2, 12))
def test_preble_exploits_long_prefixes_and_explores_otherwise(seed: int, size: int) -> None:
    request, fleet, context = state(seed, size)
    request.prompt_tokens = 1000
    for replica in fleet:
        replica.running, replica.waiting, replica.queued_prefill_tokens = 5, 0, 5000
        replica.prefix_hit_tokens, replica.kv_used_tokens, replica.kv_capacity_tokens = 0, 0, 10**6
    home, idle = fleet[seed % size], fleet[(seed + 1) % size]
    idle.queued_prefill_tokens = 0
    home.prefix_hit_tokens = 501
    assert chosen("preble", request, fleet, context) is home
    home.prefix_hit_tokens = 499
    assert chosen("preble", request, fleet, context) is idle


@given(seeds, sizes)
def test_llumnix_takes_the_freest(seed: int, size: int) -> None:
    request, fleet, context = state(seed, size)

    def freeness(replica: Replica) -> float:
        free = replica.kv_capacity_tokens - replica.kv_used_tokens - replica.queued_prefill_tokens
        return free / max(replica.running, 1)

    assert freeness(chosen("llumnix_freeness", request, fleet, context)) == max(map(freeness, fleet))


class TestOrders:
    @pytest.mark.parametrize("name", ORDERS)
    @given(seeds, sizes)
    def test_hold_until_a_replica_can_start_at_once(self, name: str, seed: int, size: int) -> None:
        request, fleet, context = state(seed, size)
        decision = POLICIES[name].route(request, fleet, context)
        if isinstance(decision, Assign):
            replica = fleet[decision.replica]
            assert replica.waiting == 0
            assert replica.running < replica.max_running
        fleet[0].running = fleet[0].waiting = 0
        assert isinstance(POLICIES[name].route(request, fleet, context), Assign)

    @pytest.mark.parametrize(
        ("name", "field", "first", "second"),
        [
            ("shortest_predicted_job", "expected_output_tokens", 10.0, 200.0),
            ("earliest_deadline", "ttft_slo", 0.5, 2.0),
            ("earliest_deadline", "deadline", 5.0, 50.0),
            ("first_come_first_served", "arrival", 3.0, 4.0),
            ("least_laxity", "deadline", 5.0, 50.0),
            ("least_laxity", "ttft_slo", 0.5, 2.0),
            ("least_attained_service", "session_service", 10.0, 5000.0),
            ("virtual_token_fairness", "tenant_service", 10.0, 5000.0),
        ],
    )
    def test_order(self, name: str, field: str, first: Any, second: Any) -> None:
        keys = []
        for value in (first, second):
            request, _, context = state(7)
            request.arrival, request.waited = 3.0, 0.0
            setattr(request, field, value)
            keys.append(POLICIES[name].prioritize(request, context))
        assert keys[0] < keys[1]

    @given(st.floats(1, 1e4), st.floats(0, 1e4), st.integers(1, 10_000), st.floats(0, 1000))
    def test_laxity_is_what_is_left_after_the_work(
        self, deadline: float, later: float, prompt: int, output: float
    ) -> None:
        """Of two that are due together, the longer one is more urgent; doing it later by what is shorter makes them equal."""
        request, _, context = state(7)
        request.ttft_slo = request.tpot_slo = math.inf
        request.arrival, request.deadline = deadline, deadline
        keys = []
        for tokens in (prompt, 0):
            request.prompt_tokens, request.expected_output_tokens = tokens, output
            keys.append(POLICIES["least_laxity"].prioritize(request, context))
        assert keys[0] < keys[1]
        request.arrival = request.deadline = deadline + later
        assert POLICIES["least_laxity"].prioritize(request, context) == pytest.approx(keys[1] + later)

    def test_first_come_looks_at_arrival_alone(self) -> None:
        keys = set()
        for seed in range(20):
            request, _, context = state(seed)
            request.arrival = 5.0
            keys.add(POLICIES["first_come_first_served"].prioritize(request, context))
        assert keys == {5.0}

    def test_workflows_count_as_a_whole(self) -> None:
        policy: CompiledPolicy = POLICIES["least_attained_service"]
        request, _, context = state(7)
        request.session_service = 1e9
        request.workflow = Workflow()
        request.workflow.attained = 2.5
        assert policy.prioritize(request, context) == 2.5

    def test_nothing_waits_for_ever_behind_shorter_jobs(self) -> None:
        request, _, context = state(7)
        request.expected_output_tokens, request.waited = 1000.0, 60.0
        aged = POLICIES["shortest_predicted_job"].prioritize(request, context)
        request.expected_output_tokens, request.waited = 1.0, 0.0
        assert aged < POLICIES["shortest_predicted_job"].prioritize(request, context)
