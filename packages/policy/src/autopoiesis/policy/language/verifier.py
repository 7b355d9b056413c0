"""Is this text a policy? Every rule is checked, and every problem reported, before anything is compiled."""

from __future__ import annotations

import ast
import warnings

from autopoiesis.policy import api
from autopoiesis.policy.api import Kind
from autopoiesis.policy.language import grammar
from autopoiesis.policy.language.check import FunctionChecker
from autopoiesis.policy.language.module import Module
from autopoiesis.policy.language.report import Problems, Report
from autopoiesis.policy.language.scopes import check_scopes


def parse(source: str, problems: Problems) -> ast.Module | None:
    """The syntax tree within the size limits, or None after noting why not."""
    try:
        size = len(source.encode())
    except UnicodeEncodeError:
        problems.add(None, "syntax", "the source has lone surrogates, so it is not text")
        return None
    if size > grammar.SOURCE_LIMIT:
        problems.add(
            None, "size", f"the source has {size} bytes; the limit is {grammar.SOURCE_LIMIT}", "say less"
        )
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source, feature_version=(3, 11))
    except SyntaxError as error:
        problems.at(error.lineno or 0, error.offset or 0, "syntax", f"{error.msg}")
        return None
    except (ValueError, MemoryError, RecursionError) as error:
        problems.add(
            None, "syntax", f"the parser gave up: {str(error) or 'too deeply nested'}", "simpler expressions"
        )
        return None
    return tree if _within_limits(tree, problems) else None


def _within_limits(tree: ast.Module, problems: Problems) -> bool:
    count = 0
    pending: list[tuple[ast.AST, int]] = [(tree, 0)]
    while pending:
        node, depth = pending.pop()
        count += 1
        if depth > grammar.DEPTH_LIMIT:
            problems.add(
                node,
                "size",
                f"nested deeper than {grammar.DEPTH_LIMIT} levels",
                "helper functions or intermediate names",
            )
            return False
        pending.extend((child, depth + 1) for child in ast.iter_child_nodes(node))
    if count > grammar.NODE_LIMIT:
        problems.add(
            None, "size", f"{count} syntax nodes; the limit is {grammar.NODE_LIMIT}", "a shorter policy"
        )
        return False
    return True


def verify(source: str, kind: Kind, *, complete: bool = False) -> Report:
    """Check `source` against every rule of the language.

    `complete` also requires all functions its kind needs, as a linked policy has. Never raises for what `source` holds.
    """
    return check(source, kind, complete=complete)[1]


def check(source: str, kind: Kind, *, complete: bool = False) -> tuple[ast.Module | None, Report]:
    """`verify`, and the tree if it parsed."""
    if kind not in api.KINDS:
        raise ValueError(f"unknown policy kind {kind!r}; kinds are {', '.join(api.KINDS)}")
    problems = Problems()
    tree = parse(source, problems)
    if tree is not None:
        module = Module(tree, problems)
        if len(module.functions) > grammar.FUNCTION_LIMIT:
            problems.add(
                None,
                "size",
                f"{len(module.functions)} functions; the limit is {grammar.FUNCTION_LIMIT}",
                "fewer",
            )
        for function in module.functions.values():
            FunctionChecker(module, problems).function(function)
            check_scopes(function, problems)
        _entry_points(module, kind, problems, complete=complete)
        if not problems.found:
            _compiles(tree, problems)
    return tree, Report(kind, tuple(sorted(set(problems.found))))


def _compiles(tree: ast.Module, problems: Problems) -> None:
    """What parses may still be no program: `break` outside a loop, a parameter named twice, too many nested blocks."""
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(tree, "<policy>", "exec", dont_inherit=True)
    except SyntaxError as error:
        problems.at(error.lineno or 0, error.offset or 0, "syntax", f"{error.msg}")


def _entry_points(module: Module, kind: Kind, problems: Problems, *, complete: bool) -> None:
    wanted = api.FUNCTIONS[kind]
    if not any(name in module.functions for name in wanted):
        problems.add(
            None,
            "missing",
            f"a {kind} policy defines {_listing(wanted)}; none of them is here",
            f"`def {next(iter(wanted))}(...)`",
        )
    for other, functions in api.FUNCTIONS.items():
        for name in functions:
            if other != kind and name in module.functions:
                problems.add(
                    module.functions[name],
                    "kind",
                    f"`{name}` belongs to {other} policies, this is a {kind} policy",
                    "another name",
                )
    for name, parameters in wanted.items():
        function = module.functions.get(name)
        if function is None:
            if complete and name in api.REQUIRED[kind]:
                problems.add(
                    None,
                    "missing",
                    f"`{name}` is missing",
                    f"`def {name}({', '.join(parameters)})`, or name a parent that has it",
                )
        elif len(function.args.args) != len(parameters) or function.args.defaults:
            problems.add(
                function,
                "signature",
                f"`{name}` takes exactly ({', '.join(parameters)})",
                f"`def {name}({', '.join(parameters)}):`",
            )


def _listing(names: dict[str, tuple[str, ...]]) -> str:
    return " or ".join(f"`{name}`" for name in names)
