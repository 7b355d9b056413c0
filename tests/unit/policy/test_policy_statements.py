"""What docs/policy-language.md says of constants, values, names, plans and fuel is so."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest
from golden import state
from plain import plain
from plan_world import context, makespan

from autopoiesis.policy.api import HOLD, Assign, Replicas
from autopoiesis.policy.language import (
    InvalidDecision,
    PolicyFault,
    compile_policy,
    docs,
    grammar,
    prose,
    reference,
    verify,
)

PRIORITIZE = "def prioritize(request, ctx):\n    return 0.0\n\n\n"
HELPERS = "def first(x):\n    return x\n\n\ndef second(x):\n    return 2 * x\n\n\ndef apply(f, x):\n    return f(x)\n\n\n"


def routing(body: str, top: str = "") -> str:
    indented = "\n".join("    " + line for line in body.splitlines())
    return f"{top}\n{PRIORITIZE}{HELPERS}def route(request, replicas, ctx):\n{indented}\n"


def rules(body: str, top: str = "") -> set[str]:
    return {problem.rule for problem in verify(routing(body, top), "dispatch").problems}


@pytest.mark.parametrize(
    "value", ["(1, [2, (3, 4)], {'a': {'b': {1, 2}}})", "60 * 60", "-math.sqrt(4) + EARLIER", "float('inf')", "(EARLIER, math.pi)"]
)  # fmt: skip
def test_constants_hold(value: str) -> None:
    assert rules("return HOLD", f"EARLIER = 1\nX = {value}") == set()


@pytest.mark.parametrize(
    "value", ["[x for x in (1, 2)]", "1 < 2", "(1, 2)[0]", "max(1, 2)", "lambda x: x", "dict()", "(first, second)", "LATER", "1 if True else 2"]
)  # fmt: skip
def test_constants_do_not_hold(value: str) -> None:
    assert rules("return HOLD", f"X = {value}\nLATER = 1") == {"constant"}


def test_copies_of_constants_can_be_changed_save_for_what_is_nested() -> None:
    top = "XS, D = [[1], 2], {'a': 1}\n"
    body = "xs, d = list(XS), D.copy()\nxs.append(5)\nd['a'] = 4\n"
    assert compile_policy(routing(body + "return Assign(xs[-1], d['a'])", top), "dispatch").route(
        *state(1)
    ) == Assign(5, 4)
    with pytest.raises(PolicyFault, match="constants of the file cannot be changed"):
        compile_policy(routing(body + "xs[0].append(2)\nreturn HOLD", top), "dispatch").route(*state(1))


@pytest.mark.parametrize(
    "body",
    [
        "return Assign(apply(lambda x: x + 1, 2))",
        "return Assign(apply(second, 3))",
        "n = 0\nfor f in (first, second):\n    n += f(1)\nreturn Assign(n)",
        "table = {'a': second}\nf = table['a']\nreturn Assign(f(2))",
        "return Assign(sum(f(1) for f in [first, second]))",
        "def key(r):\n    return (-r.waiting, r.index)\nreturn Assign(min(replicas, key=key).index)",
        "return Assign(sorted([-4, 3], key=abs)[0])",
        "d = {0: 5, 1: 4}\nreturn Assign(min(d, key=lambda k: d.get(k)))",
        "return Assign(max((r.index for r in replicas), default=0))",
        "return Assign(sum((r.index for r in replicas[:2]), start=1))",
        "n = 0\nfor i, (a, b) in enumerate(zip(replicas, replicas)):\n    n += i * (a.index + b.index)\nreturn Assign(n % 8)",
        "return Assign([i for i, r in enumerate(replicas)][-1])",
        "d = {}\nd.update(zip([1], [2]))\nxs = []\nxs.extend(k for k in d.values())\nreturn Assign(xs[0])",
        "d = {1: 2}\nreturn Assign(3 if 2 in list(d.values()) else 0)",
        "r = replicas[2]\nreturn Assign(list(replicas).index(r)) if r in replicas and r == replicas[2] != replicas[1] else HOLD",
        "where = {r: r.index for r in replicas}\nreturn Assign(where[replicas[3]])",
        "return Assign(4) if replicas[0] and not replicas[:0] else HOLD",
        "return Assign(sorted((0, r.index, r) for r in replicas)[1][2].index)",
        "return Assign(min(replicas, key=lambda r: 0).index + sorted(replicas, key=lambda r: 0)[1].index)",
        "return Assign(2) if Assign(1, priority=3) == Assign(1, -1, 3) else HOLD",
        "xs, d = [], {}\ndef note(k):\n    xs.append(k)\n    d[k] = 1\n    d[k] += 1\nnote(3)\nreturn Assign(xs[0] + d[3])",
        "e, log, _, waiting, Request = 1, 2, 3, 4, 5\nreturn Assign(e + log)",
    ],
)  # fmt: skip
def test_allowed_and_the_same_as_python(body: str) -> None:
    source = routing(body)
    decision = compile_policy(source, "dispatch").route(*state(1))
    assert isinstance(decision, Assign)
    assert decision == plain(source)["route"](*state(1))


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("d = {}\nreturn Assign(min(replicas, key=d.get).index)", "argument"),
        ("d = {}\nf = d.get\nreturn HOLD", "attribute"),
        ("table = [first]\nreturn Assign(table[0](1))", "call"),
        ("return Assign(first(r.index for r in replicas))", "iterator"),
        ("pairs = zip(replicas, replicas)\nreturn HOLD", "iterator"),
        ("d = {}\nreturn HOLD if 1 in d.values() else REJECT", "iterator"),
        ("return HOLD if replicas[0] is replicas[1] else REJECT", "identity"),
        ("return Assign(max(r.index for r in replicas, default=0))", "syntax"),
        ("n = 0\ndef add():\n    nonlocal n\nreturn HOLD", "node"),
        ("n = 0\ndef add():\n    n += 1\nadd()\nreturn HOLD", "scope"),
        *[(f"{name} = 1\nreturn HOLD", "shadow") for name in ("list", "HOLD", "Assign", "schedule", "route", "first", "cos", "math")],
    ],
)  # fmt: skip
def test_refused(body: str, rule: str) -> None:
    assert rules(body, "from math import cos") == {rule}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("xs = sorted((0, r) for r in replicas)\nreturn HOLD", "'<' not supported between instances of 'Replica'"),
        ("for x in reversed(enumerate(replicas)):\n    pass\nreturn HOLD", "not reversible"),
    ],
)  # fmt: skip
def test_faults(body: str, words: str) -> None:
    with pytest.raises(PolicyFault, match=words):
        compile_policy(routing(body), "dispatch").route(*state(1))


@pytest.mark.parametrize("name", sorted(grammar.CONSUMERS - {"dict", "reversed", "enumerate", "zip"}))
def test_consumers_take_generators(name: str) -> None:
    body = f"x = {name}(r.index for r in replicas)\ny = {name}([r.index for r in replicas])\nreturn HOLD if x == y else REJECT"
    assert compile_policy(routing(body), "dispatch").route(*state(1)) is HOLD


def test_the_example_of_fuel_is_what_it_costs() -> None:
    found = re.search(
        r"costs (\d+) units per replica and (\d+) once: ([\d,]+) for 100 replicas; about ([\d,]+)",
        docs.page(),
    )
    assert found is not None
    per_replica, fixed, hundred, most = (int(figure.replace(",", "")) for figure in found.groups())
    policy = compile_policy(reference._LEAST + reference._SCORE, "dispatch")
    policy.route(*state(7, 100))
    assert policy.fuel_used == hundred == fixed + 100 * per_replica
    policy.route(*state(7, most))
    with pytest.raises(Exception, match="100000 units of fuel"):
        policy.route(*state(7, most + 1))


def test_every_field_of_replicas_is_explained() -> None:
    assert list(prose.REPLICAS) == [field.name for field in fields(Replicas)]


def planning(plan: str) -> Any:
    source = f"def should_reschedule(ctx):\n    return True\n\n\ndef schedule(ctx):\n    return {plan}\n"
    return compile_policy(source, "plan")


def test_plans_may_be_the_old_one_empty_or_a_tuple() -> None:
    plan = (Replicas(0, "H100", 1, 2, 4), Replicas(0, "H100", 1, 1, role="prefill", share=0.5))
    ctx = context([(3, 128, 64)], {"H100": 8}, plan=plan)
    for text in ("ctx.plan", "list(ctx.plan)", "[entry for entry in ctx.plan]"):
        assert planning(text).schedule(ctx) == plan
    with pytest.raises(InvalidDecision, match=r"leaves Qwen2\.5-7B unserved: it has no replica at all"):
        planning("[]").schedule(ctx)
    ctx.models[0].concurrency = 0
    assert planning("[]").schedule(ctx) == ()
    ctx.models[0].min_replicas = 1
    with pytest.raises(InvalidDecision, match="the plan has 0 replicas of model 0; it has 1 to any number"):
        planning("[]").schedule(ctx)


def test_entries_of_one_kind_add_up() -> None:
    ctx = context([(3, 128, 64)], {"H100": 4})
    two = "Replicas(0, 'H100', 1, 2)"
    assert len(planning(f"[{two}, {two}]").schedule(ctx)) == 2
    with pytest.raises(InvalidDecision, match="the plan takes 6 GPUs of type H100; it may take 4"):
        planning(f"[{two}, {two}, {two}]").schedule(ctx)


def test_the_toolkit_of_now_takes_the_models_of_then() -> None:
    before = context([(30, 128, 64)], {"H100": 4})
    before.toolkit = None
    ctx = context([(3, 128, 64)], {"H100": 4}, last=before)
    text = (
        "[Replicas(0, 'H100', t, 1) for t in ctx.toolkit.degrees(ctx.last.models[0], ctx.last.gpus[0])[:1]]"
    )
    assert planning(text).schedule(ctx) == (Replicas(0, "H100", 1, 1),)


def test_an_entry_without_a_batch_or_a_share_beside_others_serves_nothing() -> None:
    ctx = context([(40, 128, 64)], {"H100": 4, "H200": 4})

    def seconds(*entries: Replicas) -> float:
        return makespan(ctx, entries)

    for given in ({"batch": 40}, {"share": 1.0}):
        one = Replicas(0, "H100", 1, 1, **given)
        assert seconds(one, Replicas(0, "H200", 1, 1)) == seconds(one)
    alike = Replicas(0, "H100", 1, 1), Replicas(0, "H200", 1, 1)
    assert seconds(*alike) < seconds(alike[0])
    assert seconds(Replicas(0, "H100", 1, 2, share=0.5), Replicas(0, "H100", 1, 1, share=0.25)) == seconds(
        Replicas(0, "H100", 1, 3)
    )


def test_an_option_without_a_batch_is_one_for_the_whole_demand_and_count_bounds_it() -> None:
    ctx = context([(40, 128, 64)], {"H100": 4})
    whole = planning("ctx.toolkit.best_plan([Replicas(0, 'H100', 1, 0)])").schedule(ctx)
    assert [(entry.count, entry.batch) for entry in whole] == [(1, 40)]
    tens = "ctx.toolkit.best_plan([Replicas(0, 'H100', 1, {count}, 10)])"
    assert planning(tens.format(count=0)).schedule(ctx) == (Replicas(0, "H100", 1, 4, 10),)
    old = "[Replicas(0, 'H100', 2, 1)]"
    assert planning(f"{tens.format(count=3)} or {old}").schedule(ctx) == (Replicas(0, "H100", 2, 1),)
