"""The rules for names, attributes and targets wherever they occur."""

from __future__ import annotations

import ast
import difflib

from autopoiesis.policy.language import grammar
from autopoiesis.policy.language.module import (
    Module,
    check_literal,
    check_name,
)
from autopoiesis.policy.language.report import Problems

ALLOWED = frozenset({*grammar.STATEMENTS, *grammar.EXPRESSIONS, *grammar.OPERATORS, ast.arguments, ast.arg})
ELSEWHERE = {
    "print": "leave it out; `autopoiesis policy run` shows what a policy decides",
    "map": "a comprehension",
    "filter": "a comprehension with `if`",
    "isinstance": "`is None`; fields have one type each",
    "random": "`ctx.random()`",
    "time": "`ctx.now`",
    "np": "lists, `sum` and comprehensions",
    "numpy": "lists, `sum` and comprehensions",
}
"""What takes the place of names that authors miss."""


class NameChecker(ast.NodeVisitor):
    """Checks names of one top-level function. `_bound` holds every name that the function binds."""

    def __init__(self, module: Module, problems: Problems) -> None:
        self._module = module
        self._problems = problems
        self._bound: set[str] = set()
        self._comprehensions = 0

    def _arguments(self, arguments: ast.arguments) -> None:
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
            where = arguments.vararg or arguments.kwarg or [*arguments.kwonlyargs, *arguments.posonlyargs][0]
            self._problems.add(
                where, "argument", "only plain parameters are in the language", "`def f(a, b=1.0):`"
            )
        for argument in arguments.args:
            self._bind(argument, argument.arg)
        for default in arguments.defaults:
            if _is_scalar_literal(default):
                self.visit(default)
            else:
                self._problems.add(
                    default,
                    "default",
                    "defaults are numbers, strings, True, False or None",
                    "None, and set it in the body",
                )

    def _bind(self, node: ast.AST, name: str) -> None:
        if check_name(node, name, self._problems) and name in self._module.names:
            self._problems.add(
                node,
                "shadow",
                f"`{name}` is already a function, constant or import of this file",
                "another name",
            )

    def visit(self, node: ast.AST) -> None:
        """Check `node` and what is below it, in a place where nothing is iterated or called."""
        if type(node) not in ALLOWED:
            self._refuse(node)
            return
        super().visit(node)

    def _refuse(self, node: ast.AST) -> None:
        refusal = grammar.REFUSED.get(type(node).__name__)
        if refusal is not None:
            self._problems.add(
                node, "node", f"{refusal.construct} is not in the language: {refusal.why}", refusal.instead
            )
        else:
            self._problems.add(
                node,
                "node",
                f"`{type(node).__name__}` is not in the language",
                "the constructs listed in the grammar",
            )

    def _target(self, node: ast.expr, *, subscripts: bool = True) -> None:
        match node:
            case ast.Name():
                self._bind(node, node.id)
            case ast.Tuple() | ast.List():
                for element in node.elts:
                    self._target(element, subscripts=subscripts)
            case ast.Subscript() if subscripts:
                if isinstance(node.slice, ast.Slice):
                    self._problems.add(node, "store", "slices cannot be assigned", "a new list")
                if isinstance(node.value, ast.Name) and node.value.id in self._module.constants:
                    self._problems.add(
                        node,
                        "store",
                        f"`{node.value.id}` is a constant: a policy has no state between calls",
                        "a list or dict made in the function",
                    )
                self.visit(node.value)
                self.visit(node.slice)
            case ast.Attribute():
                self._problems.add(
                    node,
                    "store",
                    f"`.{node.attr}` cannot be set: what a policy is given never changes",
                    "a local variable",
                )
            case ast.Starred():
                self._refuse(node)
            case _:
                self._problems.add(node, "store", "this cannot be assigned here", "a plain name")

    def visit_Constant(self, node: ast.Constant) -> None:
        check_literal(node, self._problems)

    def visit_Name(self, node: ast.Name) -> None:
        name = node.id
        if name in self._bound or name in self._module.names or name in grammar.VERDICTS:
            return
        if name in grammar.BUILTINS:
            if name in grammar.ITERATORS:
                self._problems.add(
                    node, "iterator", f"`{name}` can only be called", f"`{name}(...)` in a `for`"
                )
        elif name in grammar.CONSTRUCTORS or name == "math":
            self._problems.add(
                node,
                "name",
                f"`{name}` cannot be used as a value",
                f"`{name}(...)`" if name != "math" else "`math.sqrt(x)` and the like",
            )
        else:
            self._unknown_name(node)

    def _unknown_name(self, node: ast.Name) -> None:
        known = [
            *self._bound,
            *self._module.names,
            *grammar.BUILTINS,
            *grammar.CONSTRUCTORS,
            *grammar.VERDICTS,
            "math",
        ]
        close = difflib.get_close_matches(node.id, known, 1)
        self._problems.add(
            node,
            "name",
            f"`{node.id}` is not defined here and not a name of the language",
            ELSEWHERE.get(node.id) or (f"`{close[0]}`" if close else "define it, or use a listed builtin"),
        )

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id == "math":
            if node.attr not in grammar.MATH_CONSTANTS and node.attr not in grammar.MATH_FUNCTIONS:
                self._unlisted(
                    node,
                    [*grammar.MATH_FUNCTIONS, *grammar.MATH_CONSTANTS],
                    "a name of `math` in the language",
                )
            return
        self.visit(node.value)
        if node.attr in grammar.CALLABLE_FIELDS:
            self._problems.add(node, "attribute", f"`.{node.attr}` can only be called", f"`.{node.attr}()`")
        elif node.attr not in grammar.READABLE:
            if node.attr in grammar.CALLABLE:
                self._problems.add(
                    node,
                    "attribute",
                    f"`.{node.attr}` is a method and can only be called",
                    f"a lambda such as `lambda x: d.{node.attr}(x)`",
                )
            else:
                self._unlisted(
                    node, sorted(grammar.READABLE | grammar.CALLABLE), "a field of a view or a listed method"
                )

    def _unlisted(self, node: ast.Attribute, known: list[str], what: str) -> None:
        close = difflib.get_close_matches(node.attr, known, 2)
        self._problems.add(
            node, "attribute", f"`.{node.attr}` is not {what}", " or ".join(f"`.{name}`" for name in close)
        )


def _is_scalar_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    if is_math(node) and isinstance(node, ast.Attribute):
        return node.attr in grammar.MATH_CONSTANTS
    return isinstance(node, ast.Constant)


def is_math(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "math"
