"""Activations by epoch, and the operator's pin."""

from typing import Any

import pytest

from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.policy import API_VERSION, library
from autopoiesis.policy.language import VerificationError, compile_policy
from autopoiesis.router.policies import Policies, compile_activation


class Dispatcher:
    """Applies what it is given, except sources in `bad`."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, str, bool]] = []
        self.bad: set[str] = set()

    def __call__(self, activation: Activation, force: bool) -> str:
        if activation.hash in self.bad:
            return "does not verify here"
        self.applied.append((activation.epoch, activation.name, force))
        return ""


@pytest.fixture
def dispatcher() -> Dispatcher:
    return Dispatcher()


@pytest.fixture
def policies(dispatcher: Dispatcher) -> Policies:
    return Policies(dispatcher, scope="local/m", initial="round_robin")


def activation(epoch: int, name: str = "least_requests", **changes: object) -> Activation:
    source = library.source(name)
    fields = {
        "scope": "local/m",
        "kind": "dispatch",
        "epoch": epoch,
        "hash": compile_policy(source, "dispatch").hash,
        "source": source,
        "api": API_VERSION,
        "cause": "test",
        "at_unix_s": 0.0,
        "name": name,
    }
    return Activation(**(fields | changes))  # type: ignore[arg-type]


def test_rising_epochs_are_applied_once(policies: Policies, dispatcher: Dispatcher) -> None:
    for epoch in (3, 3, 2, 5, 4):
        policies.hear(activation(epoch))
    assert [epoch for epoch, *_ in dispatcher.applied] == [3, 5]
    assert policies.wanted.epoch == 5


def test_other_kinds_are_not_ours(policies: Policies, dispatcher: Dispatcher) -> None:
    policies.hear(activation(3, kind="plan"))
    assert not dispatcher.applied


def test_a_refused_activation_leaves_the_former_one(policies: Policies, dispatcher: Dispatcher) -> None:
    policies.hear(activation(1))
    bad = activation(2, "random")
    dispatcher.bad.add(bad.hash)
    policies.hear(bad)
    assert policies.wanted.epoch == 1


def test_a_pin_holds_until_it_is_removed(policies: Policies, dispatcher: Dispatcher) -> None:
    policies.hear(activation(1))
    policies.pin(library.source("random"), "random")
    policies.hear(activation(2, "power_of_two"))
    assert policies.wanted.name == "random"
    assert policies.unpin().epoch == 2
    assert dispatcher.applied == [
        (1, "least_requests", False),
        (0, "random", True),
        (2, "power_of_two", True),
    ]


def test_removing_no_pin_changes_nothing(policies: Policies, dispatcher: Dispatcher) -> None:
    assert policies.unpin().name == "round_robin"
    assert not dispatcher.applied


def test_a_bad_pin_is_reported_and_not_applied(policies: Policies, dispatcher: Dispatcher) -> None:
    with pytest.raises(VerificationError) as caught:
        policies.pin("def route(request, replicas, ctx):\n    import os\n    return HOLD\n")
    assert 2 in [problem.line for problem in caught.value.report.problems]
    assert not dispatcher.applied
    assert policies.pinned is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"api": 99}, "policy API 99"), ({"hash": "0" * 64}, "hashes to"), ({"source": "x = 1"}, "route")],
)
def test_activations_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        compile_activation(activation(1, **changes))
