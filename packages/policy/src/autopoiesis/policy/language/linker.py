"""Linking: a policy that lacks functions of its kind takes them from its named parent."""

from __future__ import annotations

import ast

from autopoiesis.policy import api
from autopoiesis.policy.api import Kind
from autopoiesis.policy.language.errors import LinkError, VerificationError
from autopoiesis.policy.language.identity import plain
from autopoiesis.policy.language.module import Module
from autopoiesis.policy.language.report import Problems
from autopoiesis.policy.language.verifier import check


def link(source: str, kind: Kind, parent_source: str | None = None) -> str:
    """`source` with the functions it lacks appended from `parent_source`.

    Comes with the helpers and constants those functions use; where a name clashes with a different definition, the
    parent's is renamed. A source that lacks nothing comes back unchanged. Optional functions are inherited too.

    Raises:
        VerificationError: either text is not a policy of this kind.
        LinkError: a required function is missing and no parent provides it.
    """
    own = _module(source, kind)
    missing = [name for name in api.FUNCTIONS[kind] if name not in own.functions]
    required = [name for name in missing if name in api.REQUIRED[kind]]
    if parent_source is None:
        if required:
            raise LinkError(f"{' and '.join(required)} missing; define them or name a parent that has them")
        return source
    parent = _module(parent_source, kind)
    absent = [name for name in required if name not in parent.functions]
    if absent:
        raise LinkError(f"{' and '.join(absent)} missing here and in the parent")
    wanted = [name for name in missing if name in parent.functions]
    return source if not wanted or not required else _appended(source, own, parent, wanted)


def _module(source: str, kind: Kind) -> Module:
    tree, report = check(source, kind)
    if tree is None or not report.ok:
        raise VerificationError(report)
    return Module(tree, Problems())


def _appended(source: str, own: Module, parent: Module, wanted: list[str]) -> str:
    needed = _closure(parent, wanted)
    names: dict[str, str] = {}
    for name in needed:
        if name in own.names and not _same(own, parent, name):
            names[name] = _free(f"{name}_inherited", own.names | parent.names | set(names.values()))
    parts = [source.rstrip("\n")]
    imports = sorted(name for name in needed if name in parent.math_names and name not in own.math_names)
    if imports:
        parts.append(f"from math import {', '.join(imports)}")
    for name, value in parent.constants.items():
        if name in needed and (name in names or name not in own.names):
            parts.append(f"{names.get(name, name)} = {ast.unparse(_renamed(value, names))}")
    for name, function in parent.functions.items():
        if name in needed and (name in names or name not in own.names):
            parts.append("\n" + ast.unparse(_renamed(function, names)))
    return "\n\n".join(parts) + "\n"


def _closure(module: Module, wanted: list[str]) -> set[str]:
    found: set[str] = set()
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        definition: ast.AST | None = module.functions.get(name) or module.constants.get(name)
        if definition is not None:
            used = {node.id for node in ast.walk(definition) if isinstance(node, ast.Name)}
            pending.extend(used & module.names)
    return found


def _same(own: Module, parent: Module, name: str) -> bool:
    """Whether both mean the same by `name`, so that one definition serves."""
    return all(
        _definition(own, used) == _definition(parent, used) is not None for used in _closure(parent, [name])
    )


def _definition(module: Module, name: str) -> object:
    if name in module.math_names:
        return "math"
    found = module.functions.get(name) or module.constants.get(name)
    return None if found is None else plain(found)


def _free(name: str, taken: set[str]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}{number}", number + 1
    return candidate


class _Renamer(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.copy_location(ast.Name(self._names.get(node.id, node.id), node.ctx), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.name = self._names.get(node.name, node.name)
        return node


def _renamed(node: ast.AST, names: dict[str, str]) -> ast.AST:
    return _Renamer(names).visit(node) if names else node
