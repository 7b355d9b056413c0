"""The rules for functions and statements."""

from __future__ import annotations

import ast

from autopoiesis.policy.language.expressions import ExpressionChecker
from autopoiesis.policy.language.module import is_docstring, names_bound


class FunctionChecker(ExpressionChecker, ast.NodeVisitor):
    """Checks one top-level function and everything nested in it."""

    def function(self, function: ast.FunctionDef) -> None:
        self._bound = set(names_bound(function))
        self._definition(function)

    def _definition(self, node: ast.FunctionDef) -> None:
        if node.decorator_list:
            self._problems.add(
                node,
                "decorator",
                "decorators are not in the language",
                "call the function where it is needed",
            )
        if getattr(node, "type_params", None):
            self._problems.add(node, "node", "type parameters are not in the language", "a plain `def`")
        self._arguments(node.args)
        for statement in node.body[1:] if is_docstring(node.body[0]) else node.body:
            self.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._bind(node, node.name)
        self._definition(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._target(target)
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if not isinstance(node.target, ast.Name) or node.value is None:
            self._problems.add(
                node, "node", "only `name: type = value` may be annotated", "a plain assignment"
            )
            return
        self._target(node.target)
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._target(node.target)
        self._operator(node, node.op)
        self.visit(node.value)

    def visit_For(self, node: ast.For) -> None:
        self._target(node.target, subscripts=False)
        self._iterable(node.iter)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)
