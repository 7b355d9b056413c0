"""The verifier's findings, for people, for programs and for the LLM that has to repair its text."""

from __future__ import annotations

import ast
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One rule broken at one place. `line` counts from 1 and `column` from 1; both are 0 for the policy as a whole."""

    line: int
    column: int
    rule: str
    message: str
    suggestion: str = ""

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}" if self.line else "policy"
        advice = f" Instead: {self.suggestion}." if self.suggestion else ""
        return f"{where} [{self.rule}] {self.message}.{advice}"


@dataclass(frozen=True, slots=True)
class Report:
    """Every problem of one source, ordered by place."""

    kind: str
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok

    def text(self) -> str:
        """All problems, one per line, after a line that says what this is."""
        if self.ok:
            return f"valid {self.kind} policy"
        count = len(self.problems)
        head = f"not a valid {self.kind} policy: {count} problem{'s' if count > 1 else ''}"
        return "\n".join([head, *map(str, self.problems)])

    def to_json(self) -> dict[str, object]:
        """Plain data for `--json` and for messages."""
        return {"kind": self.kind, "ok": self.ok, "problems": [asdict(problem) for problem in self.problems]}


class Problems:
    """Collects problems while a source is checked."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, node: ast.AST | None, rule: str, message: str, suggestion: str = "") -> None:
        """Note a problem at `node`, or of the policy as a whole."""
        line = getattr(node, "lineno", 0)
        column = getattr(node, "col_offset", -1) + 1
        self.found.append(Problem(line, column, rule, message, suggestion))

    def at(self, line: int, column: int, rule: str, message: str) -> None:
        self.found.append(Problem(line, column, rule, message))
