from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.dispatch.queue import HeldQueue

KEYS = st.sampled_from([-1.0, 0.0, 0.5, 7.0])


def ticket(seq: int) -> Any:
    return SimpleNamespace(seq=seq, key=0.0, queued=False, prompt_tokens=10)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "add", "remove", "age"]), st.integers(0, 50), KEYS), max_size=80
    )
)
def test_the_queue_is_sorted_by_key_then_arrival(steps: list[tuple[str, int, float]]) -> None:
    queue = HeldQueue()
    held: dict[int, Any] = {}
    for seq, (kind, number, key) in enumerate(steps):
        if kind == "add":
            held[seq] = ticket(seq)
            queue.add(held[seq], key)
        elif held and kind == "remove":
            queue.remove(held.pop(list(held)[number % len(held)]))
        elif held:
            queue.rekey(queue.age(), key)
        assert queue.tickets() == sorted(held.values(), key=lambda one: (one.key, one.seq))
        assert len(queue) == len(held)
        assert queue.prompt_tokens == 10 * len(held)
        assert all(one.queued for one in held.values())


@given(st.lists(KEYS, min_size=1, max_size=20), st.integers(1, 7))
def test_a_pass_offers_every_request_once_in_order_however_it_is_cut(keys: list[float], slice_: int) -> None:
    queue = HeldQueue()
    for seq, key in enumerate(keys):
        queue.add(ticket(seq), key)
    queue.begin_pass()
    offered = []
    while queue.passing:
        for _ in range(slice_):
            one = queue.next_in_pass()
            if one is not None:
                offered.append(one)
    assert offered == queue.tickets()


def test_room_in_the_middle_of_a_pass_begins_a_new_round_where_it_was() -> None:
    queue = HeldQueue()
    for seq in range(4):
        queue.add(ticket(seq), 0.0)
    queue.begin_pass()
    assert [queue.next_in_pass().seq for _ in range(2)] == [0, 1]  # type: ignore[union-attr]
    queue.begin_pass()
    assert [queue.next_in_pass().seq for _ in range(4)] == [2, 3, 0, 1]  # type: ignore[union-attr]
    assert queue.next_in_pass() is None
    queue.begin_pass()
    assert queue.next_in_pass().seq == 0  # type: ignore[union-attr]


def test_a_pass_goes_on_while_requests_leave() -> None:
    queue = HeldQueue()
    for seq in range(6):
        queue.add(ticket(seq), 0.0)
    queue.begin_pass()
    seen = []
    while (one := queue.next_in_pass()) is not None:
        seen.append(one.seq)
        queue.remove(one)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert not queue.passing


def test_ageing_visits_the_longest_unkeyed_first() -> None:
    queue = HeldQueue()
    for seq in range(3):
        queue.add(ticket(seq), float(-seq))
    assert [queue.age().seq for _ in range(5)] == [0, 1, 2, 0, 1]
