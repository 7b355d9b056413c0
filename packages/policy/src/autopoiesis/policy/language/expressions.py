"""The rules for expressions, and for names and targets wherever they occur."""

from __future__ import annotations

import ast
import difflib

from autopoiesis.policy.language import grammar
from autopoiesis.policy.language.module import (
    Module,
    check_literal,
    check_name,
    check_no_formatting,
)
from autopoiesis.policy.language.report import Problems

_ALLOWED = frozenset({*grammar.STATEMENTS, *grammar.EXPRESSIONS, *grammar.OPERATORS, ast.arguments, ast.arg})


class ExpressionChecker(ast.NodeVisitor):
    """Checks expressions of one top-level function. `_bound` holds every name that the function binds."""

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
        if type(node) not in _ALLOWED:
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
            f"`{close[0]}`" if close else "define it, or use a listed builtin",
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

    def visit_Call(self, node: ast.Call) -> None:
        name = self._callee(node.func)
        if isinstance(node.func, ast.Name) and name in grammar.ITERATORS:
            self._problems.add(
                node,
                "iterator",
                f"what `{name}` gives must be consumed where it is made",
                f"`list({name}(...))`",
            )
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                self._refuse(argument)
            elif (name in grammar.CONSUMERS and isinstance(node.func, ast.Name)) or name in {
                "extend",
                "update",
            }:
                self._iterable(argument)
            else:
                self.visit(argument)
        if name == "round" and len(node.args) > 1 and not _is_small_integer(node.args[1]):
            self._problems.add(
                node, "argument", "the digits of `round` are a constant between -20 and 20", "`round(x, 2)`"
            )
        for keyword in node.keywords:
            self._keyword(name, node, keyword)

    def _callee(self, func: ast.expr) -> str:
        match func:
            case ast.Name():
                if func.id not in grammar.BUILTINS and func.id not in grammar.CONSTRUCTORS:
                    self.visit_Name(func)
                return func.id
            case ast.Attribute(value=ast.Name(id="math")):
                self.visit_Attribute(func)
                return func.attr
            case ast.Attribute():
                self.visit(func.value)
                if func.attr in grammar.DICT_VIEWS:
                    self._problems.add(
                        func,
                        "iterator",
                        f"`.{func.attr}()` can only be iterated at once",
                        f"`for ... in d.{func.attr}():` or `list(d.{func.attr}())`",
                    )
                elif func.attr not in grammar.CALLABLE:
                    known = sorted(grammar.CALLABLE)
                    if func.attr in grammar.READABLE:
                        self._problems.add(
                            func, "method", f"`.{func.attr}` is a field, not a method", f"`.{func.attr}`"
                        )
                    else:
                        self._unlisted(func, known, "a listed method")
                return func.attr
            case _:
                self._problems.add(
                    func, "call", "functions are called by their name", "`f = ...` first, then `f(x)`"
                )
                self.visit(func)
                return ""

    def _keyword(self, name: str, node: ast.Call, keyword: ast.keyword) -> None:
        if keyword.arg is None:
            self._problems.add(
                keyword.value, "argument", "`**` unpacking is not in the language", "name each argument"
            )
            return
        own = isinstance(node.func, ast.Name) and (name in self._module.functions or name in self._bound)
        allowed = grammar.KEYWORDS.get(name, grammar.CONSTRUCTORS.get(name, ()))
        if not own and keyword.arg not in allowed and name not in grammar.TOOLKIT_METHODS:
            self._problems.add(
                keyword.value,
                "argument",
                f"`{name}` takes no keyword `{keyword.arg}` here",
                "positional arguments",
            )
        if keyword.arg == "key" and isinstance(keyword.value, ast.Attribute) and not _is_math(keyword.value):
            self._problems.add(
                keyword.value,
                "argument",
                "`key` is a lambda or the name of a function",
                "`key=lambda x: ...`",
            )
            return
        self.visit(keyword.value)

    def _iterable(self, node: ast.expr) -> None:
        """Check an expression whose elements are consumed on the spot."""
        match node:
            case ast.GeneratorExp():
                self._comprehension(node.generators, node.elt)
            case ast.Call(func=ast.Attribute(attr=name) as func, args=[], keywords=[]) if (
                name in grammar.DICT_VIEWS
            ):
                self.visit(func.value)
            case ast.Call(func=ast.Name(id=name)) if name in grammar.ITERATORS:
                self._consumed_call(node)
            case ast.Set() | ast.SetComp():
                self._set_order(node)
            case ast.Call(func=ast.Name(id="set" | "frozenset")):
                self._set_order(node)
            case _:
                self.visit(node)

    def _set_order(self, node: ast.expr) -> None:
        self._problems.add(
            node,
            "set",
            "sets have no order: they are for `in` and `len` only",
            "a list, or `dict` keys for distinct values",
        )
        self.visit(node)

    def _consumed_call(self, node: ast.Call) -> None:
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                self._refuse(argument)
            else:
                self._iterable(argument)
        for keyword in node.keywords:
            self._keyword(node.func.id if isinstance(node.func, ast.Name) else "", node, keyword)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self._operator(node, node.op)
        if isinstance(node.op, ast.Mod):
            check_no_formatting(node, self._problems)
        self.visit(node.left)
        self.visit(node.right)

    def _operator(self, node: ast.AST, op: ast.operator) -> None:
        if type(op) not in _ALLOWED:
            refusal = grammar.REFUSED[type(op).__name__]
            self._problems.add(
                node, "node", f"{refusal.construct} is not in the language: {refusal.why}", refusal.instead
            )

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for position, op in enumerate(node.ops):
            if isinstance(op, ast.Is | ast.IsNot) and not any(
                map(_has_identity, operands[position : position + 2])
            ):
                self._problems.add(
                    node,
                    "identity",
                    "`is` depends on how Python stores values",
                    "`==`; `is` with None, booleans, HOLD and REJECT",
                )
            if isinstance(op, ast.In | ast.NotIn) and len(node.ops) > 1:
                self._problems.add(
                    node, "call", "`in` cannot be part of a chained comparison", "`a in b and b == c`"
                )
        for operand in operands:
            self.visit(operand)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        if self._comprehensions:
            self._problems.add(
                node, "walrus", "`:=` cannot be used in comprehensions and lambdas", "a `for` loop"
            )
        self._target(node.target)
        self.visit(node.value)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._arguments(node.args)
        self._comprehensions += 1
        self.visit(node.body)
        self._comprehensions -= 1

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._problems.add(
            node,
            "iterator",
            "a generator expression must be consumed where it is written",
            "a list: `[... for ...]`",
        )
        self._comprehension(node.generators, node.elt)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node.generators, node.elt)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._comprehension(node.generators, node.elt)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node.generators, node.key, node.value)

    def visit_Dict(self, node: ast.Dict) -> None:
        if None in node.keys:
            self._problems.add(node, "node", "`**` unpacking is not in the language", "`d.update(other)`")
        for child in (*node.keys, *node.values):
            if child is not None:
                self.visit(child)

    def _comprehension(self, generators: list[ast.comprehension], *elements: ast.expr) -> None:
        self._comprehensions += 1
        for generator in generators:
            if generator.is_async:
                self._problems.add(generator.iter, "node", "`async for` is not in the language", "`for`")
            self._target(generator.target, subscripts=False)
            self._iterable(generator.iter)
            for test in generator.ifs:
                self.visit(test)
        for element in elements:
            self.visit(element)
        self._comprehensions -= 1


def _is_scalar_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    if _is_math(node) and isinstance(node, ast.Attribute):
        return node.attr in grammar.MATH_CONSTANTS
    return isinstance(node, ast.Constant)


def _is_small_integer(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value <= 20


def _is_math(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "math"


def _has_identity(node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return node.id in grammar.VERDICTS
    return isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool))
