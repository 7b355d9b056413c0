import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.synthesizer.edits import EditError, apply, source_from

PARENT = (
    "API = 1\n\n\ndef route(request, replicas, ctx):\n    return Assign(0)\n\n\ndef other():\n    return 1\n"
)


def block(search, replace):
    return f"<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"


def test_blocks_are_applied_in_order():
    answer = (
        "Because.\n"
        + block("    return Assign(0)", "    best = 0\n    return Assign(best)")
        + block("    best = 0", "    best = 1")
    )
    assert source_from(answer, PARENT) == PARENT.replace(
        "    return Assign(0)", "    best = 1\n    return Assign(best)"
    )


def test_blocks_in_a_fence_with_trailing_blanks_still_match():
    answer = f"```\n{block('    return Assign(0)   ', '    return HOLD')}```"
    assert "    return HOLD\n" in source_from(answer, PARENT)


def test_an_empty_replacement_deletes():
    assert (
        source_from("<<<<<<< SEARCH\ndef other():\n    return 1\n=======\n>>>>>>> REPLACE", PARENT)
        .strip()
        .endswith("Assign(0)")
    )


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (block("    return Assign(9)", "x"), "is not in the parent"),
        (block("", "x"), "SEARCH text is empty"),
        ("<<<<<<< SEARCH\nAPI = 1\n=======\nAPI = 2", "without its"),
        ("I cannot do that.", "neither SEARCH/REPLACE"),
        ("", "neither SEARCH/REPLACE"),
    ],
)
def test_unusable_answers_say_why(answer, problem):
    with pytest.raises(EditError, match=problem):
        source_from(answer, PARENT)


def test_a_search_text_must_be_unique():
    with pytest.raises(EditError, match="occurs 2 times"):
        apply("a\nb\na\n", [("a", "c")])


def test_a_rewrite_is_the_largest_fenced_block_outside_thoughts():
    answer = "<think>```python\nwrong = 1\nwrong = 2\n```</think>Small:\n```\nx\n```\nHere:\n```python\nAPI = 1\ny = 2\n```\n"
    assert source_from(answer, PARENT) == "API = 1\ny = 2\n"


def test_bare_code_is_taken_as_it_is():
    assert source_from("def route(request, replicas, ctx):\n    return HOLD", PARENT).endswith(
        "return HOLD\n"
    )


@given(st.lists(st.text("ab \n", min_size=1, max_size=12), min_size=1, max_size=6), st.data())
def test_replacing_a_unique_line_changes_that_line_only(lines, data):
    lines = [f"{number}:{line.replace(chr(10), '')}" for number, line in enumerate(lines)]
    at = data.draw(st.integers(0, len(lines) - 1))
    result = apply("\n".join(lines), [(lines[at], "new")])
    assert result.splitlines() == [*lines[:at], "new", *lines[at + 1 :]]


@given(st.text())
def test_any_answer_gives_text_or_an_edit_error(answer):
    with contextlib.suppress(EditError):
        assert isinstance(source_from(answer, PARENT), str)
