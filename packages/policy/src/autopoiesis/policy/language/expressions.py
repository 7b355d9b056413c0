"""The rules for expressions."""

from __future__ import annotations

import ast

from autopoiesis.policy.language import grammar
from autopoiesis.policy.language.module import check_no_formatting
from autopoiesis.policy.language.names import ALLOWED, NameChecker, is_math


class ExpressionChecker(NameChecker, ast.NodeVisitor):
    """Checks expressions of one top-level function."""

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
        if keyword.arg == "key" and isinstance(keyword.value, ast.Attribute) and not is_math(keyword.value):
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
        if type(op) not in ALLOWED:
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


def _is_small_integer(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value <= 20


def _has_identity(node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return node.id in grammar.VERDICTS
    return isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool))
