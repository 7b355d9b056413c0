from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.dispatch.prefix import PrefixIndex

PROMPTS = st.lists(st.integers(0, 3), max_size=5).map(lambda path: tuple(chain(path)))


def chain(path: list[int]) -> list[int]:
    """Rolling hashes: equal where the whole prefix is."""
    return [hash(tuple(path[: end + 1])) for end in range(len(path))]


def leading(known: OrderedDict[int, None], prompt: tuple[int, ...]) -> int:
    count = 0
    while count < len(prompt) and prompt[count] in known:
        count += 1
    return count


@given(st.lists(st.tuples(st.integers(0, 2), PROMPTS), max_size=40), PROMPTS)
def test_hits_are_the_longest_known_prefix_on_every_replica(
    sends: list[tuple[int, tuple[int, ...]]], prompt: tuple[int, ...]
) -> None:
    index = PrefixIndex()
    truth: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(3)]
    for slot, blocks in sends:
        index.add(slot, blocks, limit=8)
        for block in reversed(blocks):
            truth[slot][block] = None
            truth[slot].move_to_end(block)
        while len(truth[slot]) > 8:
            truth[slot].popitem(last=False)
    expected = {slot: leading(known, prompt) for slot, known in enumerate(truth)}
    assert {slot: index.hits_of(slot, prompt) for slot in range(3)} == expected
    assert index.hits(prompt) == {slot: hits for slot, hits in expected.items() if hits}


def test_a_forgotten_replica_has_nothing() -> None:
    index = PrefixIndex()
    index.add(0, (1, 2, 3), 100)
    index.add(1, (1, 2), 100)
    index.forget(0)
    assert index.hits((1, 2, 3)) == {1: 2}
    index.forget(1)
    assert index.hits((1, 2, 3)) == {}
    assert not index._holders


def test_the_index_stays_within_its_limit() -> None:
    index = PrefixIndex()
    for number in range(10_000):
        index.add(0, (2 * number, 2 * number + 1), 320)
    assert 300 <= len(index._blocks[0]) <= 320
    assert len(index._holders) == len(index._blocks[0])
    assert index.hits((19_998, 19_999)) == {0: 2}
    assert index.hits((0, 1)) == {}


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 2), PROMPTS),
    st.tuples(st.just("evict"), st.integers(0, 2), PROMPTS),
    st.tuples(st.just("forget"), st.integers(0, 2), PROMPTS),
)


@given(st.lists(STEPS, max_size=60), PROMPTS)
def test_nothing_reported_gone_is_a_hit_and_memory_is_bounded(
    steps: list[tuple[str, int, tuple[int, ...]]], prompt: tuple[int, ...]
) -> None:
    index = PrefixIndex()
    gone: list[set[int]] = [set() for _ in range(3)]
    limit = 6
    for what, slot, blocks in steps:
        if what == "send":
            index.add(slot, blocks, limit)
            gone[slot] -= set(blocks)
        elif what == "evict":
            index.evict(slot, blocks)
            gone[slot] |= set(blocks)
        else:
            index.forget(slot)
        assert all(len(known) <= limit for known in index._blocks.values())
        assert set(index._holders) == {block for known in index._blocks.values() for block in known}
    for slot in range(3):
        hits = index.hits_of(slot, prompt)
        assert index.hits(prompt).get(slot, 0) == hits
        assert not gone[slot] & set(prompt[:hits])
