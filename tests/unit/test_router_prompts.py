"""Block hashes: equal where prompts begin alike, and meaningless without the key."""

from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.router.prompts import BLOCK_BYTES, MAX_BLOCKS, block_hashes

KEY = b"installation"


@given(
    st.binary(max_size=4 * BLOCK_BYTES),
    st.binary(max_size=2 * BLOCK_BYTES),
    st.binary(max_size=2 * BLOCK_BYTES),
)
def test_common_prefix_gives_common_hashes(prefix: bytes, one: bytes, other: bytes) -> None:
    a, b = block_hashes(prefix + one, KEY), block_hashes(prefix + other, KEY)
    shared = len(prefix) // BLOCK_BYTES
    assert a[:shared] == b[:shared]
    assert len(a) == len(prefix + one) // BLOCK_BYTES
    assert all(0 <= value < 2**63 for value in a)


def test_a_difference_changes_every_later_hash() -> None:
    text = bytes(4 * BLOCK_BYTES)
    changed = b"x" + text[1:]
    assert not set(block_hashes(text, KEY)) & set(block_hashes(changed, KEY))


def test_equal_blocks_at_different_places_differ() -> None:
    hashes = block_hashes(bytes(8 * BLOCK_BYTES), KEY)
    assert len(set(hashes)) == 8


def test_the_key_decides() -> None:
    text = bytes(BLOCK_BYTES)
    assert block_hashes(text, KEY) != block_hashes(text, b"another installation")


def test_very_long_prompts_are_known_by_their_beginning() -> None:
    text = bytes(BLOCK_BYTES) * (MAX_BLOCKS + 5)
    hashes = block_hashes(text, b"k")
    assert len(hashes) == MAX_BLOCKS
    assert hashes == block_hashes(text[: MAX_BLOCKS * BLOCK_BYTES], b"k")
