"""Reading a model's answer: SEARCH/REPLACE blocks against the parent, or a whole rewrite."""

import re

_FENCE = re.compile(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(
    r"^[ \t]*<{5,}\s*SEARCH[ \t]*\n(?P<search>.*?)^[ \t]*={5,}[ \t]*\n(?P<replace>.*?)^[ \t]*>{5,}\s*REPLACE[ \t]*$",
    re.DOTALL | re.MULTILINE,
)
_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)


class EditError(ValueError):
    """The answer holds no usable policy; the message says what was wrong, for the repair round."""


def source_from(answer: str, parent: str) -> str:
    """The policy that an answer means: `parent` with its SEARCH/REPLACE blocks applied, or its last fenced code.

    Raises EditError.
    """
    text = _THOUGHT.sub("", answer)
    blocks = [(match["search"], match["replace"]) for match in _BLOCK.finditer(text)]
    if blocks:
        return apply(parent, blocks)
    if "<<<<<" in text:
        raise EditError("a SEARCH block without its ===== and >>>>> REPLACE lines")
    fenced = _FENCE.findall(text)
    if fenced:
        return str(max(fenced, key=len))
    if re.search(r"^def \w+\(", text, re.MULTILINE):
        return text.strip() + "\n"
    raise EditError("neither SEARCH/REPLACE blocks nor a fenced code block were found")


def apply(source: str, blocks: list[tuple[str, str]]) -> str:
    """`source` with each block's search text replaced, one after the other.

    Every search text must occur exactly once; trailing blanks of lines do not count. Raises EditError.
    """
    for number, (search, replace) in enumerate(blocks, 1):
        source = _apply_one(source, search, replace, number)
    return source


def _apply_one(source: str, search: str, replace: str, number: int) -> str:
    lines, wanted = source.splitlines(), search.splitlines()
    while wanted and not wanted[0].strip():
        wanted = wanted[1:]
    while wanted and not wanted[-1].strip():
        wanted = wanted[:-1]
    if not wanted:
        raise EditError(f"block {number}: the SEARCH text is empty")
    stripped, target = [line.rstrip() for line in lines], [line.rstrip() for line in wanted]
    found = [at for at in range(len(lines) - len(wanted) + 1) if stripped[at : at + len(wanted)] == target]
    if len(found) != 1:
        problem = (
            "is not in the parent"
            if not found
            else f"occurs {len(found)} times in the parent; give more lines"
        )
        raise EditError(f"block {number}: the SEARCH text beginning {wanted[0].strip()!r} {problem}")
    at = found[0]
    return "\n".join([*lines[:at], *replace.splitlines(), *lines[at + len(wanted) :]]) + "\n"
