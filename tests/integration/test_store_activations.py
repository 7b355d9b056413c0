"""Compare-and-set, epochs, rollback, and what an operator does by hand."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from autopoiesis.contracts.codec import decode
from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.store import NotFoundError, StaleError, Store, StoreError, operations, promotion

SCOPE = "local/Qwen/Qwen3-8B"


@pytest.fixture
async def store(migrated_url: str) -> AsyncIterator[Store]:
    async with await Store.open(migrated_url, pool_size=10) as opened:
        async with opened.begin() as unit:
            for name in ("aaaa", "abbb", "cccc", "dddd"):
                await unit.policies.add(
                    hash=name,
                    kind="dispatch",
                    api=1,
                    source=f"# {name}\n",
                    origin="library",
                    title=name.upper(),
                )
        yield opened


async def promote(store: Store, hash_: str, expected: str | None) -> Activation:
    async with store.begin() as unit:
        return await promotion.promote(unit, SCOPE, "dispatch", hash_, expected=expected, cause="test")


async def announced(store: Store) -> list[tuple[str, Activation]]:
    async with store.begin() as unit:
        return [
            (row.subject, decode(Activation, row.payload.encode()))
            for row in await unit.outbox.waiting("evaluator")
        ]


async def test_promotion_moves_the_active_row_and_announces_it_whole(store: Store) -> None:
    first = await promote(store, "aaaa", None)
    second = await promote(store, "cccc", "aaaa")
    assert first.epoch < second.epoch
    assert (second.source, second.name, second.scope) == ("# cccc\n", "CCCC", SCOPE)
    assert [standing.message for standing in await operations.in_force(store)] == [second]
    subject = "policy.promoted.local-Qwen-Qwen3-8B-"
    sent = await announced(store)
    assert [message for _, message in sent] == [first, second]
    assert all(at.startswith(subject) and at.endswith(".dispatch") for at, _ in sent)


async def test_stale_promotion_changes_nothing_and_announces_nothing(store: Store) -> None:
    await promote(store, "aaaa", None)
    for expected in (None, "cccc"):
        with pytest.raises(StaleError, match="found aaaa"):
            await promote(store, "dddd", expected)
    assert len(await announced(store)) == 1
    assert len(await operations.history(store, SCOPE, "dispatch")) == 1


async def test_of_concurrent_promotions_exactly_one_wins(store: Store) -> None:
    rounds = [None, "aaaa", "cccc", "aaaa", "cccc"]
    for expected in rounds:
        target = "cccc" if expected == "aaaa" else "aaaa"
        outcomes = await asyncio.gather(
            *(promote(store, target, expected) for _ in range(8)), return_exceptions=True
        )
        won = [outcome for outcome in outcomes if isinstance(outcome, Activation)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, StaleError)]
        assert (len(won), len(lost)) == (1, 7)
    history = await operations.history(store, SCOPE, "dispatch")
    epochs = [standing.activation.epoch for standing in history]
    assert len(epochs) == len(rounds)
    assert epochs == sorted(epochs, reverse=True)
    assert [message.epoch for _, message in await announced(store)] == epochs[::-1]


async def test_rollback_walks_down_and_never_back_up(store: Store) -> None:
    for name, expected in (("aaaa", None), ("cccc", "aaaa"), ("dddd", "cccc")):
        await promote(store, name, expected)
    assert (await operations.rollback(store, SCOPE, "dispatch")).hash == "cccc"
    assert (await operations.rollback(store, SCOPE, "dispatch")).hash == "aaaa"
    with pytest.raises(NotFoundError, match="no earlier dispatch policy"):
        await operations.rollback(store, SCOPE, "dispatch")
    subjects = [subject.split(".")[1] for subject, _ in await announced(store)]
    assert subjects == ["promoted"] * 3 + ["rolled_back"] * 2
    async with store.begin() as unit:
        assert await unit.activations.rolled_back_unix_s(SCOPE, "dispatch", "dddd") is not None
        assert await unit.activations.rolled_back_unix_s(SCOPE, "dispatch", "aaaa") is None


async def test_rollback_after_promoting_what_is_in_force_leaves_it(store: Store) -> None:
    await promote(store, "aaaa", None)
    await promote(store, "cccc", "aaaa")
    again = await promote(store, "cccc", "cccc")
    assert (await operations.rollback(store, SCOPE, "dispatch")).hash == "aaaa"
    assert again.hash == "cccc"


async def test_rollback_of_an_epoch_that_moved_is_refused(store: Store) -> None:
    first = await promote(store, "aaaa", None)
    await promote(store, "cccc", "aaaa")
    with pytest.raises(StaleError):
        async with store.begin() as unit:
            await promotion.roll_back(unit, SCOPE, "dispatch", cause="late", expected_epoch=first.epoch)


async def test_operator_promotes_by_prefix_whatever_is_in_force(store: Store) -> None:
    await promote(store, "aaaa", None)
    activation = await operations.promote(store, SCOPE, "dispatch", "ab", "I know better")
    assert (activation.hash, activation.cause) == ("abbb", "operator: I know better")
    with pytest.raises(NotFoundError, match="more than one"):
        await operations.promote(store, SCOPE, "dispatch", "a", "")
    with pytest.raises(NotFoundError, match="no policy's hash begins with '%'"):
        await operations.promote(store, SCOPE, "dispatch", "%", "")
    with pytest.raises(NotFoundError, match="no plan policy"):
        await operations.promote(store, SCOPE, "plan", "cccc", "")
    shown = await operations.show(store, "abbb")
    assert [standing.message.epoch for standing in shown.in_force] == [activation.epoch]


async def test_mode_is_the_scopes_own_then_everybodys_then_configured(store: Store) -> None:
    async def mode() -> str:
        async with store.begin() as unit:
            return await unit.controls.mode(SCOPE, configured="advise")

    assert await mode() == "advise"
    await operations.set_mode(store, "*", "paused", "maintenance")
    assert await mode() == "paused"
    await operations.set_mode(store, SCOPE, "auto")
    assert await mode() == "auto"
    await operations.clear_mode(store, SCOPE)
    await operations.clear_mode(store, "*")
    assert await mode() == "advise"
    with pytest.raises(StoreError, match="'fast' is not a mode; one of off, advise, auto, paused"):
        await operations.set_mode(store, "*", "fast")  # type: ignore[arg-type]
