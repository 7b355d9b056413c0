"""The shipped policies: one file each, in the policy language, found by this folder.

They are the seeds of evolution, the rivals in every evaluation and the fallback of operators. To add one, put a file
here whose docstring names the idea and its source.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from autopoiesis.policy.api import Kind
from autopoiesis.policy.language import CompiledPolicy, compile_policy, kind_of


@cache
def _sources() -> dict[str, str]:
    found = {
        entry.name.removesuffix(".py"): entry.read_text(encoding="utf-8")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".py") and entry.name != "__init__.py"
    }
    return dict(sorted(found.items()))


RIVALS: Final = (
    "consistent_hashing",
    "least_kv_tokens",
    "least_predicted_ttft",
    "least_requests",
    "plan_full_migration",
    "plan_greedy",
    "plan_local_repair",
    "plan_milp_move_cost",
    "plan_milp_on_drift",
    "plan_milp_once",
    "plan_minimal_migration",
    "power_of_two",
    "random",
    "round_robin",
    "slo_triage",
    "slo_triage_hold",
)
"""What evaluations compare with unless told otherwise: one of each idea, so that a verdict does not take twice as long."""


def names(kind: Kind, *, every: bool = False) -> tuple[str, ...]:
    """Names of the shipped policies of `kind`, sorted: the usual rivals, or `every` one."""
    return tuple(name for name in _sources() if _kind(name) == kind and (every or name in RIVALS))


def source(name: str) -> str:
    """The text of a shipped policy; KeyError with the known names otherwise."""
    try:
        return _sources()[name]
    except KeyError:
        raise KeyError(f"no shipped policy {name!r}; there are {', '.join(_sources())}") from None


def text_of(policy: str | Path, kind: Kind) -> str:
    """The text that `policy` stands for: a shipped name, a file (a path, or its name ending in .py), or already a text.

    Raises KeyError for an unknown name, ValueError for a shipped policy of the other kind, OSError for a file that cannot be read.
    """
    if isinstance(policy, Path) or (policy.endswith(".py") and "\n" not in policy):
        return Path(policy).read_text(encoding="utf-8")
    if not policy.isidentifier():
        return policy
    text = source(policy)
    if _kind(policy) != kind:
        raise ValueError(
            f"{policy} is a {_kind(policy)} policy; here a {kind} policy is needed, such as {names(kind)[0]}"
        )
    return text


def load(name: str, *, fuel: int | None = None) -> CompiledPolicy:
    """A shipped policy, compiled afresh: compiled policies are not shared, because each has its own meter."""
    return compile_policy(source(name), _kind(name), fuel=fuel)


@cache
def _kind(name: str) -> Kind:
    kind = kind_of(source(name))
    assert kind is not None, f"the shipped policy {name} is of no kind"
    return kind
