"""What the verifier accepts, and how it says what it does not."""

import pytest

from autopoiesis.policy import api
from autopoiesis.policy.language import grammar, verify
from autopoiesis.policy.language.types import FIELD_TYPES

PRIORITIZE = "def prioritize(request, ctx):\n    return 0.0\n"


def dispatch(body: str) -> str:
    return f"{PRIORITIZE}def route(request, replicas, ctx):\n    {body}\n    return HOLD\n"


ORDINARY = '''"""A policy that uses most of the language."""
import math
from math import inf, sqrt
from autopoiesis.policy import Assign, HOLD, REJECT, Replica, Request

API = 1
WEIGHTS = {"queue": 1.0, "kv": -2.5, "prefix": 60 * 60}
TIERS: list[float] = [0.5, 1.0, math.inf]
FAST = {"H100", "B200"}


def clamp(value: float, low: float = 0.0, high: float = 1.0) -> float:
    """Keep a value in its bounds."""
    return max(low, min(high, value))


def prioritize(request: Request, ctx) -> float:
    slack = request.deadline - ctx.now
    return clamp(slack, high=1e6) if slack < inf else 1e6 + request.arrival


def route(request: Request, replicas: tuple[Replica, ...], ctx):
    def score(r, bonus=0.0):
        load: float = (r.running + r.waiting) / max(r.max_running, 1)
        room = 1 - r.kv_used_tokens / r.kv_capacity_tokens if r.kv_capacity_tokens else 0.0
        return WEIGHTS["queue"] * load + WEIGHTS["kv"] * room - bonus * sqrt(1 + r.prefix_hit_tokens)

    best, best_score = None, math.inf
    seen = set()
    by_node = {}
    for i, r in enumerate(replicas):
        if r.fault_rate > 0.5 or r.role == "decode":
            continue
        seen.add(r.node)
        by_node.setdefault(r.node, []).append(r)
        value = score(r, bonus=0.1 if r.gpu in FAST else 0.0)
        if best is None or value < best_score:
            best, best_score = r, value
    if best is None:
        return REJECT if request.attempts > 2 else HOLD
    ranked = sorted(replicas, key=lambda r: (r.predicted_ttft, -r.prefix_hit_tokens))[:3]
    totals = {node: sum(r.running for r in members) for node, members in by_node.items()}
    while ranked and ranked[-1].waiting > 10:
        ranked.pop()
    if len(seen) > 1 and any(t > 100 for t in totals.values()) and not all(r.waiting for r in ranked):
        (first, *others) if False else None
    if (count := len(ranked)) > 2 and ctx.random() < 0.01:
        return Assign(ranked[int(ctx.random() * count)].index, priority=1)
    return Assign(best.index)
'''.replace(
    "        (first, *others) if False else None\n", "        best = min(ranked or replicas, key=score)\n"
)


def test_ordinary_policy_verifies() -> None:
    assert verify(ORDINARY, "dispatch").problems == ()


def test_plan_policy_verifies() -> None:
    source = (
        "def should_reschedule(ctx):\n    return ctx.last is None or ctx.step % 12 == 0\n\n"
        "def schedule(ctx):\n    plan = []\n    for model in ctx.models:\n        for pool in ctx.gpus:\n"
        "            if ctx.toolkit.fits(model, pool, 1):\n"
        "                plan.append(Replicas(model.index, pool.type, 1, pool.count, share=1.0))\n    return plan\n"
    )
    assert verify(source, "plan", complete=True).problems == ()


def test_all_problems_are_reported_at_once_in_order_of_place() -> None:
    report = verify(dispatch("import os\n    x = request.sequ\n    request.seq = nope"), "dispatch")
    assert [(problem.line, problem.rule) for problem in report.problems] == [
        (4, "node"),
        (5, "attribute"),
        (6, "store"),
        (6, "name"),
    ]


def test_report_says_what_to_write_instead() -> None:
    text = verify(dispatch("x = replicas[0].predicted_tft"), "dispatch").text()
    assert text == (
        "not a valid dispatch policy: 1 problem\n"
        "line 4, column 9 [attribute] `.predicted_tft` is not a field of a view or a listed method. "
        "Instead: `.predicted_ttft` or `.predicted_tpot`."
    )


def test_report_as_data() -> None:
    data = verify("x = 1", "dispatch").to_json()
    assert data["ok"] is False
    assert data["problems"][0]["rule"] == "missing"  # type: ignore[index]


def test_functions_may_be_missing_until_the_policy_must_be_complete() -> None:
    assert verify(PRIORITIZE, "dispatch").ok
    assert [problem.rule for problem in verify(PRIORITIZE, "dispatch", complete=True).problems] == ["missing"]


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("def route(request, replicas):\n    return HOLD\n", "signature"),
        ("def route(request, replicas, ctx=None):\n    return HOLD\n", "signature"),
        (PRIORITIZE + "def schedule(ctx):\n    return []\n", "kind"),
        ("API = 2\n" + PRIORITIZE, "api"),
        (dispatch("x = undefined_thing"), "name"),
        (dispatch("x = [1].appendd(2)"), "attribute"),
        (dispatch("x = request.seq()"), "method"),
        (dispatch("x = ctx.random"), "attribute"),
        (dispatch("x = min(replicas, default=1, reverse=True)"), "argument"),
        (dispatch("x = 1 if request.seq is 5 else 2"), "identity"),
        (dispatch("x = 3 in [1] == [2]"), "call"),
        ("\n".join(f"def f{i}():\n    return 1\n" for i in range(101)) + PRIORITIZE, "size"),
    ],
)
def test_rule(source: str, rule: str) -> None:
    assert rule in {problem.rule for problem in verify(source, "dispatch").problems}


@pytest.mark.parametrize(
    ("inner", "place"),
    [
        ("n += x", (6, 9)),
        ("if x > n:\n            n = x\n        return n", (6, 16)),
        ("if x:\n            n = x\n        return n", (8, 16)),
        ("for n in [x]:\n            pass\n        return n", (8, 16)),
        ("ys = [n for y in replicas]\n        n = len(ys)", (6, 15)),
        ("def g():\n            n += 1\n        g()", (7, 13)),
        ("replicas = list(replicas)", (6, 25)),
        ("def g():\n            x = x + 1\n        g()", (7, 17)),
    ],
)
def test_a_name_that_a_nested_function_reads_before_it_has_a_value(
    inner: str, place: tuple[int, int]
) -> None:
    body = f"n = 0\n    def f(x):\n        {inner}\n    f(1)"
    [problem] = verify(dispatch(body), "dispatch").problems
    assert (problem.line, problem.column, problem.rule) == (*place, "scope")
    assert "return the new value" in problem.suggestion


@pytest.mark.parametrize(
    "inner",
    [
        "return n + x",
        "n = x\n        n += 1\n        return n",
        "n = 1 if x else 2\n        return n",
        "if x:\n            n = 1\n        else:\n            return x\n        return n",
        "for n in replicas:\n            if n.index:\n                return n",
        "if (n := x) > 0:\n            return n",
        "return [n for n in [x]]",
        "return max(replicas, key=lambda n: n.index)",
        "ns[0] += x",
        "def n():\n            return x\n        return n()",
        "x += 1\n        return x",
    ],
)
def test_names_that_a_nested_function_may_have_for_itself(inner: str) -> None:
    body = f"n = 0\n    ns = [n]\n    def f(x):\n        {inner}\n    f(1)"
    assert verify(dispatch(body), "dispatch").problems == ()


def test_a_name_that_is_only_ever_augmented() -> None:
    [problem] = verify(dispatch("for r in replicas:\n        total += r.running"), "dispatch").problems
    assert (problem.line, problem.column, problem.rule) == (5, 9, "scope")
    assert problem.suggestion == "`total = ...` first"


def test_constants_may_stand_side_by_side() -> None:
    top = "import math\nLOW, HIGH = -1.5, math.inf\nBOTH, TABLE = (LOW, HIGH), {'H100': [1, 2]}\n"
    assert verify(top + dispatch("x = TABLE['H100'] if LOW < HIGH else BOTH"), "dispatch").problems == ()


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ("A, B = 1, A", {"constant"}),
        ("A, B = B, 1", {"constant"}),
        ("A, B = 1, 2, 3", {"module"}),
        ("A, B = X", {"module"}),
        ("A, B = [1, 2]", {"module"}),
        ("A, (B, C) = 1, (2, 3)", {"module"}),
        ("A, B = C, D = 1, 2", {"module"}),
        ("A, *B = 1, 2", {"module"}),
        ("A, B = 1, *X", {"constant"}),
        ("API, B = 1, 2", {"module"}),
        ("A, A = 1, 2", {"shadow"}),
        ("A, X = 1, 2", {"shadow"}),
        ("A, min = 1, 2", {"shadow"}),
        ("A, route = 1, 2", {"shadow"}),
    ],
)
def test_what_cannot_stand_side_by_side(line: str, rules: set[str]) -> None:
    problems = verify(f"X = (1, 2)\n\n{line}\n{PRIORITIZE}", "dispatch").problems
    assert {problem.rule for problem in problems} == rules
    assert {problem.line for problem in problems} == {3}


def test_what_python_only_warns_of_is_no_problem() -> None:
    assert verify(dispatch("if request.seq > 1:\n        return 1[0]"), "dispatch").problems == ()


def test_unknown_kind_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="unknown policy kind 'route'; kinds are dispatch, plan"):
        verify("", "route")  # type: ignore[arg-type]


def test_every_view_field_is_readable_and_typed() -> None:
    for view, cls in api.VIEWS.items():
        assert set(FIELD_TYPES[view]) == set(cls().__slots__)
        assert set(FIELD_TYPES[view]) <= grammar.READABLE


def test_no_readable_name_leads_from_a_value_of_the_language_to_the_interpreter() -> None:
    """The few names that plain values share with views are methods, which the meter will not call, and a number."""
    values: tuple[object, ...] = (
        0,
        0.0,
        True,
        "",
        [],
        (),
        {},
        set(),
        range(1),
        None,
        len,
        verify,
        iter([]),
        1j,
    )
    shared = {name for value in values for name in dir(value) if name in grammar.READABLE}
    assert shared == {"index", "count", "step"}
    assert not any(name.startswith("_") for name in grammar.READABLE | grammar.CALLABLE)
