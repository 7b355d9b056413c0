"""Nested functions under names of their own, so that what is known of functions can be known of them too."""

from __future__ import annotations

import ast
from collections import Counter

from autopoiesis.policy.language.module import Module, names_bound


def adopt(module: Module) -> None:
    """Rename nested functions in place to names that no source can say, and note them in `module`.

    Only where nothing else in their top-level function binds the same name: then each use of it means this function.
    """
    for top, function in module.functions.items():
        bound = Counter(names_bound(function))
        inner = [
            node for node in ast.walk(function) if isinstance(node, ast.FunctionDef) and node is not function
        ]
        names = {node.name: f"{node.name}__{top}" for node in inner if bound[node.name] == 1}
        for node in inner:
            if node.name in names:
                node.name = names[node.name]
                module.nested[node.name] = node
                module.owner[node.name] = top
        for part in ast.walk(function):
            if isinstance(part, ast.Name):
                part.id = names.get(part.id, part.id)
