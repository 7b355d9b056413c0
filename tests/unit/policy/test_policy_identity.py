"""Identity: what changes a policy's hash and what does not."""

import json

import pytest
from golden import GOLDEN, record

from autopoiesis.policy import library
from autopoiesis.policy.language import policy_hash

BASE = "def prioritize(request, ctx):\n    return request.arrival\n\ndef route(request, replicas, ctx):\n    x = -1.5\n    return Assign(0) if x < 0 else HOLD\n"


@pytest.mark.parametrize(
    "same",
    [
        BASE.replace("\n\n", "\n# a comment\n\n\n"),
        BASE.replace("x = -1.5", "x = - 1.50"),
        BASE.replace("(request, ctx)", "(request: Request, ctx: 'DispatchContext') -> float"),
        BASE.replace("    x =", '    """What it does."""\n    x ='),
        BASE.replace("x = -1.5", "x: float = -1.5"),
        BASE.replace("Assign(0) if x < 0 else HOLD", "(Assign(0)\n        if (x < 0) else HOLD)"),
        '"""Title."""\nAPI = 1\nimport math\nfrom autopoiesis.policy import Assign\n' + BASE,
        "\n".join(reversed(BASE.split("\n\n"))),
    ],
)
def test_does_not_count(same: str) -> None:
    assert policy_hash(same, "dispatch") == policy_hash(BASE, "dispatch")


@pytest.mark.parametrize(
    "other",
    [
        BASE.replace("1.5", "1.25"),
        BASE.replace("-1.5", "1.5"),
        BASE.replace("Assign(0)", "Assign(False)"),
        BASE.replace("Assign(0)", "Assign(0.0)"),
        BASE.replace("<", "<="),
        BASE.replace("HOLD", "REJECT"),
        BASE.replace("x", "y"),
        "LIMIT = 1\n" + BASE,
    ],
)
def test_counts(other: str) -> None:
    assert policy_hash(other, "dispatch") != policy_hash(BASE, "dispatch")


def test_constants_side_by_side_are_those_of_two_lines() -> None:
    apart, together = "LOW = -1\nHIGH = 2.0 ** 3\n", "LOW, HIGH = -1, 2.0 ** 3\n"
    assert policy_hash(together + BASE, "dispatch") == policy_hash(apart + BASE, "dispatch")
    assert policy_hash(together + BASE, "dispatch") != policy_hash("LOW, HIGH = -1, 8.0\n" + BASE, "dispatch")


def test_kind_counts() -> None:
    assert policy_hash(BASE, "dispatch") != policy_hash(BASE, "plan")


@pytest.mark.parametrize("name", library.names("dispatch", every=True))
def test_shipped_policies_are_what_they_were(name: str) -> None:
    """Hash, decisions and fuel are recorded in golden.json; `golden.py --write` after a wanted change."""
    assert record(library.load(name)) == json.loads(GOLDEN.read_text(encoding="utf-8"))[name]


@pytest.mark.parametrize("name", library.names("plan", every=True))
def test_shipped_plan_policies_are_what_they_were(name: str) -> None:
    assert library.load(name).hash == json.loads(GOLDEN.read_text(encoding="utf-8"))[name]["hash"]
