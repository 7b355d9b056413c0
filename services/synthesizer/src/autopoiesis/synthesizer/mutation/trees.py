"""Finding the places of a policy's syntax tree that can be changed."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

REPLICA = "replica"
"""The name that vocabulary terms use; renamed to a site's own variable."""


@dataclass(slots=True)
class Site:
    """An expression that scores one replica. `sign` is 1 where lower is better, -1 where higher is."""

    holder: ast.AST
    field: str
    index: int | None
    variable: str
    sign: int

    @property
    def expression(self) -> ast.expr:
        value = getattr(self.holder, self.field)
        found: ast.expr = value if self.index is None else value[self.index]
        return found

    @expression.setter
    def expression(self, new: ast.expr) -> None:
        if self.index is None:
            setattr(self.holder, self.field, new)
        else:
            getattr(self.holder, self.field)[self.index] = new


def function(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    return None


def after_docstring(body: list[ast.stmt]) -> int:
    """Where the first statement behind a docstring stands."""
    first = body[0] if body else None
    is_text = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    return 1 if is_text else 0


def sites(tree: ast.Module) -> list[Site]:
    """Scores of replicas in `route` and its helpers, in order: `key=lambda` of min, max, sorted; results that are compared in a loop."""
    return [*_key_sites(tree), *_loop_sites(tree)]


def _key_sites(tree: ast.Module) -> Iterator[Site]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id not in {"min", "max", "sorted"}:
            continue
        for keyword in node.keywords:
            match keyword:
                case ast.keyword(arg="key", value=ast.Lambda(args=ast.arguments(args=[only])) as key) if (
                    _reads(key.body, only.arg)
                ):
                    yield from _parts(key, "body", only.arg, -1 if node.func.id == "max" else 1)


def _parts(holder: ast.AST, field: str, variable: str, sign: int) -> Iterator[Site]:
    """The expression itself, or each element of a tuple that is compared element by element."""
    value = getattr(holder, field)
    if isinstance(value, ast.Tuple):
        for index in range(len(value.elts)):
            yield Site(value, "elts", index, variable, sign)
    else:
        yield Site(holder, field, None, variable, sign)


def _loop_sites(tree: ast.Module) -> Iterator[Site]:
    for loop in ast.walk(tree):
        if not (isinstance(loop, ast.For) and isinstance(loop.target, ast.Name)):
            continue
        compared = _compared(loop)
        for node in ast.walk(loop):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in compared and _reads(
                    value, loop.target.id
                ):
                    yield from _parts(node, "value", loop.target.id, compared[name])


def _compared(loop: ast.For) -> dict[str, int]:
    """Names that are compared in an `if` of the loop, and which way round they win."""
    found: dict[str, int] = {}
    for node in ast.walk(loop):
        match node:
            case ast.If(
                test=ast.Compare(left=ast.Name(id=left), ops=[ast.Lt() | ast.LtE()], comparators=[ast.Name()])
            ):
                found[left] = 1
            case ast.If(
                test=ast.Compare(left=ast.Name(id=left), ops=[ast.Gt() | ast.GtE()], comparators=[ast.Name()])
            ):
                found[left] = -1
    return found


def _reads(node: ast.AST, variable: str) -> bool:
    return any(
        isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == variable
        for n in ast.walk(node)
    )


def free_names(node: ast.AST) -> set[str]:
    """Names read in an expression and not bound within it."""
    read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    bound = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return read - bound - {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}


def numbers(tree: ast.AST) -> list[ast.Constant]:
    """Constants that weigh or bound something: not indices, not counts of a `range`, not parts of an answer or the API line."""
    fixed: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(slice=part):
                fixed |= _ids(part)
            case ast.Call(func=ast.Name(id="range" | "round" | "Assign" | "enumerate")):
                fixed |= _ids(node)
            case ast.Call(func=ast.Name(id="max"), args=[_, ast.Constant() as floor]):
                fixed.add(id(floor))  # keeps a divisor above zero
            case ast.Assign(targets=[ast.Name(id="API")]):
                fixed |= _ids(node)
            case ast.BinOp(
                op=ast.LShift() | ast.RShift() | ast.BitAnd() | ast.BitOr() | ast.BitXor() | ast.Mod()
            ):
                fixed |= _ids(node)  # hashing and bit tricks: any other number is nonsense
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and type(node.value) in {int, float} and id(node) not in fixed
    ]


def _ids(node: ast.AST) -> set[int]:
    return {id(n) for n in ast.walk(node)}


class Rename(ast.NodeTransformer):
    """Rename one variable, in place."""

    def __init__(self, before: str, after: str) -> None:
        self._before, self._after = before, after

    def visit_Name(self, node: ast.Name) -> ast.Name:
        if node.id == self._before:
            node.id = self._after
        return node


def addends(expression: ast.expr) -> list[tuple[ast.BinOp, str]]:
    """Operands of the sum that `expression` is, as (sum, side)."""
    found: list[tuple[ast.BinOp, str]] = []
    pending: list[ast.expr] = [expression]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            found += [(node, "left"), (node, "right")]
            pending += [node.left, node.right]
    return found
