"""Types of expressions, and of the names that they and the statements around them bind (see `types` for what a type is)."""

from __future__ import annotations

import ast
from typing import Final

from autopoiesis.policy.language import grammar, types
from autopoiesis.policy.language.functions import ORDERING, falls_through
from autopoiesis.policy.language.module import Module, names_bound
from autopoiesis.policy.language.types import ANYTHING, CONTAINER, COUNT, NOTHING, REAL, TRUTH, Type, join

WIDEN_AFTER: Final = 3
_INTEGER_MATH: Final = frozenset({"ceil", "floor", "trunc", "gcd"})
_TRUTH_MATH: Final = frozenset({"isclose", "isfinite", "isinf", "isnan"})


class ExpressionInference:
    """One pass knows what the passes before it have learnt: types only grow, until nothing changes."""

    def __init__(self, module: Module) -> None:
        self.expressions: dict[ast.expr, Type] = {}
        self._compared: dict[ast.Call, Type] = {}
        self._module = module
        self._known = module.known
        self._variables: dict[tuple[str, str], Type] = {}
        self._returns: dict[str, Type] = {}
        self._elements: dict[str, Type] = {}
        self._scope = ""
        self._changed = True
        self._pass = 0
        self._bound = {name: frozenset(names_bound(function)) for name, function in module.functions.items()}

    def of(self, node: ast.expr) -> Type:
        """The type of an expression of the module; ANYTHING where control cannot reach or nothing is known."""
        found = self.expressions.get(node, ANYTHING)
        return found if found.kinds else ANYTHING

    def compared(self, node: ast.Call) -> Type:
        """The type of what a call of `min`, `max` or `sorted` with one argument compares."""
        found = self._compared.get(node, ANYTHING)
        return found if found.kinds else ANYTHING

    # names

    def _assign(self, scope: str, name: str, value: Type) -> None:
        old = self._variables.get((scope, name), NOTHING)
        new = join(old, value)
        if new != old:
            if self._pass > WIDEN_AFTER and new.bits > old.bits:
                new = Type(new.kinds, types.UNBOUNDED)
            self._variables[scope, name] = new
            self._changed = True

    def _unknown_parameters(self, arguments: ast.arguments) -> None:
        for argument in arguments.args:
            self._assign(self._scope, argument.arg, ANYTHING)
        for default in arguments.defaults:
            self._expression(default)

    def _target(self, target: ast.expr, value: Type, source: ast.expr | None) -> None:
        match target:
            case ast.Name(id=name):
                self._assign(self._scope, name, value)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                if isinstance(source, ast.Tuple | ast.List) and len(source.elts) == len(targets):
                    for inner, part in zip(targets, source.elts, strict=True):
                        self._target(inner, self._expression(part), part)
                else:
                    for inner in targets:
                        self._target(inner, types.of_element(value), None)
            case _:
                self._expression(target)

    def _loop(self, target: ast.expr, iterable: ast.expr) -> None:
        """Join the types that iterating `iterable` gives to the names in `target`."""
        if (
            isinstance(iterable, ast.Call)
            and isinstance(iterable.func, ast.Name)
            and isinstance(target, ast.Tuple)
        ):
            name, arguments = iterable.func.id, iterable.args
            if name == "enumerate" and len(target.elts) == 2 and arguments:
                self._expression(iterable)
                self._target(
                    target.elts[0],
                    COUNT if len(arguments) == 1 and not iterable.keywords else types.ANY_NUMBER,
                    None,
                )
                self._loop(target.elts[1], arguments[0])
                return
            if name == "zip" and len(target.elts) == len(arguments):
                self._expression(iterable)
                for inner, argument in zip(target.elts, arguments, strict=True):
                    self._loop(inner, argument)
                return
        self._target(target, self._element(iterable), None)

    def _element(self, iterable: ast.expr) -> Type:
        container = self._expression(iterable)
        match iterable:
            case ast.Call(func=ast.Name(id="range"), args=arguments):
                bits = max((self._expression(argument).bits for argument in arguments), default=0)
                return types.limited(types.INT, bits + 1)
            case ast.Call(func=ast.Name(id="reversed" | "sorted"), args=[inner, *_]):
                return self._element(inner)
            case ast.GeneratorExp(elt=element) | ast.ListComp(elt=element):
                return self._expression(element)
            case ast.Tuple(elts=elements) | ast.List(elts=elements) if elements:
                return join(*(self._expression(element) for element in elements))
            case ast.Name(id=name) if name in self._elements and isinstance(
                self._module.constants[name], ast.Tuple | ast.List
            ):
                return self._elements[name]
        return types.of_element(container)

    # expressions

    def _expression(self, node: ast.expr) -> Type:
        found = self._evaluate(node)
        self.expressions[node] = found
        return found

    def _evaluate(self, node: ast.expr) -> Type:
        match node:
            case ast.Constant(value=value):
                return _of_constant(value)
            case ast.Name(id=name):
                return self._name(name)
            case ast.Attribute(value=ast.Name(id="math"), attr=name):
                return REAL if name in grammar.MATH_CONSTANTS else Type(types.OPAQUE)
            case ast.Attribute(value=base, attr=name):
                return types.of_attribute(self._expression(base), name)
            case ast.Subscript(value=base, slice=index):
                return self._subscript(base, index)
            case ast.BinOp(left=left, op=op, right=right):
                return types.arithmetic(
                    op, self._expression(left), self._expression(right), integer_literal(right)
                )
            case ast.UnaryOp(op=op, operand=operand):
                inner = self._expression(operand)
                number = types.limited((inner.kinds & types.NUMBER) or types.NUMBER, inner.bits + 1)
                return TRUTH if isinstance(op, ast.Not) else number
            case ast.Compare(left=left, comparators=comparators):
                for operand in (left, *comparators):
                    self._expression(operand)
                return TRUTH
            case ast.BoolOp(values=values):
                return join(*[self._expression(value) for value in values])
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self._expression(test)
                return join(self._expression(body), self._expression(orelse))
            case ast.NamedExpr(target=target, value=value):
                found = self._expression(value)
                self._target(target, found, value)
                return found
            case ast.Lambda(args=arguments, body=body):
                self._unknown_parameters(arguments)
                self._expression(body)
                return Type(types.OPAQUE)
            case ast.Call():
                return self._call(node)
        return self._collection(node)

    def _collection(self, node: ast.expr) -> Type:
        match node:
            case ast.Tuple(elts=elements):
                parts = [self._expression(element) for element in elements]
                if any(not part.kinds for part in parts):
                    return NOTHING
                if all(part.within(types.ATOMIC) for part in parts):
                    return Type(types.FLAT, max((part.bits for part in parts), default=0))
                return CONTAINER
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                for generator in node.generators:
                    self._loop(generator.target, generator.iter)
                    for test in generator.ifs:
                        self._expression(test)
                for element in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
                    self._expression(element)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self._expression(child)
        return CONTAINER

    def _name(self, name: str) -> Type:
        if (self._scope, name) in self._variables:
            return self._variables[self._scope, name]
        if name in self._module.constants or name in self._module.math_names:
            return self._variables.get(("", name), ANYTHING)
        return NOTHING if name in self._bound.get(self._scope, ()) else Type(types.OPAQUE)

    def _subscript(self, base: ast.expr, index: ast.expr) -> Type:
        container = self._expression(base)
        if isinstance(index, ast.Slice):
            for bound in (index.lower, index.upper, index.step):
                if bound is not None:
                    self._expression(bound)
            return container
        self._expression(index)
        if isinstance(base, ast.Name) and base.id in self._elements:
            return self._elements[base.id]
        return types.of_element(container)

    # calls

    def _call(self, node: ast.Call) -> Type:
        arguments = [self._expression(argument) for argument in node.args]
        for keyword in node.keywords:
            self._keyword(node, keyword)
        if isinstance(node.func, ast.Name) and node.func.id in ORDERING and len(node.args) == 1:
            self._compared[node] = self._ordered_by(node)
        match node.func:
            case ast.Name(id=name) if name in self._known:
                return self._own(name, node, arguments)
            case ast.Name(id=name) if name in grammar.BUILTINS:
                return self._builtin(name, node, arguments)
            case ast.Name(id=name) if name in types.VIEW:
                return Type(types.VIEW[name])
            case ast.Name(id=name) if name in self._module.math_names:
                return _of_math(name)
            case ast.Attribute(value=ast.Name(id="math"), attr=name):
                return _of_math(name)
            case ast.Attribute(value=base, attr=name):
                self._expression(base)
                if name == "random":
                    return REAL
            case _:
                self._expression(node.func)
        return ANYTHING

    def _keyword(self, node: ast.Call, keyword: ast.keyword) -> None:
        """The key function of a builtin that orders sees the elements of its argument; other values stand as they are."""
        value = keyword.value
        if keyword.arg == "key" and isinstance(node.func, ast.Name) and node.func.id in ORDERING:
            seen = self._element(node.args[0]) if len(node.args) == 1 else ANYTHING
            if isinstance(value, ast.Name) and value.id in self._known:
                for parameter in self._known[value.id].args.args[:1]:
                    self._assign(self._scope_of(value.id), parameter.arg, seen)
            elif isinstance(value, ast.Lambda) and len(value.args.args) == 1:
                self._assign(self._scope, value.args.args[0].arg, seen)
                for part in (*value.args.defaults, value.body):
                    self._expression(part)
                self.expressions[value] = Type(types.OPAQUE)
                return
        self._expression(value)

    def _ordered_by(self, node: ast.Call) -> Type:
        key = next((keyword.value for keyword in node.keywords if keyword.arg == "key"), None)
        match key:
            case None | ast.Constant(value=None):
                return self._element(node.args[0])
            case ast.Lambda(body=body):
                return self.expressions[body]
            case ast.Name(id=name) if name in self._known:
                return self._result(name)
        return ANYTHING

    def _own(self, name: str, node: ast.Call, arguments: list[Type]) -> Type:
        scope = self._scope_of(name)
        parameters = [argument.arg for argument in self._known[name].args.args]
        for parameter, value in zip(parameters, arguments, strict=False):
            self._assign(scope, parameter, value)
        for keyword in node.keywords:
            if keyword.arg in parameters:
                self._assign(scope, keyword.arg, self.expressions[keyword.value])
        return self._result(name)

    def _scope_of(self, function: str) -> str:
        """Nested functions share the scope of the top-level one they are in."""
        return self._module.owner.get(function, function)

    def _result(self, name: str) -> Type:
        """What a known function returns; None too where it may end without `return`."""
        none = Type(types.NONE) if falls_through(self._known[name].body) else NOTHING
        return join(self._returns.get(name, NOTHING), none)

    def _builtin(self, name: str, node: ast.Call, arguments: list[Type]) -> Type:
        match name:
            case "len":
                return COUNT
            case "bool" | "any" | "all":
                return TRUTH
            case "float":
                return REAL
            case "abs" if arguments:
                return types.limited(
                    (arguments[0].kinds & types.NUMBER) or types.NUMBER, arguments[0].bits + 1
                )
            case "int" if arguments:
                return Type(
                    types.INT, arguments[0].bits if arguments[0].within(types.INT) else types.UNBOUNDED
                )
            case "round":
                return types.ANY_NUMBER
            case "sum":
                return types.ANY_NUMBER
            case "range":
                return Type(types.OPAQUE)
            case "pow" if len(arguments) == 2:
                return types.arithmetic(ast.Pow(), arguments[0], arguments[1])
            case "min" | "max":
                extra = [
                    self.expressions[keyword.value] for keyword in node.keywords if keyword.arg == "default"
                ]
                return join(
                    *(
                        arguments
                        if len(arguments) > 1
                        else [self._element(argument) for argument in node.args]
                    ),
                    *extra,
                )
        return CONTAINER if name in {"list", "tuple", "sorted", "dict", "set", "frozenset"} else ANYTHING


def integer_literal(node: ast.expr) -> int | None:
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def _of_constant(value: object) -> Type:
    if isinstance(value, bool | int):
        return Type(types.INT, int(value).bit_length())
    if isinstance(value, float):
        return REAL
    return Type(types.STR if isinstance(value, str) else types.NONE)


def _of_math(name: str) -> Type:
    if name in _TRUTH_MATH:
        return TRUTH
    return Type(types.INT, types.UNBOUNDED) if name in _INTEGER_MATH else REAL
