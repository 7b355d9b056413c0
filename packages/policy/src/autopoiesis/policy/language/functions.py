"""How the functions of a module are used and how they end."""

from __future__ import annotations

import ast
from typing import Final

from autopoiesis.policy.language.module import Module

ORDERING: Final = frozenset({"max", "min", "sorted"})
"""Builtins with a key function."""


def escaping(module: Module) -> set[str]:
    """Functions used as values, so that calls of them cannot all be seen."""
    found: set[str] = set()
    names = module.known
    for function in module.functions.values():
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
        known = {id(part) for call in calls for part in _known_uses(call)}
        found |= {
            node.id
            for node in ast.walk(function)
            if isinstance(node, ast.Name) and node.id in names and id(node) not in known
        }
    return found


def _known_uses(node: ast.Call) -> list[ast.expr]:
    """The function called, and the key function of a builtin that orders."""
    ordering = isinstance(node.func, ast.Name) and node.func.id in ORDERING
    return [node.func, *(keyword.value for keyword in node.keywords if ordering and keyword.arg == "key")]


def falls_through(body: list[ast.stmt]) -> bool:
    """Whether control may reach the end of `body`."""
    last = body[-1]
    if isinstance(last, ast.If):
        return not last.orelse or falls_through(last.body) or falls_through(last.orelse)
    return not isinstance(last, ast.Return)
