"""Turns the expressions of a verified policy into ones that pay for what they do.

The source cannot say names that start with two underscores; the code written here calls the guards of `runtime` by
such names. Types decide where a guard is needless.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from autopoiesis.policy.language import grammar, types
from autopoiesis.policy.language.cost import Costs
from autopoiesis.policy.language.growth import Growth
from autopoiesis.policy.language.infer import Inference
from autopoiesis.policy.language.infer_expressions import integer_literal
from autopoiesis.policy.language.module import Module

_Node = TypeVar("_Node", bound=ast.AST)

GUARDS: Final[dict[type[ast.operator], tuple[str, tuple[str, ...]]]] = {
    ast.Add: ("add", ()),
    ast.Sub: ("sub", ()),
    ast.Mult: ("mul", ()),
    ast.Pow: ("power", ()),
    ast.Mod: ("mod", ()),
    ast.LShift: ("shift", ()),
    ast.RShift: ("bits", ("shift_right",)),
    ast.BitAnd: ("bits", ("bit_and",)),
    ast.BitOr: ("bits", ("bit_or",)),
    ast.BitXor: ("bits", ("bit_xor",)),
}
IN_PLACE: Final[dict[type[ast.operator], tuple[str, tuple[str, ...]]]] = {
    **GUARDS,
    ast.Add: ("iadd", ()),
    ast.Mult: ("imul", ()),
}
QUOTIENTS: Final = {ast.Div: "divide", ast.FloorDiv: "floor_divide"}
_CONSUMING: Final = {
    "all": "raw_all", "any": "raw_any", "list": "raw_list", "tuple": "raw_tuple", "sum": "total", "set": "make_set",
    "frozenset": "make_frozenset",
}  # fmt: skip
GUARDED_CALL: Final = 10
"""Fuel of going through `Runtime.guard`, beside what the function itself costs."""
_KEYED: Final = frozenset({"get", "setdefault", "add", "discard"})
_FREE_METHODS: Final = frozenset({"append", "startswith", "endswith", "lower", "upper"})


class ExpressionMeter(ast.NodeTransformer):
    """Rewrites the expressions of one module. Expects a tree that the verifier accepted."""

    def __init__(self, module: Module, inference: Inference, costs: Costs, growth: Growth) -> None:
        self._module = module
        self._types = inference
        self._costs = costs
        self._growth = growth
        self._direct = {*module.names, *module.nested, *grammar.CONSTRUCTORS}
        self._lengthening = False
        """Whether a loop over a list that may grow could be under way where this code runs."""

    def _parameters(self, arguments: ast.arguments) -> ast.arguments:
        plain = [at(argument, ast.arg(argument.arg, None, None)) for argument in arguments.args]
        return ast.arguments(
            [], plain, None, [], [], None, [self.visit(default) for default in arguments.defaults]
        )

    @contextmanager
    def _anywhere(self, *, unless: bool = False) -> Iterator[None]:
        """Code that may run while a growing list is iterated."""
        before = self._lengthening
        self._lengthening = before or not unless
        yield
        self._lengthening = before

    # operators

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        exponent = integer_literal(node.right)
        if types.needs_guard(node.op, self._types.of(node.left), self._types.of(node.right), exponent):
            return self._guarded(GUARDS, node, left, right)
        return at(node, ast.BinOp(left, node.op, right))

    def _guarded(
        self, table: Any, node: ast.BinOp | ast.AugAssign, left: ast.expr, right: ast.expr
    ) -> ast.expr:
        name, extra = table[type(node.op)]
        return call_guard(name, node, *map(ast.Constant, extra), left, right)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        operands = [node.left, *node.comparators]
        new: list[ast.expr] = [self.visit(operand) for operand in operands]
        if isinstance(node.ops[0], ast.In | ast.NotIn):
            return self._membership(node, *new)
        for position, op in enumerate(node.ops):
            pair = operands[position : position + 2]
            if not isinstance(op, ast.Is | ast.IsNot) and not any(map(self._bounded, pair)):
                new[position] = call_guard("weigh", operands[position], new[position])
        return at(node, ast.Compare(new[0], node.ops, new[1:]))

    def _membership(self, node: ast.Compare, value: ast.expr, items: ast.expr) -> ast.expr:
        match node.comparators[0]:
            case ast.Tuple(elts=listed) | ast.List(elts=listed) | ast.Set(elts=listed):
                if self._bounded(node.left) and all(isinstance(element, ast.Constant) for element in listed):
                    return at(node, ast.Compare(value, node.ops, node.comparators))
        found = call_guard("contains", node, value, items)
        return at(node, ast.UnaryOp(ast.Not(), found)) if isinstance(node.ops[0], ast.NotIn) else found

    def _bounded(self, node: ast.expr) -> bool:
        return self._types.of(node).within(types.BOUNDED)

    def _key(self, node: ast.expr) -> ast.expr:
        """`node`, weighed before it is hashed unless its type says that hashing it is cheap."""
        new = self.visit(node)
        cheap = self._bounded(node) and self._types.of(node).bits <= types.HOST_BITS
        return new if cheap else call_guard("weigh", node, new)

    # displays, items and attributes

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id == "math":
            return at(node, ast.Name(f"__math_{node.attr}", ast.Load()))
        return at(node, ast.Attribute(self.visit(node.value), node.attr, ast.Load()))

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        base = self.visit(node.value)
        if isinstance(node.slice, ast.Slice):
            bounds = (node.slice.lower, node.slice.upper, node.slice.step)
            return call_guard(
                "piece", node, base, *[self.visit(bound) if bound else ast.Constant(None) for bound in bounds]
            )
        return at(node, ast.Subscript(base, self._key(node.slice), node.ctx))

    def visit_Set(self, node: ast.Set) -> ast.expr:
        return call_guard(
            "make_set", node, ast.Tuple([self.visit(element) for element in node.elts], ast.Load())
        )

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        keys = [self._key(key) for key in node.keys if key is not None]
        return at(node, ast.Dict([*keys], [self.visit(value) for value in node.values]))

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        return call_guard(
            "guard", node, self._bare(node), ast.Constant(GUARDED_CALL + self._costs.expression(node.body))
        )

    def _bare(self, node: ast.expr) -> ast.expr:
        """A key function whose calls are already paid for."""
        if isinstance(node, ast.Lambda):
            with self._anywhere():
                return at(node, ast.Lambda(self._parameters(node.args), self.visit(node.body)))
        return self.visit(node)  # type: ignore[no-any-return]

    # iteration

    def visit_ListComp(self, node: ast.ListComp) -> ast.expr:
        with self._anywhere():
            return at(node, ast.ListComp(self.visit(node.elt), self._generators(node, 0, node.elt)))

    def visit_SetComp(self, node: ast.SetComp) -> ast.expr:
        with self._anywhere():
            listed = ast.ListComp(self.visit(node.elt), self._generators(node, 4, node.elt))
        return call_guard("make_set", node, listed)

    def visit_DictComp(self, node: ast.DictComp) -> ast.expr:
        with self._anywhere():
            generators = self._generators(node, 2, node.key, node.value)
            return at(node, ast.DictComp(self._key(node.key), self.visit(node.value), generators))

    def _generators(self, node: Any, extra: int, *elements: ast.expr) -> list[ast.comprehension]:
        result = []
        last = len(node.generators) - 1
        for position, own in enumerate(node.generators):
            weight = self._costs.generator(node.generators, position, elements) + (
                extra if position == last else 0
            )
            tests = [self.visit(test) for test in own.ifs]
            result.append(ast.comprehension(own.target, self._consumed(own.iter, weight), tests, 0))
        return result

    def _consumed(self, node: ast.expr, weight: int) -> ast.expr:
        """An expression that is iterated on the spot, charging `weight` per element."""
        iterator = self._iterator(node, weight)
        return (
            iterator
            if iterator is not None
            else call_guard("loop", node, self._sized(node), ast.Constant(weight))
        )

    def _free(self, node: ast.expr) -> ast.expr:
        """An expression that is iterated on the spot, whose elements are paid for already."""
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in grammar.ITERATORS
        ):
            arguments = [self._free(argument) for argument in node.args]
            return at(node, ast.Call(node.func, arguments, self._keywords(node)))
        return self.visit(node)  # type: ignore[no-any-return]

    def _sized(self, node: ast.expr) -> ast.expr:
        """A sized expression in a place where dict views are allowed too."""
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in grammar.DICT_VIEWS
        ):
            return at(
                node,
                ast.Call(
                    at(node.func, ast.Attribute(self.visit(node.func.value), node.func.attr, ast.Load())),
                    [],
                    [],
                ),
            )
        return self.visit(node)  # type: ignore[no-any-return]

    def _iterator(self, node: ast.expr, weight: int) -> ast.expr | None:
        """A generator or an iterator builtin with its charges inside; None if `node` is neither."""
        if isinstance(node, ast.GeneratorExp):
            with self._anywhere():
                element = self.visit(node.elt)
                return at(node, ast.GeneratorExp(element, self._generators(node, weight, node.elt)))
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in grammar.ITERATORS
        ):
            name = node.func.id
            arguments = [self._consumed(node.args[0], weight + 1)] if node.args else []
            arguments += [
                self._consumed(one, 1) if name == "zip" else self.visit(one) for one in node.args[1:]
            ]
            keywords = [ast.keyword(keyword.arg, self.visit(keyword.value)) for keyword in node.keywords]
            return at(node, ast.Call(ast.Name(name, ast.Load()), arguments, keywords))
        return None

    def _passed(self, node: ast.expr) -> ast.expr:
        """An argument that its callee charges for if it is sized."""
        iterator = self._iterator(node, 1)
        return iterator if iterator is not None else self._sized(node)

    # calls

    def visit_Call(self, node: ast.Call) -> ast.expr:
        match node.func:
            case ast.Name(id=name) if name in grammar.BUILTINS:
                return self._builtin(node, name)
            case ast.Name(id=name) if name in self._direct:
                return self._plain_call(node, ast.Name(name, ast.Load()))
            case ast.Attribute(value=ast.Name(id="math")):
                return self._plain_call(node, self.visit(node.func))
            case ast.Attribute():
                return self._method(node, node.func)
        arguments = [self.visit(argument) for argument in node.args]
        return at(
            node, ast.Call(guard_name("call"), [self.visit(node.func), *arguments], self._keywords(node))
        )

    def _plain_call(self, node: ast.Call, function: ast.expr) -> ast.expr:
        return at(
            node, ast.Call(function, [self.visit(argument) for argument in node.args], self._keywords(node))
        )

    def _keywords(self, node: ast.Call) -> list[ast.keyword]:
        return [ast.keyword(keyword.arg, self.visit(keyword.value)) for keyword in node.keywords]

    def _method(self, node: ast.Call, func: ast.Attribute) -> ast.expr:
        name = func.attr
        if name == "append" and self._lengthening and self._growth.per_element:
            arguments = [self.visit(argument) for argument in node.args]
            return call_guard("append", node, self.visit(func.value), *arguments)
        if (
            name in grammar.METHOD_NAMES
            and name not in _FREE_METHODS
            and not (name == "pop" and not node.args)
        ):
            receiver = self.visit(func.value)
            if name in _KEYED and node.args:
                arguments = [self._key(node.args[0]), *map(self.visit, node.args[1:])]
                return at(node, ast.Call(at(func, ast.Attribute(receiver, name, ast.Load())), arguments, []))
            arguments = [self._passed(argument) for argument in node.args]
            return at(
                node,
                ast.Call(
                    guard_name("method"), [ast.Constant(name), receiver, *arguments], self._keywords(node)
                ),
            )
        return self._plain_call(node, at(func, ast.Attribute(self.visit(func.value), name, ast.Load())))

    def _builtin(self, node: ast.Call, name: str) -> ast.expr:
        if name in _CONSUMING and len(node.args) >= 1:
            items = self._consumed(node.args[0], 4 if name in {"set", "frozenset"} else 1)
            return at(
                node,
                ast.Call(
                    guard_name(_CONSUMING[name]),
                    [items, *map(self.visit, node.args[1:])],
                    self._keywords(node),
                ),
            )
        if name in {"min", "max", "sorted"}:
            return self._order(node, name)
        if name == "int" and len(node.args) == 1 and self._types.of(node.args[0]).within(types.NUMBER):
            return self._plain_call(node, guard_name("raw_int"))
        if name == "round":
            return self._plain_call(node, guard_name("raw_round"))
        if name in grammar.CONSUMERS:
            return at(
                node,
                ast.Call(
                    ast.Name(name, ast.Load()),
                    [self._passed(argument) for argument in node.args],
                    self._keywords(node),
                ),
            )
        return self._plain_call(node, ast.Name(name, ast.Load()))

    def _order(self, node: ast.Call, name: str) -> ast.expr:
        key = next((keyword.value for keyword in node.keywords if keyword.arg == "key"), None)
        if len(node.args) == 1:
            cost = self._costs.of_key(key)
            if cost is not None and self._types.compared(node).within(types.BOUNDED):
                keywords = [
                    ast.keyword(
                        keyword.arg,
                        self._bare(keyword.value) if keyword.arg == "key" else self.visit(keyword.value),
                    )
                    for keyword in node.keywords
                ]
                return at(
                    node,
                    ast.Call(
                        guard_name(f"raw_{name}"), [self._candidates(node.args[0], name, cost)], keywords
                    ),
                )
        elif key is None and len(node.args) > 1 and all(map(self._bounded, node.args)):
            return self._plain_call(node, guard_name(f"raw_{name}"))
        arguments = [
            self._passed(argument) if len(node.args) == 1 else self.visit(argument) for argument in node.args
        ]
        keywords = [ast.keyword(keyword.arg, self._charging(keyword)) for keyword in node.keywords]
        return at(node, ast.Call(ast.Name(name, ast.Load()), arguments, keywords))

    def _charging(self, keyword: ast.keyword) -> ast.expr:
        """A keyword's value; a function of the file that does not charge for itself is made to."""
        value = keyword.value
        if isinstance(value, ast.Name) and value.id in set(self._module.known) - self._costs.guarded:
            cost = GUARDED_CALL + self._costs.of_function[value.id]
            return call_guard("guard", value, ast.Name(value.id, ast.Load()), ast.Constant(cost))
        return self.visit(value)  # type: ignore[no-any-return]

    def _candidates(self, items: ast.expr, name: str, cost: int) -> ast.expr:
        if name != "sorted":
            return self._consumed(items, 1 + cost)
        iterator = self._iterator(items, 1)
        listed = (
            self._sized(items)
            if iterator is None
            else at(items, ast.Call(guard_name("raw_list"), [iterator], []))
        )
        return call_guard("loop_sorting", items, listed, ast.Constant(1 + cost))


def guard_name(name: str) -> ast.Name:
    return ast.Name(f"__{name}", ast.Load())


def call_guard(name: str, place: ast.AST, *arguments: ast.expr) -> ast.Call:
    return at(place, ast.Call(guard_name(name), list(arguments), []))


def at(place: ast.AST, node: _Node) -> _Node:
    return ast.copy_location(node, place)
