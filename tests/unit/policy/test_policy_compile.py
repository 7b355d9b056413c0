"""Compiled policies: what they read, what they cost, how they fail, and what they may answer."""

import math

import pytest
from golden import state
from plain import plain

from autopoiesis.policy.api import Assign, GpuPool, ModelDemand, PlanContext, Replicas
from autopoiesis.policy.language import (
    InvalidDecision,
    LinkError,
    OutOfFuel,
    PolicyError,
    PolicyFault,
    VerificationError,
    compile_policy,
    link,
    policy_hash,
)

PRIORITIZE = "def prioritize(request, ctx):\n    return request.arrival\n"
FIRST = PRIORITIZE + "def route(request, replicas, ctx):\n    return Assign(0)\n"


def routing(body: str, top: str = "") -> str:
    indented = "\n".join("    " + line for line in body.splitlines())
    return f"{top}\n{PRIORITIZE}def route(request, replicas, ctx):\n{indented}\n"


def test_title_source_and_functions() -> None:
    policy = compile_policy('"""First.\n\nAlways the first."""\n' + FIRST, "dispatch")
    assert policy.title == "First.\n\nAlways the first."
    assert policy.functions == {"prioritize", "route"}
    assert policy.source.endswith(FIRST)
    assert "First." in repr(policy)


def test_reads_are_exact_for_ordinary_code() -> None:
    body = (
        "best = min(replicas, key=lambda r: r.waiting + load(r))\nif request.workflow is not None and request.workflow.age > 1:\n"
        "    return HOLD\nfor r in sorted(replicas, key=lambda q: q.id):\n    if r.index == ctx.queue_length:\n        return Assign(r.index)\n"
        "return Assign(best.index)"
    )
    reads = compile_policy(routing(body, "def load(r):\n    return r.running\n"), "dispatch").reads
    assert reads["Replica"] == {"waiting", "running", "id", "index"}
    assert reads["Request"] == {"arrival", "workflow"}
    assert reads["Workflow"] == {"age"}
    assert reads["DispatchContext"] == {"queue_length"}
    assert reads["GpuPool"] == frozenset()


def test_reads_of_a_value_of_unknown_origin_count_for_every_view_of_its_kind() -> None:
    reads = compile_policy(
        routing(
            "pairs = [(r, request) for r in replicas]\nfor a, b in pairs:\n    x = a.arrival_rate + b.seq\nreturn HOLD"
        ),
        "dispatch",
    ).reads
    assert "arrival_rate" in reads["DispatchContext"]
    assert reads["ModelDemand"] == frozenset()
    assert "seq" in reads["Request"]


def test_fuel_used_grows_with_the_fleet_and_is_the_same_every_time() -> None:
    policy = compile_policy(
        routing("return Assign(min(replicas, key=lambda r: r.waiting).index)"), "dispatch"
    )
    used = []
    for count in (8, 8, 32):
        policy.route(*state(1, count))
        used.append(policy.fuel_used)
    assert used[0] == used[1] < used[2] < 10 * used[0]


def test_out_of_fuel_names_the_line_and_the_next_call_starts_afresh() -> None:
    policy = compile_policy(
        routing("if request.seq == 1:\n    while True:\n        pass\nreturn Assign(0)"),
        "dispatch",
        fuel=1000,
    )
    request, fleet, context = state(1)
    request.seq = 1
    with pytest.raises(OutOfFuel, match="line 6: more than 1000 units of fuel"):
        policy.route(request, fleet, context)
    assert policy.fuel_used == 1000
    request.seq = 2
    assert policy.route(request, fleet, context) == Assign(0)


def test_fault_tells_line_and_cause() -> None:
    policy = compile_policy(routing("x = {}\n\nreturn x['queue']"), "dispatch")
    with pytest.raises(PolicyFault, match=r"line 7: KeyError: 'queue' is not in the dict") as caught:
        policy.route(*state(1))
    assert caught.value.line == 7


def test_recursion_resets_after_a_fault() -> None:
    policy = compile_policy(
        routing("return Assign(down(request.seq))", "def down(n):\n    return down(n - 1) if n else 0\n"),
        "dispatch",
    )
    request, fleet, context = state(1)
    for seq, ok in ((40, True), (100, False), (40, True)):
        request.seq = seq
        if ok:
            assert policy.route(request, fleet, context) == Assign(0)
        else:
            with pytest.raises(PolicyFault, match="nested deeper than 48"):
                policy.route(request, fleet, context)


@pytest.mark.parametrize("value", ["math.inf", "math.nan", "None", "True", "'1'", "2 ** 100", "(1, 2)"])
def test_priorities_are_finite_numbers(value: str) -> None:
    policy = compile_policy(
        f"import math\ndef prioritize(request, ctx):\n    return {value}\ndef route(request, replicas, ctx):\n    return HOLD\n",
        "dispatch",
    )
    request, _, context = state(1)
    with pytest.raises(InvalidDecision, match="a finite number"):
        policy.prioritize(request, context)


def test_whole_number_is_a_priority() -> None:
    policy = compile_policy(
        "def prioritize(request, ctx):\n    return 3\ndef route(request, replicas, ctx):\n    return HOLD\n",
        "dispatch",
    )
    request, _, context = state(1)
    result = policy.prioritize(request, context)
    assert type(result) is float
    assert result == 3.0


def plan_context() -> PlanContext:
    context = PlanContext()
    model, pool = ModelDemand(), GpuPool()
    pool.type, pool.count = "H100", 4
    context.models, context.gpus = (model,), (pool,)
    return context


def planning(plan: str, decision: str = "True") -> str:
    return f"def should_reschedule(ctx):\n    return {decision}\ndef schedule(ctx):\n    return {plan}\n"


def test_plan_is_checked_and_returned_as_a_tuple() -> None:
    policy = compile_policy(
        planning("[Replicas(m.index, g.type, 1, g.count) for m in ctx.models for g in ctx.gpus]"), "plan"
    )
    assert policy.should_reschedule(plan_context()) is True
    assert policy.schedule(plan_context()) == (Replicas(0, "H100", 1, 4),)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("None", "a plan is a list of Replicas, not None"),
        ("[1]", "entry 0 of the plan is 1"),
        ("[Replicas(1, 'H100', 1, 1)]", "model is 1; it is an index from 0 to 0"),
        ("[Replicas(0, 'L4', 1, 1)]", "gpu is 'L4'; it is one of H100"),
        ("[Replicas(0, 'H100', 0, 1)]", "tp is 0"),
        ("[Replicas(0, 'H100', 1, -1)]", "count is -1"),
        ("[Replicas(0, 'H100', 1, 1, role='prefil')]", "role is 'prefil'"),
        ("[Replicas(0, 'H100', 1, 1, share=-0.5)]", "share is -0.5"),
    ],
)
def test_plans_that_cannot_be_carried_out(plan: str, words: str) -> None:
    with pytest.raises(InvalidDecision, match=words):
        compile_policy(planning(plan), "plan").schedule(plan_context())


def test_should_reschedule_is_a_bool() -> None:
    with pytest.raises(InvalidDecision, match="returned 1; it returns True or False"):
        compile_policy(planning("[]", "1"), "plan").should_reschedule(plan_context())


def test_bad_source_is_refused_with_its_report() -> None:
    with pytest.raises(VerificationError) as caught:
        compile_policy(routing("import os"), "dispatch")
    assert caught.value.report.problems[0].rule == "node"
    assert isinstance(caught.value, PolicyError)


class TestLinking:
    PARENT = (
        "SCALE = 2.0\nLIMIT = 5\n"
        "def load(r):\n    return r.running * SCALE\n"
        "def route(request, replicas, ctx):\n    return Assign(min(replicas, key=load).index)\n"
        "def prioritize(request, ctx):\n    return 1.0\n"
    )

    def test_missing_functions_come_with_what_they_use(self) -> None:
        policy = compile_policy(PRIORITIZE, "dispatch", parent=self.PARENT)
        request, fleet, context = state(3)
        assert policy.prioritize(request, context) == request.arrival
        assert policy.route(request, fleet, context) == Assign(min(fleet, key=lambda r: r.running).index)
        assert policy.source.startswith(PRIORITIZE)
        assert "SCALE" in policy.source
        assert "LIMIT" not in policy.source

    def test_clashing_helpers_and_constants_are_renamed(self) -> None:
        child = "SCALE = -1.0\ndef load(r):\n    return SCALE\ndef prioritize(request, ctx):\n    return load(None)\n"
        policy = compile_policy(child, "dispatch", parent=self.PARENT)
        request, fleet, context = state(3)
        assert policy.prioritize(request, context) == -1.0
        assert policy.route(request, fleet, context) == Assign(min(fleet, key=lambda r: r.running).index)
        assert "load_inherited" in policy.source
        assert "SCALE_inherited" in policy.source

    def test_equal_definitions_are_shared(self) -> None:
        child = "SCALE = 2.0\ndef load(r):\n    '''As before.'''\n    return r.running * SCALE\n" + PRIORITIZE
        assert "inherited" not in link(child, "dispatch", self.PARENT)

    def test_recursive_definitions_are_compared_without_end(self) -> None:
        helpers = "def even(n):\n    return odd(n - 1) if n else 1\ndef odd(n):\n    return even(n - 1) if n else 0\n"
        parent = helpers + "def route(request, replicas, ctx):\n    return Assign(even(4) - 1)\n" + PRIORITIZE
        linked = link(helpers + PRIORITIZE, "dispatch", parent)
        assert linked.count("def even") == 1

    def test_whole_policies_come_back_unchanged(self) -> None:
        assert link(FIRST, "dispatch", self.PARENT) == FIRST

    def test_without_a_parent_nothing_is_invented(self) -> None:
        with pytest.raises(LinkError, match="route missing"):
            link(PRIORITIZE, "dispatch")
        with pytest.raises(LinkError, match="route missing here and in the parent"):
            link(PRIORITIZE, "dispatch", PRIORITIZE)

    def test_linked_and_written_out_are_the_same_policy(self) -> None:
        written_out = self.PARENT.replace("LIMIT = 5\n", "").replace("return 1.0", "return request.arrival")
        assert policy_hash(link(PRIORITIZE, "dispatch", self.PARENT), "dispatch") == policy_hash(
            written_out, "dispatch"
        )


def test_constants_are_computed_once_and_metered() -> None:
    policy = compile_policy(
        routing("return Assign(int(LIMITS[1]))", "import math\nLIMITS = [2.0 ** 3, math.sqrt(4) + 1]\n"),
        "dispatch",
    )
    assert policy.route(*state(1)) == Assign(3)
    with pytest.raises(PolicyFault, match="line 1: OverflowError"):
        compile_policy("X = 10 ** 1000000\n" + FIRST, "dispatch")


@pytest.mark.parametrize("top", ["P, Q = 1, 2\nA, B = Q, (P, Q)\n", "P = 1\nQ = 2\nA = Q\nB = (P, Q)\n"])
def test_constants_side_by_side_have_the_values_of_python(top: str) -> None:
    source = routing("return Assign(A, priority=10 * B[0] + B[1] - P)", top)
    expected = plain(source)["route"](*state(1))
    policy = compile_policy(source, "dispatch")
    assert policy.route(*state(1)) == expected == Assign(2, priority=11)


def test_inherited_constants_come_from_side_by_side_ones() -> None:
    parent = "SCALE, LIMIT = 2, 5\n" + FIRST.replace("Assign(0)", "Assign(SCALE)")
    linked = link(PRIORITIZE, "dispatch", parent)
    assert "SCALE = 2" in linked
    assert "LIMIT" not in linked


def test_sum_adds_from_left_to_right() -> None:
    body = "return Assign(0, priority=1) if sum([0.1] * 10) == expected() else HOLD"
    total = 0.0
    for _ in range(10):
        total += 0.1
    assert total != math.fsum([0.1] * 10)
    policy = compile_policy(routing(body, f"def expected():\n    return {total!r}\n"), "dispatch")
    assert policy.route(*state(1)) == Assign(0, priority=1)


def test_a_crafted_chain_of_types_does_not_slow_the_compiler_down() -> None:
    """Each pass of the inference learns one more name; it gives up instead of taking hundreds of passes."""
    count = 400
    chain = "\n".join(f"v{i} = v{i + 1}" for i in range(count)) + f"\nv{count} = 1\nreturn Assign(v0 * 0)"
    from autopoiesis.policy.language import infer

    source = routing(
        "v0 = 0\nfor turn in range(2):\n" + "\n".join("    " + line for line in chain.splitlines())
    )
    policy = compile_policy(source, "dispatch")
    assert policy.kind == "dispatch"
    assert count > infer._GIVE_UP_AFTER


def sharing(shape: str) -> str:
    """Sixty lines that stand for 2**60 elements."""
    lines = "\n".join(f"C{n} = {shape.format(f'C{n - 1}')}" for n in range(1, 60))
    return f"API = 1\nC0 = (1, 2)\n{lines}\n{FIRST}"


def test_a_constant_costs_what_it_holds_however_often_that_is_the_same() -> None:
    with pytest.raises(OutOfFuel):
        compile_policy(sharing("({0}, {0})"), "dispatch")


@pytest.mark.parametrize("shape", ["[{0}, {0}]", '{{"a": {0}, "b": ({0}, {0})}}'])
def test_what_cannot_be_changed_any_more_is_not_gone_through_again(shape: str) -> None:
    assert compile_policy(sharing(shape), "dispatch").route(*state(1)) == Assign(0)


def test_short_loops_of_known_length_belong_to_the_code_around_them() -> None:
    """Paid for where control enters the block, so reached or not, ended early or not, they cost the same."""

    def fuel(items: str, seq: int) -> int:
        body = f"if request.seq > 1:\n    return HOLD\nfor x in {items}:\n    if x > request.seq:\n        break\nreturn HOLD"
        policy = compile_policy(routing(body, "W = (0, 1, 2)"), "dispatch")
        request, fleet, context = state(1)
        request.seq = seq
        policy.route(request, fleet, context)
        return policy.fuel_used

    for items in ("W", "range(3)", "(0, 1, 2)", "reversed(W)"):
        assert fuel(items, 0) == fuel(items, 1) == fuel(items, 2)
    step = fuel("range(3)", 0) - fuel("range(2)", 0)
    assert step == fuel("range(4)", 0) - fuel("range(3)", 0) > 0
    assert fuel("range(300)", 2) < fuel("range(3)", 2) < fuel("range(300)", 0)
