"""Type inference over a verified policy (see `types` for what a type is)."""

from __future__ import annotations

import ast
from typing import Final

from autopoiesis.policy import api
from autopoiesis.policy.api import Kind
from autopoiesis.policy.language import grammar, types
from autopoiesis.policy.language.functions import escaping
from autopoiesis.policy.language.infer_expressions import WIDEN_AFTER, ExpressionInference, integer_literal
from autopoiesis.policy.language.module import Module
from autopoiesis.policy.language.types import ANYTHING, NOTHING, REAL, Type, join

_GIVE_UP_AFTER: Final = 12
"""Passes over the module; programs by hand take three or four, and only a crafted one takes many."""
_PARAMETERS: Final[dict[str, Type]] = {
    "request": Type(types.VIEW["Request"]),
    "replicas": Type(types.VIEWS["Replica"]),
    "dispatch": Type(types.VIEW["DispatchContext"]),
    "plan": Type(types.VIEW["PlanContext"]),
}


class Inference(ExpressionInference):
    """Types of every expression of a verified module, and the view fields it reads."""

    def __init__(self, module: Module, kind: Kind) -> None:
        super().__init__(module)
        self._kind: Kind = kind
        self._constants()
        self._escaping = escaping(module)
        for name in module.functions:
            self._parameters(name, kind)
        while self._changed:
            self._changed = False
            self._pass += 1
            if self._pass > _GIVE_UP_AFTER:
                self._know_nothing()
            for name, function in module.functions.items():
                self._scope = name
                for statement in function.body:
                    self._statement(statement, name)

    def reads(self) -> dict[str, frozenset[str]]:
        """Fields read per view. A value of unknown origin counts for every view of the kind that has the field."""
        found: dict[str, set[str]] = {name: set() for name in api.VIEWS_OF[self._kind]}
        for function in self._module.functions.values():
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and node.attr in grammar.READABLE:
                    for owner in types.owners(self.of(node.value), node.attr):
                        if owner in found:
                            found[owner].add(node.attr)
        return {name: frozenset(found.get(name, ())) for name in api.VIEWS}

    def _know_nothing(self) -> None:
        for scope, names in self._bound.items():
            self._variables.update(dict.fromkeys(((scope, name) for name in names), ANYTHING))
        self._returns = dict.fromkeys(self._known, ANYTHING)

    def _constants(self) -> None:
        for name, value in self._module.constants.items():
            of_value = self._expression(value)
            self._variables["", name] = of_value
            leaves = [value.values if isinstance(value, ast.Dict) else getattr(value, "elts", [])]
            if leaves[0]:
                self._elements[name] = join(*(self._expression(leaf) for leaf in leaves[0]))
        for name in self._module.math_names:
            self._variables["", name] = REAL if name in grammar.MATH_CONSTANTS else Type(types.OPAQUE)

    def _parameters(self, name: str, kind: Kind) -> None:
        function = self._module.functions[name]
        names = [argument.arg for argument in function.args.args]
        entry = api.FUNCTIONS[kind].get(name)
        if entry is not None:
            for own, role in zip(names, entry, strict=True):
                self._assign(name, own, _PARAMETERS[role if role != "ctx" else kind])
        elif name in self._escaping:
            for own in names:
                self._assign(name, own, ANYTHING)
        self._defaults(name, function.args)

    def _defaults(self, scope: str, arguments: ast.arguments) -> None:
        for own, default in zip(reversed(arguments.args), reversed(arguments.defaults), strict=False):
            self._assign(scope, own.arg, self._expression(default))

    # statements

    def _statement(self, node: ast.stmt, function: str | None) -> None:
        """Join what `node` assigns. `function` is the top-level function its `return` leaves, None inside nested ones."""
        match node:
            case ast.Return(value=value):
                result = self._expression(value) if value else Type(types.NONE)
                if function is not None:
                    self._return(function, result)
            case ast.Assign(targets=targets, value=value):
                of_value = self._expression(value)
                for target in targets:
                    self._target(target, of_value, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._target(target, self._expression(value), value)
            case ast.AugAssign(target=target, op=op, value=value):
                right = self._expression(value)
                left = self._expression(target)
                self._target(target, types.arithmetic(op, left, right, integer_literal(value)), None)
            case ast.For(target=target, iter=iterable):
                self._loop(target, iterable)
            case ast.FunctionDef(name=name, args=arguments):
                self._assign(self._scope, name, Type(types.OPAQUE))
                if name in self._known and name not in self._escaping:
                    self._defaults(self._scope, arguments)
                else:
                    self._unknown_parameters(arguments)
            case ast.While(test=test) | ast.If(test=test):
                self._expression(test)
            case ast.Expr(value=value):
                self._expression(value)
            case _:
                pass
        inner = function
        if isinstance(node, ast.FunctionDef):
            inner = node.name if node.name in self._known else None
        for part in ("body", "orelse"):
            for statement in getattr(node, part, []):
                self._statement(statement, inner)

    def _return(self, function: str, value: Type) -> None:
        old = self._returns.get(function, NOTHING)
        new = join(old, value)
        if new != old:
            if self._pass > WIDEN_AFTER and new.bits > old.bits:
                new = Type(new.kinds, types.UNBOUNDED)
            self._returns[function] = new
            self._changed = True
