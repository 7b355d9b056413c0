"""Programs grown from the grammar: metered and plain agree, inputs stay as they were, limits hold."""

import math
from types import BuiltinMethodType
from typing import Any

from golden import state
from grown import policies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain import plain

from autopoiesis.policy.api import HOLD, REJECT, Assign
from autopoiesis.policy.language import InvalidDecision, OutOfFuel, PolicyFault, compile_policy, verify

GUARDS = (
    "bits",
    "have no order",
    "cannot be compared",
    "cannot be changed",
    "characters",
    "cannot be repeated",
    "bit operations",
    "cannot be subtracted",
)


def _contents(*views: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(view, name)) for view in views for name in type(view).__slots__]


def _plain_result(source: str, *arguments: Any) -> tuple[str, Any]:
    """Outcome of the unmetered program: `returned` and the value, or `raised` and the error's type."""
    try:
        return "returned", plain(source)["route"](*arguments)
    except Exception as error:
        return "raised", type(error).__name__


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    if isinstance(left, Assign) and isinstance(right, Assign):
        return _same(left.replica, right.replica) and left.priority == right.priority
    if isinstance(left, BuiltinMethodType):
        return repr(left).split(" at ")[0] == repr(right).split(" at ")[0]
    return type(left) is type(right) and left == right


@settings(
    max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None
)
@given(policies(), st.integers(0, 1000))
def test_metered_and_plain_agree(source: str, seed: int) -> None:
    assert verify(source, "dispatch").ok, verify(source, "dispatch").text() + source
    policy = compile_policy(source, "dispatch", fuel=200_000)
    request, fleet, context = state(seed, 4)
    before = _contents(request, context, *fleet)
    raw: list[Any] = []
    route = policy._namespace["route"]

    def noting(*arguments: Any) -> Any:
        raw.append(route(*arguments))
        return raw[0]

    policy._namespace["route"] = noting
    try:
        policy.route(request, fleet, context)
        metered = ("returned", raw[0])
    except InvalidDecision:
        metered = ("returned", raw[0])
    except OutOfFuel:
        return
    except PolicyFault as fault:
        if any(words in str(fault) for words in GUARDS):
            return
        metered = ("raised", str(fault))
    assert _contents(request, context, *fleet) == before
    assert 0 <= policy.fuel_used <= policy.fuel
    outcome, value = _plain_result(source, request, fleet, context)
    assert outcome == metered[0], (value, metered[1], source)
    if outcome == "returned":
        assert _same(value, metered[1]), (value, metered[1], source)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None
)
@given(policies(), st.integers(0, 1000))
def test_same_decision_and_fuel_on_every_run(source: str, seed: int) -> None:
    runs = []
    for _ in range(2):
        policy = compile_policy(source, "dispatch", fuel=20_000)
        try:
            outcome: object = policy.route(*state(seed, 4))
        except (InvalidDecision, OutOfFuel, PolicyFault) as error:
            outcome = str(error)
        runs.append((repr(outcome), policy.fuel_used, policy.hash))
    assert runs[0] == runs[1]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.sampled_from(["dispatch", "plan"]))
def test_any_text_is_only_ever_reported_on(text: str, kind: Any) -> None:
    assert verify(text, kind).text()


def test_verdicts_are_the_ones_of_the_api() -> None:
    policy = compile_policy(
        "def prioritize(request, ctx):\n    return 0\ndef route(request, replicas, ctx):\n"
        "    return HOLD if request.seq == 1 else REJECT if request.seq == 2 else Assign(0)",
        "dispatch",
    )
    request, fleet, context = state(1)
    for seq, expected in ((1, HOLD), (2, REJECT), (3, Assign(0))):
        request.seq = seq
        assert policy.route(request, fleet, context) == expected
