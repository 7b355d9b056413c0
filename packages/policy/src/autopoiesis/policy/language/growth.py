"""Loops that could run longer than the length they were charged for, because their list grows under way.

A loop charges for its length when it starts. If its body, or anything called from there, appends to the list it runs
over, Python goes on with what was added. So whatever lengthens a list pays, per element, for one more pass of every
loop that may be under way over it: the sum of the weights of all loops that do not run over something of fixed length.
"""

from __future__ import annotations

import ast
from typing import Final

from autopoiesis.policy.language import grammar, types
from autopoiesis.policy.language.cost import Costs
from autopoiesis.policy.language.infer import Inference
from autopoiesis.policy.language.module import Module

_FRESH: Final = frozenset({"dict", "frozenset", "list", "range", "set", "sorted", "tuple"})
_FIXED_KINDS: Final = sum(types.VIEWS.values()) | types.BOUNDED


class Growth:
    """Which loops of a module may be lengthened, and what one more element of a list then costs."""

    def __init__(self, module: Module, inference: Inference, costs: Costs) -> None:
        self._constants = module.constants
        self._types = inference
        self._costs = costs
        nodes = (node for function in module.functions.values() for node in ast.walk(function))
        self.per_element = sum(self._weight(node) for node in nodes)

    def _weight(self, node: ast.AST) -> int:
        match node:
            case ast.For():
                return 0 if self.fixed(node.iter) else self._costs.iteration(node)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return self._of_generators(node.generators, node.elt)
            case ast.DictComp():
                return self._of_generators(node.generators, node.key, node.value)
            case ast.Call(func=ast.Name(id="min" | "max"), args=[items], keywords=keywords) if not self.fixed(
                items
            ):
                keys = [keyword.value for keyword in keywords if keyword.arg == "key"]
                return 1 + sum(self._costs.of_key(key) or 0 for key in keys)
        return 0

    def _of_generators(self, generators: list[ast.comprehension], *elements: ast.expr) -> int:
        return sum(
            self._costs.generator(generators, position, elements)
            for position, generator in enumerate(generators)
            if not self.fixed(generator.iter)
        )

    def fixed(self, node: ast.expr) -> bool:
        """Whether nothing can lengthen what iterating `node` runs over."""
        if self._types.of(node).within(_FIXED_KINDS):
            return True
        match node:
            case ast.Name(id=name):
                return name in self._constants
            case ast.Call(func=ast.Name(id=name), args=arguments) if name in grammar.ITERATORS:
                return all(map(self.fixed, arguments))
            case ast.Call(func=ast.Name(id=name)):
                return name in _FRESH
            case ast.Call(func=ast.Attribute(attr=name)):
                return name in grammar.DICT_VIEWS
            case ast.GeneratorExp(generators=generators):
                return all(self.fixed(generator.iter) for generator in generators)
            case ast.Subscript(slice=ast.Slice()):
                return True
        displays = (ast.Tuple, ast.List, ast.ListComp, ast.DictComp, ast.Dict)
        return isinstance(node, displays)
