"""Traces into requests: times, prompts that share what the trace shares, follow-ups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.cli.load.plan import plan
from autopoiesis.cli.load.prompts import text
from autopoiesis.simulator.workload import Trace


def trace(**columns: object) -> Trace:
    return Trace.of("t", [10.0, 11.0, 14.0], [5, 8, 3], [1, 2, 3], **columns)  # type: ignore[arg-type]


def test_times_begin_at_the_first_arrival() -> None:
    planned, window_s = plan(trace(), stretch=None)
    assert [item.due_s for item in planned] == [0.0, 1.0, 4.0]
    assert window_s == 4.0


def test_a_stretch_begins_where_it_was_cut() -> None:
    planned, window_s = plan(trace(), stretch=(10.5, 20.0))
    assert [item.due_s for item in planned] == [0.5, 3.5]
    assert [item.output_tokens for item in planned] == [2, 3]
    assert window_s == 9.5


def test_an_empty_stretch_is_refused() -> None:
    with pytest.raises(ValueError, match="no arrival between 20 s and 30 s"):
        plan(trace(), stretch=(20.0, 30.0))


def test_prompts_have_four_bytes_per_token() -> None:
    planned, _ = plan(trace(), stretch=None)
    assert [sum(size for _, size in item.prompt) for item in planned] == [20, 32, 12]


def test_sessions_share_a_text_and_strangers_do_not() -> None:
    planned, _ = plan(trace(session=[4, 4, 0]), stretch=None)
    assert planned[0].prompt[0][0] == planned[1].prompt[0][0] != planned[2].prompt[0][0]
    assert [item.session for item in planned] == ["4", "4", ""]


def test_recorded_blocks_come_first() -> None:
    planned, _ = plan(trace(block_hashes=[(7,), (7, 9), ()], block_tokens=3), stretch=None)
    assert planned[0].prompt == (("b7", 12), ("r0", 8))
    assert planned[1].prompt == (("b7", 12), ("b9", 12), ("r1", 8))
    assert planned[2].prompt == (("r2", 12),)


def test_classes_by_name_and_follow_ups_by_index() -> None:
    planned, _ = plan(
        trace(klass=[0, 1, 0], classes=("default", "batch"), parent=[-1, 0, 1], think_s=[0, 2, 3]),
        stretch=None,
    )
    assert [item.klass for item in planned] == ["", "batch", ""]
    assert [(item.parent, item.think_s) for item in planned] == [(-1, 0.0), (0, 2.0), (1, 3.0)]


@given(name=st.text("abc", max_size=4), short=st.integers(0, 70_000), more=st.integers(0, 70_000))
def test_texts_of_one_name_are_prefixes_of_each_other(name: str, short: int, more: int) -> None:
    whole = text(name, short + more)
    assert len(whole.encode()) == short + more
    assert whole.startswith(text(name, short))


def test_texts_of_two_names_part_at_once() -> None:
    assert text("s1", 400)[:2] != text("s2", 400)[:2]
