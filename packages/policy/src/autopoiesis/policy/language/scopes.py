"""Names that are read before they have a value, where the text shows that this cannot have been meant.

An assignment anywhere in a nested function makes the name that function's own, as in all of Python: `n += 1` does not
see the `n` around it and faults. Looked for are names that a function only ever augments, and names of an enclosing
function that a nested one both assigns and reads without having surely assigned them before.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Final

from autopoiesis.policy.language.report import Problems

_COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def check_scopes(function: ast.FunctionDef, problems: Problems, around: frozenset[str] = frozenset()) -> None:
    """Note such reads in `function` and in what is nested in it; `around` are the names of the functions it is in."""
    here = list(_here(function.body))
    bound = _assigned(here)
    parameters = {argument.arg for argument in function.args.args}
    augmented = {name for name, otherwise in bound.items() if not otherwise}
    doubtful = (bound.keys() & around | augmented) - parameters
    if doubtful:
        _Reads(doubtful, around, problems).block(function.body, frozenset())
    for node in here:
        if isinstance(node, ast.FunctionDef):
            check_scopes(node, problems, around | bound.keys() | parameters)


class _Reads:
    """Follows the statements of one function with the set of `names` that surely have a value."""

    def __init__(self, names: set[str], around: frozenset[str], problems: Problems) -> None:
        self._names = names
        self._around = around
        self._problems = problems

    def block(self, statements: list[ast.stmt], known: frozenset[str]) -> frozenset[str]:
        for statement in statements:
            known = self._statement(statement, known)
        return known

    def _statement(self, node: ast.stmt, known: frozenset[str]) -> frozenset[str]:
        match node:
            case ast.FunctionDef(name=name):
                return known | {name}
            case ast.If(test=test, body=body, orelse=orelse):
                known = self._read(test, known)
                return self.block(body, known) & self.block(orelse, known)
            case ast.For(target=target, iter=iterable, body=body, orelse=orelse):
                known = self._read(iterable, known)
                self.block(body, self._read(target, known))
                return self.block(orelse, known)
            case ast.While(test=test, body=body, orelse=orelse):
                known = self._read(test, known)
                self.block(body, known)
                return self.block(orelse, known)
            case ast.AugAssign(target=ast.Name(id=name) as target, value=value):
                return self._read(value, self._need(target, name, known))
            case ast.Return() | ast.Break() | ast.Continue():
                self._read(node, known)
                return known | self._names
        return self._read(node, known)

    def _read(self, node: ast.AST, known: frozenset[str]) -> frozenset[str]:
        """`known` after `node`: names that it assigns come after those that it reads, save for those of `:=`."""
        after = known | {one.target.id for one in ast.walk(node) if isinstance(one, ast.NamedExpr)}
        for name in _free(node):
            after = self._need(name, name.id, after)
        return after | set(_bound([node]))

    def _need(self, node: ast.AST, name: str, known: frozenset[str]) -> frozenset[str]:
        if name not in self._names or name in known:
            return known
        if name in self._around:
            message = f"`{name}` has no value here: assigning it makes it this function's own, apart from the `{name}` around it"
            advice = "return the new value, or keep it in a list: `state[0] += 1`"
        else:
            message = f"`{name}` has no value before this"
            advice = f"`{name} = ...` first"
        self._problems.add(node, "scope", message, advice)
        return known | {name}


def _here(nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """`nodes` and what is below them, without the insides of nested functions and comprehensions."""
    pending: list[ast.AST] = [*nodes]
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.Lambda, *_COMPREHENSIONS)):
            pending.extend(ast.iter_child_nodes(node))


def _bound(nodes: Sequence[ast.AST]) -> Iterator[str]:
    for node in _here(nodes):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef):
            yield node.name


def _assigned(here: list[ast.AST]) -> dict[str, bool]:
    """The names that a function's own nodes bind, and whether anything but an augmented assignment does."""
    found: dict[str, bool] = {}
    augmented = {id(node.target) for node in here if isinstance(node, ast.AugAssign)}
    for node in here:
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                found[node.id] = found.get(node.id, False) or id(node) not in augmented
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = True
    return found


def _free(node: ast.AST) -> Iterator[ast.Name]:
    """Names that `node` reads, in the order of the text, without those that a comprehension or lambda in it binds."""
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load):
            yield node
        return
    own: set[str] = set()
    if isinstance(node, ast.Lambda):
        own = {argument.arg for argument in node.args.args}
    elif isinstance(node, _COMPREHENSIONS):
        own = set(_bound([generator.target for generator in node.generators]))
    for child in ast.iter_child_nodes(node):
        yield from (name for name in _free(child) if name.id not in own)
