"""Merging of what an engine makes into what a stream sends."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.worker.engines.base import Broken, Ended, Output, Piece
from autopoiesis.worker.engines.outputs import Outputs
from autopoiesis.worker.engines.words import words

END = Ended(finish_reason="stop", prompt_tokens=1, output_tokens=3)
NEVER = 3600.0


async def rest(outputs: Outputs) -> list[Output]:
    return [output async for output in outputs]


async def test_the_first_piece_at_once_and_the_rest_merged() -> None:
    outputs = Outputs(interval_s=NEVER, whole=False)
    outputs.push(Piece("a", 1))
    assert await anext(outputs) == Piece("a", 1)
    outputs.push(Piece("b", 1))
    outputs.push(Piece("c", 2))
    outputs.end(END)
    assert await rest(outputs) == [Piece("bc", 3), END]


async def test_token_ids_are_merged_with_their_text() -> None:
    outputs = Outputs(interval_s=NEVER, whole=False)
    outputs.push(Piece("", 1, token_ids=(7,)))
    await anext(outputs)
    outputs.push(Piece("a", 1, token_ids=(8,)))
    outputs.push(Piece("b", 2, token_ids=(9, 10)))
    outputs.push(Piece(finish_reason="stop"))
    outputs.end(END)
    assert await rest(outputs) == [Piece("ab", 3, token_ids=(8, 9, 10)), Piece(finish_reason="stop"), END]


async def test_later_pieces_wait_for_the_interval() -> None:
    outputs = Outputs(interval_s=0.02, whole=False)
    outputs.push(Piece("a", 1))
    await anext(outputs)
    outputs.push(Piece("b", 1))
    later = asyncio.ensure_future(anext(outputs))
    await asyncio.sleep(0)
    assert not later.done()
    outputs.push(Piece("c", 1))
    assert await later == Piece("bc", 2)


async def test_a_whole_answer_comes_at_its_end() -> None:
    outputs = Outputs(interval_s=0.0, whole=True)
    reader = asyncio.ensure_future(anext(outputs))
    outputs.push(Piece("a", 1))
    outputs.push(Piece("b", 1, index=1))
    await asyncio.sleep(0)
    assert not reader.done()
    outputs.end(END)
    assert [await reader, *await rest(outputs)] == [Piece("a", 1), Piece("b", 1, index=1), END]


async def test_choices_and_deltas_stay_apart_and_in_order() -> None:
    outputs = Outputs(interval_s=NEVER, whole=False)
    delta = Piece("", 1, delta=msgspec.Raw(b"{}"))
    pieces = [Piece("x", 1), Piece("a", 1), Piece("b", 1, index=1), delta, Piece("c", 1, index=1)]
    for piece in pieces:
        outputs.push(piece)
    outputs.end(END)
    assert await rest(outputs) == [*pieces, END]


async def test_the_first_end_counts_and_nothing_follows_it() -> None:
    outputs = Outputs(interval_s=0.0, whole=False)
    gone = Broken(code="cancelled", message="left")
    outputs.end(gone)
    outputs.end(END)
    outputs.push(Piece("late", 1))
    assert await rest(outputs) == [gone]
    with pytest.raises(StopAsyncIteration):
        await anext(outputs)


@given(sizes=st.lists(st.integers(1, 900), max_size=6), start=st.integers(0, 2000))
def test_words_are_the_same_however_they_are_cut(sizes: list[int], start: int) -> None:
    whole = words("q", start, sum(sizes))
    cut = []
    for size in sizes:
        cut.append(words("q", start, size))
        start += size
    assert "".join(cut) == whole
    assert len(whole.split()) == sum(sizes)


def test_words_differ_between_requests() -> None:
    assert words("q1", 0, 20) != words("q2", 0, 20)
