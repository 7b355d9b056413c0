"""The shipped policies in the store: rivals of every candidate, and where a scope begins."""

from collections.abc import Mapping
from functools import cache

from autopoiesis.contracts.messages.policy import Kind
from autopoiesis.evaluator.case import Arm
from autopoiesis.evaluator.settings import EvaluatorSettings
from autopoiesis.policy import library
from autopoiesis.policy.api import API_VERSION, KINDS
from autopoiesis.store import StaleError, Store, Unit, promotion
from autopoiesis.store.errors import StoreError


@cache
def shipped(kind: Kind) -> tuple[Arm, ...]:
    """Every shipped policy of `kind`."""
    policies = [(name, library.load(name)) for name in library.names(kind)]
    return tuple(Arm(policy.hash, policy.source, name) for name, policy in policies)


def initial(name: str, kind: Kind = "dispatch") -> Arm:
    """The shipped policy called `name`. Raises StoreError naming the setting if there is none."""
    if name not in library.names(kind, every=True):
        setting = "evaluator.initial" if kind == "dispatch" else "evaluator.initial_plan"
        raise StoreError(
            f"{setting} = {name!r} is not a shipped {kind} policy; there are {', '.join(library.names(kind, every=True))}"
        )
    policy = library.load(name)
    return Arm(policy.hash, policy.source, name)


def initials(settings: EvaluatorSettings) -> Mapping[Kind, Arm]:
    """What counts as in force where nothing ever was. Raises StoreError naming the setting that cannot be."""
    return {
        "dispatch": initial(settings.initial),
        "plan": initial(settings.initial_plan, "plan"),
    }


async def keep_shipped(store: Store) -> None:
    """Have the store know every shipped policy, so that operators and the archive can name them."""
    async with store.begin() as unit:
        for kind in KINDS:
            for name in library.names(kind, every=True):
                policy = library.load(name)
                await unit.policies.add(
                    hash=policy.hash,
                    kind=kind,
                    api=API_VERSION,
                    source=policy.source,
                    origin="library",
                    title=name,
                )


async def in_force(store: Store, scope: str, kind: Kind, *, first: Arm) -> Arm:
    """What is in force for (scope, kind); where nothing ever was, `first` is put in force."""
    async with store.begin() as unit:
        current = await _current(unit, scope, kind)
    if current is not None:
        return current
    try:
        async with store.begin() as unit:
            await promotion.promote(
                unit, scope, kind, first.hash, expected=None, cause=f"initial: {first.name}"
            )
        return first
    except StaleError:
        return await in_force(store, scope, kind, first=first)


async def _current(unit: Unit, scope: str, kind: Kind) -> Arm | None:
    standing = await unit.activations.current(scope, kind)
    if standing is None:
        return None
    policy = standing.policy
    return Arm(policy.hash, policy.source, policy.title)
