"""Turns a verified policy into one that pays for what it does: its constants, functions and statements.

Costs say what straight-line code pays, where control enters it.
"""

from __future__ import annotations

import ast

from autopoiesis.policy.language import types
from autopoiesis.policy.language.infer_expressions import integer_literal
from autopoiesis.policy.language.meter_expressions import (
    GUARDED_CALL,
    IN_PLACE,
    QUOTIENTS,
    ExpressionMeter,
    at,
    call_guard,
)
from autopoiesis.policy.language.module import ENTRY_POINTS, is_docstring


class Meter(ExpressionMeter, ast.NodeTransformer):
    """Rewrites one module. Expects a tree that the verifier accepted."""

    def transform(self) -> ast.Module:
        """The metered module: constants, then functions."""
        body: list[ast.stmt] = []
        for name, value in self._module.constants.items():
            frozen = call_guard("freeze", value, self.visit(value))
            body.append(at(value, ast.Assign([ast.Name(name, ast.Store())], frozen)))
        for name, function in self._module.functions.items():
            self._lengthening = name not in ENTRY_POINTS or name in self._costs.called
            body.append(self._define(function))
            if name in self._costs.guarded:
                body.append(_rebind(function, GUARDED_CALL + self._costs.of_function[name]))
        return ast.fix_missing_locations(ast.Module(body, []))

    def _define(self, node: ast.FunctionDef) -> ast.FunctionDef:
        body = node.body[1:] if is_docstring(node.body[0]) else node.body
        result = ast.FunctionDef(
            name=node.name,
            args=self._parameters(node.args),
            body=self._block(body) or [at(node, ast.Pass())],
            decorator_list=[],
            returns=None,
            type_comment=None,
        )
        if "type_params" in ast.FunctionDef._fields:
            setattr(result, "type_params", [])  # noqa: B010  Python 3.11 does not know the field
        return at(node, result)

    def _block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        result: list[ast.stmt] = []
        for statement in statements:
            new = self.visit(statement)
            result.extend(new if isinstance(new, list) else [new])
        return result

    def visit_FunctionDef(self, node: ast.FunctionDef) -> list[ast.stmt]:
        with self._anywhere():
            defined = self._define(node)
        if node.name in self._module.nested and node.name not in self._costs.guarded:
            return [defined]
        return [defined, _rebind(node, GUARDED_CALL + self._costs.block(node.body))]

    def visit_If(self, node: ast.If) -> ast.stmt:
        return at(node, ast.If(self.visit(node.test), self._block(node.body), self._block(node.orelse)))

    def visit_For(self, node: ast.For) -> ast.stmt:
        paid = self._costs.in_advance(node) is not None
        items = self._free(node.iter) if paid else self._consumed(node.iter, self._costs.iteration(node))
        with self._anywhere(unless=self._growth.fixed(node.iter)):
            body = self._block(node.body)
        return at(node, ast.For(node.target, items, body, self._block(node.orelse), None))

    def visit_While(self, node: ast.While) -> ast.stmt:
        toll = ast.parse(
            f"__meter.fuel -= {self._costs.iteration(node)}\nif __meter.fuel < 0: __meter.exhausted()"
        ).body
        for statement in toll:
            for part in ast.walk(statement):
                if isinstance(part, ast.expr | ast.stmt):
                    part.lineno = part.end_lineno = node.lineno
        return at(
            node, ast.While(self.visit(node.test), [*toll, *self._block(node.body)], self._block(node.orelse))
        )

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        assert node.value is not None, "the verifier refuses bare annotations"
        return at(node, ast.Assign([node.target], self.visit(node.value)))

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        left, right = self._types.of(node.target), self._types.of(node.value)
        guarded = types.needs_guard(node.op, left, right, integer_literal(node.value))
        target, value = node.target, self.visit(node.value)
        if isinstance(target, ast.Name):
            if not guarded:
                return at(node, ast.AugAssign(target, node.op, value))
            old = at(target, ast.Name(target.id, ast.Load()))
            return at(node, ast.Assign([target], self._guarded(IN_PLACE, node, old, value)))
        assert isinstance(target, ast.Subscript), "the verifier allows names and items only"
        base, key = self.visit(target.value), target.slice
        if not guarded and self._bounded(key):
            return at(
                node,
                ast.AugAssign(at(target, ast.Subscript(base, self.visit(key), ast.Store())), node.op, value),
            )
        if type(node.op) in QUOTIENTS:
            name = QUOTIENTS[type(node.op)]
        else:
            guard, extra = IN_PLACE[type(node.op)]
            name = extra[0] if extra else guard
        return at(
            node, ast.Expr(call_guard("augment", node, ast.Constant(name), base, self.visit(key), value))
        )


def _rebind(function: ast.FunctionDef, cost: int) -> ast.stmt:
    guarded = call_guard("guard", function, ast.Name(function.name, ast.Load()), ast.Constant(cost))
    return at(function, ast.Assign([ast.Name(function.name, ast.Store())], guarded))
