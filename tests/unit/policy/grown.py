"""Grows random policies from the grammar, for hypothesis.

Expressions carry a rough kind so that most programs run for a while before they fault; one in fifty is of the wrong
kind on purpose. Loops are short, so that plain Python can run the same program.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NUMBERS = ("a", "b", "c")
LISTS = ("xs", "ys")
DICTS = ("table",)
REPLICA_FIELDS = (
    "running",
    "waiting",
    "index",
    "id",
    "predicted_ttft",
    "kv_used_tokens",
    "prefix_hit_tokens",
)
REQUEST_FIELDS = ("seq", "prompt_tokens", "waited", "ttft_slo", "session")
KINDS = ("number", "list", "truth", "label", "pair", "replica")
KEYS = (
    "lambda n: -n",
    "lambda n: (n, 1)",
    "lambda n: helper(n, 2)",
    "lambda n: n % 3",
    "negate",
    "listed",
    "local",
)
HELPERS = ("n * m + c", "n - m if n > m else m", "max(n, m) * 2", "n")
FRAME = """import math

LIMIT = 12.5
GPU = "H100"
TABLE = [3, 1, 2]

def apply(f, value):
    return f(value)

def negate(n):
    return -n

def listed(n):
    return [n, 0]

def helper(n, m):
    a, b, c = n, m, 1
    return {helper}

def prioritize(request, ctx):
    return request.arrival

def route(request, replicas, ctx):
    a, b, c = 1, request.waited, len(replicas)
    xs, ys, table = [2, 3], [], {{1: 2.0}}
    def local(n, m=2):
        t = n if n else m
        return (t, {helper}) if m == 7 else t
    def total(items):
        found = 0
        for item in items:
            found += item
        return found
{body}
    return {decision}
"""
_ARITHMETIC = ("+", "-", "*", "/", "//", "%", "+", "*")
_COMPARISONS = ("<", "<=", "==", "!=", ">", ">=")


class Grower:
    """Draws one program. `self.depth` bounds nesting, `self.locals` are names that hold replicas here."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self._replicas = ["replicas[0]"]

    def pick(self, *options: str) -> str:
        return str(self._draw(st.sampled_from(options)))

    def expression(self, kind: str, depth: int) -> str:
        if self._draw(st.integers(0, 49)) == 0:
            kind = self.pick(*KINDS)
        return str(getattr(self, f"_{kind}")(depth))

    def _number(self, depth: int) -> str:
        if depth <= 0:
            return self.pick(
                *NUMBERS,
                "0",
                "1",
                "2.5",
                "7",
                "-3",
                "1e9",
                "math.inf",
                "LIMIT",
                f"request.{self.pick(*REQUEST_FIELDS)}",
            )
        deeper = depth - 1
        match self._draw(st.integers(0, 15)):
            case 0 | 1 | 2:
                return f"({self.expression('number', deeper)} {self.pick(*_ARITHMETIC)} {self.expression('number', deeper)})"
            case 3:
                return f"{self.pick(*self._replicas)}.{self.pick(*REPLICA_FIELDS)}"
            case 4:
                return f"len({self.expression('list', deeper)})"
            case 5:
                return f"{self.pick('min', 'max')}({self.expression('number', deeper)}, {self.expression('number', deeper)})"
            case 6:
                return f"{self.pick('min', 'max')}({self.expression('list', deeper)}, default=0)"
            case 7:
                return f"sum({self._generator(deeper)})"
            case 8:
                return f"({self.expression('number', deeper)} if {self.expression('truth', deeper)} else {self.expression('number', deeper)})"
            case 9:
                return f"{self.pick('abs', 'int', 'float', 'round')}({self.expression('number', deeper)})"
            case 10:
                return f"math.{self.pick('sqrt', 'log', 'floor', 'exp', 'hypot')}({self.expression('number', deeper)})"
            case 11 if self._draw(st.booleans()):
                inner = self.pick(
                    "local({}, 7)[0]", "local({})", "local({}, m=a)", "total([{}, b])", "total(xs)"
                )
                return inner.format(self.expression("number", deeper))
            case 11:
                return f"helper({self.expression('number', deeper)}, {self.expression('number', deeper)})"
            case 12:
                return f"{self.expression('list', deeper)}[{self.pick('0', '-1', 'a', '1')}]"
            case 13:
                return f"table.get({self.expression('number', deeper)}, {self.expression('number', deeper)})"
            case 14:
                return f"({self.expression('number', deeper)} {self.pick('**', '<<', '>>', '&', '|', '^')} {self.pick('2', '3', 'a', '0.5')})"
            case _:
                return f"apply(lambda n: {self.expression('number', deeper)}, {self.expression('number', deeper)})"

    def _generator(self, depth: int) -> str:
        self._replicas.append("r")
        text = f"{self.expression('number', depth)} for r in replicas"
        if self._draw(st.booleans()):
            text += f" if {self.expression('truth', depth)}"
        self._replicas.pop()
        return text

    def _list(self, depth: int) -> str:
        if depth <= 0:
            return self.pick(*LISTS, "[1, 2]", "TABLE", "[]")
        deeper = depth - 1
        match self._draw(st.integers(0, 9)):
            case 0 | 1:
                return f"[{self._generator(deeper)}]"
            case 2:
                return f"({self.expression('list', deeper)} + {self.expression('list', deeper)})"
            case 3:
                return f"sorted({self.expression('list', deeper)})"
            case 4:
                return f"sorted({self.expression('list', deeper)}, key={self.pick(*KEYS)}, reverse=a > b)"
            case 5:
                return f"{self.expression('list', deeper)}[{self.pick('1:', ':2', '::-1', '-2:')}]"
            case 6:
                return f"list({self.pick('range(5)', 'table.values()', 'reversed([1, 2, 3])', 'range(2, 9, 3)')})"
            case 7:
                return f"[i * {self.expression('number', deeper)} + n for i, n in enumerate({self.expression('list', deeper)})]"
            case 8:
                return f"[n * m for n, m in zip({self.expression('list', deeper)}, {self.expression('list', deeper)})]"
            case _:
                return f"([{self.expression('number', deeper)}] * {self.pick('2', '3', 'a')})"

    def _truth(self, depth: int) -> str:
        deeper = depth - 1
        if depth <= 0:
            return self.pick("(a < b)", "True", "xs", "(request.workflow is None)")
        match self._draw(st.integers(0, 7)):
            case 0 | 1:
                return f"({self.expression('number', deeper)} {self.pick(*_COMPARISONS)} {self.expression('number', deeper)})"
            case 2:
                return f"({self.expression('truth', deeper)} {self.pick('and', 'or')} not {self.expression('truth', deeper)})"
            case 3:
                return f"({self.expression('number', deeper)} {self.pick('in', 'not in')} {self.expression('list', deeper)})"
            case 4:
                return f"{self.pick('any', 'all')}({self._generator(deeper)})"
            case 5:
                return f"({self.expression('list', deeper)} {self.pick('==', '<', '!=')} {self.expression('list', deeper)})"
            case 6:
                return (
                    f"({self.expression('number', deeper)} in {{1, 2, {self.expression('number', deeper)}}})"
                )
            case _:
                return f"(a {self.pick(*_COMPARISONS)} {self.expression('number', deeper)} {self.pick(*_COMPARISONS)} c)"

    def _label(self, depth: int) -> str:
        return self.pick("GPU", f"{self.pick(*self._replicas)}.gpu", "'x'.upper()")

    def _pair(self, depth: int) -> str:
        return f"({self.expression('number', depth - 1)}, {self.expression('number', depth - 1)})"

    def _replica(self, depth: int) -> str:
        if depth <= 0:
            return self.pick(*self._replicas)
        self._replicas.append("r")
        key = self.expression(self.pick("number", "pair"), depth - 1)
        self._replicas.pop()
        return f"{self.pick('min', 'max')}(replicas, key=lambda r: {key})"

    def block(self, indent: int, depth: int) -> list[str]:
        return [line for _ in range(self._draw(st.integers(1, 4))) for line in self.statement(indent, depth)]

    def statement(self, indent: int, depth: int) -> list[str]:
        pad = "    " * indent
        match self._draw(st.integers(0, 13)):
            case 0 | 1:
                return [f"{pad}{self.pick(*NUMBERS)} = {self.expression('number', 3)}"]
            case 2:
                return [
                    f"{pad}{self.pick(*NUMBERS)} {self.pick('+=', '-=', '*=', '/=', '%=')} {self.expression('number', 2)}"
                ]
            case 3:
                return [f"{pad}{self.pick(*LISTS)} = {self.expression('list', 2)}"]
            case 4:
                return [f"{pad}{self.pick(*LISTS)}.append({self.expression('number', 2)})"]
            case 5:
                return [
                    f"{pad}table[{self.expression('number', 1)}] {self.pick('=', '+=')} {self.expression('number', 2)}"
                ]
            case 6:
                return [
                    f"{pad}{self.pick('xs += ys', 'xs.extend(ys)', 'xs.sort()', 'xs.insert(1, a)', 'xs.pop(0)', 'xs.reverse()')}"
                ]
            case 7:
                return [f"{pad}a, b = {self.expression('number', 2)}, {self.expression('number', 2)}"]
            case 8 if depth > 0:
                return [
                    f"{pad}if {self.expression('truth', 2)}:",
                    *self.block(indent + 1, depth - 1),
                    f"{pad}else:",
                    *self.block(indent + 1, depth - 1),
                ]
            case 9 if depth > 0:
                self._replicas.append("r")
                body = self.block(indent + 1, depth - 1)
                self._replicas.pop()
                return [
                    f"{pad}for r in {self.pick('replicas', 'replicas[1:]', 'sorted(replicas, key=lambda q: q.id)')}:",
                    *body,
                ]
            case 10 if depth > 0:
                return [
                    f"{pad}for {self.pick(*NUMBERS)} in {self.pick('range(4)', 'xs', 'table', '(1, 2.5)', 'TABLE')}:",
                    *self.block(indent + 1, depth - 1),
                ]
            case 11 if depth > 0:
                return [
                    f"{pad}turns = 0",
                    f"{pad}while turns < 4 and {self.expression('truth', 1)}:",
                    f"{pad}    turns += 1",
                    *self.block(indent + 1, 0),
                ]
            case 12:
                return [f"{pad}if {self.expression('truth', 2)}:", f"{pad}    return {self._decision()}"]
            case _:
                return [f"{pad}c = {self.expression('number', 4)}"]

    def _decision(self) -> str:
        return str(
            self.pick(
                "HOLD",
                "REJECT",
                f"Assign({self.expression('replica', 2)}.index)",
                "Assign(0, priority=1)",
                self.expression("number", 1),
            )
        )

    def program(self) -> str:
        """A whole policy."""
        body = "\n".join(self.block(1, 2))
        return FRAME.format(helper=self.pick(*HELPERS), body=body, decision=self._decision())


@st.composite
def policies(draw: Any) -> str:
    """Source of a dispatch policy that the verifier should accept."""
    return Grower(draw).program()
