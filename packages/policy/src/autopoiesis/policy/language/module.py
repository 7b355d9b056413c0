"""The top level of a policy: its docstring, imports, constants and functions, and the rules for them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from autopoiesis.policy.api import API_VERSION, FUNCTIONS, Kind
from autopoiesis.policy.language import grammar
from autopoiesis.policy.language.report import Problems

ENTRY_POINTS = frozenset(name for functions in FUNCTIONS.values() for name in functions)


def kind_of(source: str) -> Kind | None:
    """The kind whose functions `source` defines; None if it defines none, those of both, or does not parse."""
    try:
        defined = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    kinds = [kind for kind, functions in FUNCTIONS.items() if defined & functions.keys()]
    return kinds[0] if len(kinds) == 1 else None


class Module:
    """What the top level of `tree` defines. Rules that are broken are noted in `problems`."""

    def __init__(self, tree: ast.Module, problems: Problems) -> None:
        self.functions: dict[str, ast.FunctionDef] = {}
        self.constants: dict[str, ast.expr] = {}
        self.math_names: set[str] = set()
        self.nested: dict[str, ast.FunctionDef] = {}
        """Nested functions with names of their own; empty before `nested.adopt`."""
        self.owner: dict[str, str] = {}
        """The top-level function that each nested one is in."""
        self._problems = problems
        for position, node in enumerate(tree.body):
            if position == 0 and is_docstring(node):
                continue
            self._statement(node)

    @property
    def names(self) -> set[str]:
        return {*self.functions, *self.constants, *self.math_names}

    @property
    def known(self) -> dict[str, ast.FunctionDef]:
        """Every function whose uses can be told from its name."""
        return {**self.functions, **self.nested}

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.FunctionDef):
            if self._define(node, node.name):
                self.functions[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node)
        elif (
            isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
        ):
            self._constant(node.targets[0], node.value)
        elif isinstance(node, ast.Assign) and (pairs := _side_by_side(node)):
            self._constants(pairs)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            self._constant(node.target, node.value)
        else:
            refusal = grammar.REFUSED.get(type(node).__name__)
            what = refusal.construct if refusal else f"`{type(node).__name__.lower()}`"
            instead = refusal.instead if refusal else "the statement inside a function"
            if isinstance(node, ast.Assign):
                instead = "one name, or as many names as values: `A = 1` and `B = 2`"
            self._problems.add(
                node,
                "module",
                f"{what} at the top level; only a docstring, `NAME = constant`, `A, B = 1, 2` and `def` go there",
                instead,
            )

    def _define(self, node: ast.AST, name: str) -> bool:
        if name in self.names:
            self._problems.add(node, "shadow", f"`{name}` is defined twice", "another name")
            return False
        return check_name(node, name, self._problems, allow_entry=isinstance(node, ast.FunctionDef))

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        names = [alias.name for alias in node.names]
        if any(alias.asname for alias in node.names):
            self._problems.add(node, "import", "imports cannot be renamed", "the import without `as`")
        elif isinstance(node, ast.Import) and names == ["math"]:
            return
        elif isinstance(node, ast.ImportFrom) and node.module == "math" and not node.level:
            known = {*grammar.MATH_FUNCTIONS, *grammar.MATH_CONSTANTS}
            for name in names:
                if name in known:
                    if self._define(node, name):
                        self.math_names.add(name)
                else:
                    self._problems.add(
                        node,
                        "import",
                        f"`math.{name}` is not in the language",
                        "one of the listed `math` names",
                    )
        elif (
            isinstance(node, ast.ImportFrom)
            and node.module in {"autopoiesis.policy", "autopoiesis.policy.api"}
            and not node.level
        ):
            for name in names:
                if name not in grammar.IMPORTABLE:
                    self._problems.add(
                        node,
                        "import",
                        f"`{name}` is not a name of the policy API",
                        f"one of {', '.join(sorted(grammar.IMPORTABLE))}",
                    )
        else:
            refusal = grammar.REFUSED["Import"]
            self._problems.add(node, "import", f"this import is refused: {refusal.why}", refusal.instead)

    def _constant(self, target: ast.Name, value: ast.expr) -> None:
        if target.id == "API":
            if not (
                isinstance(value, ast.Constant) and type(value.value) is int and value.value == API_VERSION
            ):
                self._problems.add(
                    value,
                    "api",
                    f"this policy is for another API; the current one is {API_VERSION}",
                    f"`API = {API_VERSION}`",
                )
            return
        if self._define(target, target.id):
            self._constant_value(value)
            self.constants[target.id] = value

    def _constants(self, pairs: list[tuple[ast.Name, ast.expr]]) -> None:
        """`A, B = 1, 2`: no value knows a name of the same line, as in Python."""
        for _, value in pairs:
            self._constant_value(value)
        for target, value in pairs:
            if self._define(target, target.id):
                self.constants[target.id] = value

    def _constant_value(self, node: ast.expr) -> None:
        match node:
            case ast.Constant():
                check_literal(node, self._problems)
            case ast.Name():
                if node.id not in self.constants and node.id not in self.math_names - set(
                    grammar.MATH_FUNCTIONS
                ):
                    self._problems.add(
                        node,
                        "constant",
                        f"`{node.id}` is not an earlier constant",
                        "constants made of literals and earlier constants",
                    )
            case ast.Attribute(value=ast.Name(id="math")):
                if node.attr not in grammar.MATH_CONSTANTS:
                    self._problems.add(
                        node,
                        "constant",
                        f"`math.{node.attr}` is not a constant of the language",
                        "`math.inf`, `math.pi`, `math.e`",
                    )
            case ast.UnaryOp() | ast.BinOp() | ast.Tuple() | ast.List() | ast.Dict() | ast.Set():
                self._parts(node)
            case ast.Call(func=func) if _constant_call(func) and not node.keywords:
                for argument in node.args:
                    self._constant_value(argument)
            case _:
                self._problems.add(
                    node,
                    "constant",
                    "a constant of the file is made of literals, `math` and earlier constants only",
                    "the computation inside a function",
                )

    def _parts(self, node: ast.expr) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.MatMult):
                refusal = grammar.REFUSED["MatMult"]
                self._problems.add(
                    node, "node", f"{refusal.construct} is not in the language", refusal.instead
                )
            elif isinstance(child, ast.expr):
                self._constant_value(child)
        if isinstance(node, ast.Dict) and None in node.keys:
            self._problems.add(
                node, "node", "`**` unpacking is not in the language", "the entries themselves"
            )
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            check_no_formatting(node, self._problems)


def _side_by_side(node: ast.Assign) -> list[tuple[ast.Name, ast.expr]]:
    """The pairs of `A, B = 1, 2`; none for any other assignment."""
    target, value = node.targets[0], node.value
    if len(node.targets) > 1 or not isinstance(target, ast.Tuple) or not isinstance(value, ast.Tuple):
        return []
    names = [name for name in target.elts if isinstance(name, ast.Name) and name.id != "API"]
    return (
        list(zip(names, value.elts, strict=True)) if len(names) == len(target.elts) == len(value.elts) else []
    )


def _constant_call(func: ast.expr) -> bool:
    match func:
        case ast.Name(id="float"):
            return True
        case ast.Attribute(value=ast.Name(id="math"), attr=name):
            return name in grammar.MATH_FUNCTIONS
    return False


def is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def check_name(node: ast.AST, name: str, problems: Problems, *, allow_entry: bool = False) -> bool:
    """Whether a policy may bind `name`."""
    if "__" in name or not name.isascii():
        problems.add(
            node,
            "name",
            f"`{name}` is not a name a policy may use",
            "plain ASCII names without double underscores",
        )
    elif name in grammar.RESERVED:
        problems.add(
            node, "shadow", f"`{name}` is a name of the language", f"`{name}_` or a more telling name"
        )
    elif name in ENTRY_POINTS and not allow_entry:
        problems.add(node, "shadow", f"`{name}` names a function of the policy API", "another name")
    else:
        return True
    return False


def check_literal(node: ast.Constant, problems: Problems) -> None:
    value = node.value
    if value is None or isinstance(value, bool | float):
        return
    if isinstance(value, int):
        if value >= grammar.INT_LITERAL_LIMIT:
            problems.add(
                node,
                "literal",
                "integer literals are smaller than 2**63",
                "a float such as `1e30`, or `math.inf`",
            )
    elif isinstance(value, str):
        if len(value) > grammar.STRING_LIMIT:
            problems.add(
                node,
                "literal",
                f"string literals have at most {grammar.STRING_LIMIT} characters",
                "a short label",
            )
    else:
        problems.add(
            node,
            "literal",
            f"{type(value).__name__} literals are not in the language",
            "numbers, strings, True, False or None",
        )


def check_no_formatting(node: ast.BinOp, problems: Problems) -> None:
    if isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
        problems.add(
            node,
            "string",
            "strings cannot be formatted with `%`",
            "labels compared with `==`, or tuples as keys",
        )


def names_bound(function: ast.AST) -> Iterator[str]:
    """Every name that `function`, or anything nested in it, binds, its own name excepted."""
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef) and node is not function:
            yield node.name
