"""From vLLM's blocks of tokens to the routers' blocks of text."""

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.worker.engines.vllm.blocks import REPORTED_S, BlockLedger

SIZE = 4


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def names(token_ids: list[int]) -> list[int]:
    """What vLLM might call the blocks of these tokens: each name stands for all tokens up to its end."""
    return [hash(tuple(token_ids[:end])) for end in range(SIZE, len(token_ids) + 1, SIZE)]


def test_a_text_block_goes_with_the_last_token_block_before_its_end() -> None:
    clock = Clock()
    ledger = BlockLedger(SIZE, clock)
    tokens = list(range(16))
    ledger.stored(names(tokens), None, tokens)
    ledger.prompt(tokens, (71, 72))
    ledger.removed(names(tokens)[3:])
    assert (ledger.evictions, ledger.recent()) == (1, (72,))
    ledger.removed(names(tokens)[1:3])
    assert (ledger.evictions, ledger.recent()) == (2, (72, 71))
    clock.now += REPORTED_S + 0.1
    assert (ledger.evictions, ledger.recent()) == (2, ())


def test_events_may_come_after_their_prompt_and_in_parts() -> None:
    ledger = BlockLedger(SIZE, Clock())
    tokens = list(range(12))
    first, second, third = names(tokens)
    ledger.prompt(tokens, (7,))
    ledger.stored([first], None, tokens[:4])
    ledger.settle()
    ledger.stored([second, third], first, tokens[4:])
    ledger.settle()
    ledger.removed([third])
    assert ledger.recent() == (7,)


def test_what_two_prompts_share_is_reported_once() -> None:
    ledger = BlockLedger(SIZE, Clock())
    shared = list(range(8))
    ledger.stored(names(shared), None, shared)
    for tail in (100, 200):
        tokens = [*shared, *range(tail, tail + 8)]
        ledger.stored(names(tokens)[2:], names(tokens)[1], tokens[8:])
        ledger.prompt(tokens, (1, tail))
    ledger.removed(names(shared))
    assert ledger.recent() == (1,)


def test_a_cleared_cache_evicts_everything() -> None:
    ledger = BlockLedger(SIZE, Clock())
    tokens = list(range(16))
    ledger.stored(names(tokens), None, tokens)
    ledger.prompt(tokens, (1, 2))
    ledger.cleared()
    assert set(ledger.recent()) == {1, 2}
    ledger.removed(names(tokens))
    assert ledger.evictions == 2


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=SIZE, max_size=24), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_after_everything_has_left_everything_was_reported(prompts: list[list[int]], random: object) -> None:
    """Each text block once per time that it was held, whatever the order of prompts and events."""
    ledger = BlockLedger(SIZE, Clock())
    told = set()
    held = set()
    for tokens in prompts:
        blocks = tuple(hash(("text", tuple(tokens[: SIZE * (i + 1)]))) for i in range(len(tokens) // SIZE))
        steps = [
            partial(ledger.stored, names(tokens), None, tokens),
            partial(ledger.prompt, tokens, blocks),
        ]
        random.shuffle(steps)  # type: ignore[attr-defined]
        for step in steps:
            step()
        ledger.settle()
        told |= set(names(tokens))
        held |= set(blocks)
    ledger.removed(told)
    assert set(ledger.recent()) == held
    assert ledger.evictions == len(held)
