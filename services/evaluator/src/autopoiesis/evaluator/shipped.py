"""The shipped policies in the store: rivals of every candidate, and where a scope begins."""

from functools import cache

from autopoiesis.contracts.messages.policy import Kind
from autopoiesis.evaluator.case import Arm
from autopoiesis.policy import library
from autopoiesis.policy.api import API_VERSION
from autopoiesis.store import StaleError, Store, Unit, promotion
from autopoiesis.store.errors import StoreError


@cache
def shipped(kind: Kind) -> tuple[Arm, ...]:
    """Every shipped policy of `kind`."""
    policies = [(name, library.load(name)) for name in library.names(kind)]
    return tuple(Arm(policy.hash, policy.source, name) for name, policy in policies)


def initial(name: str, kind: Kind = "dispatch") -> Arm:
    """The shipped policy called `name`. Raises StoreError naming the setting if there is none."""
    for arm in shipped(kind):
        if arm.name == name:
            return arm
    raise StoreError(
        f"evaluator.initial = {name!r} is not a shipped {kind} policy; there are {', '.join(library.names(kind, every=True))}"
    )


async def keep_shipped(store: Store, kind: Kind = "dispatch") -> None:
    """Have the store know every shipped policy, so that operators and the archive can name them."""
    async with store.begin() as unit:
        for arm in shipped(kind):
            await unit.policies.add(
                hash=arm.hash, kind=kind, api=API_VERSION, source=arm.source, origin="library", title=arm.name
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
