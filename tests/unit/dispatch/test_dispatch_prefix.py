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
