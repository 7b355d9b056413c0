"""The tables that define the language. The verifier, the meter and docs/policy-language.md all read these."""

from __future__ import annotations

import ast
from dataclasses import dataclass, fields
from typing import Final

from autopoiesis.policy import api, toolkit

SOURCE_LIMIT: Final = 32_768
"""Bytes of UTF-8 in one source."""
NODE_LIMIT: Final = 6_000
"""AST nodes in one policy."""
DEPTH_LIMIT: Final = 48
"""Nesting of the AST."""
FUNCTION_LIMIT: Final = 100
"""Top-level functions in one policy."""
STRING_LIMIT: Final = 200
"""Characters in one string literal outside docstrings."""
INT_LITERAL_LIMIT: Final = 2**63
"""Integer literals are smaller than this."""
INT_BITS: Final = 1024
"""Integers that a policy computes have at most this many bits."""
TEXT_LIMIT: Final = 1024
"""Characters in a string that a policy computes."""
CALL_DEPTH: Final = 48
"""Nested calls of recursive or stored functions."""
VALUE_DEPTH: Final = 32
"""Nesting of containers that are compared or used as keys."""

STATEMENTS: Final[dict[type[ast.AST], str]] = {
    ast.FunctionDef: "`def` with plain parameters and constant defaults, nested ones too",
    ast.Return: "`return`",
    ast.Assign: "assignment to names, tuples of names, and items of lists and dicts made in this call",
    ast.AnnAssign: "annotated assignment to a name; the annotation is ignored",
    ast.AugAssign: "`x += y` and its kin, on names and items",
    ast.For: "`for` over tuples, lists, dicts, `range`, `enumerate`, `zip`, `reversed`, with `else`",
    ast.While: "`while`, with `else`",
    ast.If: "`if`, `elif`, `else`",
    ast.Expr: "an expression for its effect, such as `xs.append(x)`",
    ast.Pass: "`pass`",
    ast.Break: "`break`",
    ast.Continue: "`continue`",
}

EXPRESSIONS: Final[dict[type[ast.AST], str]] = {
    ast.Constant: "numbers, strings as labels, `True`, `False`, `None`",
    ast.Name: "names of this function, this file and the language",
    ast.Attribute: "fields of views, methods listed below, names of `math`",
    ast.Subscript: "items `xs[i]`, `d[key]`, and slices",
    ast.Slice: "slices `xs[a:b]`, for reading",
    ast.Call: "calls of functions by name, and of listed methods",
    ast.keyword: "keyword arguments",
    ast.BoolOp: "`and`, `or`",
    ast.UnaryOp: "`not x`, `-x`, `+x`, `~x`",
    ast.BinOp: "`+ - * / // % ** << >> & | ^`",
    ast.Compare: "comparisons, also chained; `in` and `not in`; `is` with `None`, booleans, `HOLD` and `REJECT`",
    ast.IfExp: "`a if test else b`",
    ast.Lambda: "`lambda` with plain parameters",
    ast.NamedExpr: "`(x := value)` outside comprehensions and lambdas",
    ast.Tuple: "tuples",
    ast.List: "lists",
    ast.Dict: "dicts",
    ast.Set: "sets, for `in` and `len` only: their order differs from run to run",
    ast.ListComp: "list comprehensions",
    ast.SetComp: "set comprehensions",
    ast.DictComp: "dict comprehensions",
    ast.GeneratorExp: "generator expressions, directly in a call such as `sum(...)` or `min(...)`",
    ast.comprehension: "`for ... in ... if ...` inside a comprehension",
}

OPERATORS: Final[tuple[type[ast.AST], ...]] = (
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow,
    ast.LShift, ast.RShift, ast.BitOr, ast.BitXor, ast.BitAnd,
    ast.And, ast.Or, ast.Not, ast.USub, ast.UAdd, ast.Invert,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Is, ast.IsNot,
    ast.Load, ast.Store,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a construct is not in the language, and what to write instead."""

    construct: str
    why: str
    instead: str


REFUSED: Final[dict[str, Refusal]] = {
    "Import": Refusal("`import`", "only `math` and the policy API exist", "`import math`, or no import at all"),
    "ClassDef": Refusal("`class`", "a policy keeps no objects of its own", "tuples, dicts and functions"),
    "Try": Refusal("`try`", "a fault must reach the router, which falls back", "test before you compute, as in `x / y if y else 0.0`"),
    "TryStar": Refusal("`try` with `except*`", "a fault must reach the router, which falls back", "test before you compute"),
    "Raise": Refusal("`raise`", "a fault must come from the runtime", "`return REJECT` or a safe default"),
    "Assert": Refusal("`assert`", "a failed one would only fault the policy", "an `if` with a safe default"),
    "Global": Refusal("`global`", "a policy has no state between calls", "pass values as arguments"),
    "Nonlocal": Refusal("`nonlocal`", "it hides data flow from the verifier", "return the new value"),
    "Delete": Refusal("`del`", "it is not needed", "`d.pop(key)` or a new name"),
    "With": Refusal("`with`", "there is nothing to open", "plain statements"),
    "Match": Refusal("`match`", "class patterns read attributes", "`if` and `elif`"),
    "JoinedStr": Refusal("string formatting", "strings are labels only; formatting can reach attributes and fill memory", "compare labels, or use tuples as keys"),
    "Starred": Refusal("`*` unpacking", "it hides how many values there are", "name each value, or add lists with `+`"),
    "Yield": Refusal("`yield`", "a generator could outlive its metering", "build a list and return it"),
    "YieldFrom": Refusal("`yield from`", "a generator could outlive its metering", "build a list and return it"),
    "Await": Refusal("`await`", "a policy never waits", "plain code"),
    "AsyncFunctionDef": Refusal("`async def`", "a policy never waits", "`def`"),
    "AsyncFor": Refusal("`async for`", "a policy never waits", "`for`"),
    "AsyncWith": Refusal("`async with`", "a policy never waits", "plain statements"),
    "MatMult": Refusal("`@`", "there are no matrices", "a loop or `sum(x * y for x, y in zip(xs, ys))`"),
}  # fmt: skip

BUILTINS: Final[dict[str, str]] = {
    "abs": "absolute value",
    "all": "true if every element is",
    "any": "true if some element is",
    "bool": "truth of a value",
    "dict": "a new dict, from a dict or from pairs",
    "enumerate": "pairs of position and element, directly in a `for` or a call",
    "float": 'a number as float; also `float("inf")`',
    "frozenset": "like `set`",
    "int": "a number cut to an integer",
    "len": "number of elements",
    "list": "a new list",
    "max": "the largest; `key=`, `default=`",
    "min": "the smallest; `key=`, `default=`",
    "pow": "`x ** y`",
    "range": "integers from, to, step",
    "reversed": "elements backwards, directly in a `for` or a call",
    "round": "nearest integer, or to a constant number of digits",
    "set": "a new set, for `in` and `len` only",
    "sorted": "a new sorted list; `key=`, `reverse=`",
    "sum": "sum of numbers, from left to right",
    "tuple": "a new tuple",
    "zip": "elements in parallel, directly in a `for` or a call",
}

ITERATORS: Final = frozenset({"enumerate", "reversed", "zip"})
"""One-shot iterators: allowed only where they are consumed at once."""
CONSUMERS: Final = frozenset(
    {
        "all",
        "any",
        "dict",
        "enumerate",
        "frozenset",
        "list",
        "max",
        "min",
        "reversed",
        "set",
        "sorted",
        "sum",
        "tuple",
        "zip",
    }
)
"""Builtins whose positional arguments are iterated."""
KEYWORDS: Final[dict[str, frozenset[str]]] = {
    "enumerate": frozenset({"start"}),
    "max": frozenset({"key", "default"}),
    "min": frozenset({"key", "default"}),
    "sorted": frozenset({"key", "reverse"}),
    "sort": frozenset({"key", "reverse"}),
    "sum": frozenset({"start"}),
}

CONSTRUCTORS: Final[dict[str, tuple[str, ...]]] = {
    "Assign": tuple(field.name for field in fields(api.Assign)),
    "Replicas": tuple(field.name for field in fields(api.Replicas)),
}
VERDICTS: Final = ("HOLD", "REJECT")
IMPORTABLE: Final = frozenset({*CONSTRUCTORS, *VERDICTS, *api.VIEWS, "API_VERSION"})
"""What `from autopoiesis.policy import ...` may name; views are for annotations only."""

METHODS: Final[dict[str, dict[str, str]]] = {
    "list": {
        "append": "add at the end",
        "extend": "add all elements of another list or tuple",
        "insert": "add at a position",
        "pop": "remove and return, the last by default",
        "remove": "remove the first equal element",
        "clear": "remove all",
        "sort": "sort in place; `key=`, `reverse=`",
        "reverse": "reverse in place",
        "index": "position of the first equal element",
        "count": "number of equal elements",
        "copy": "a shallow copy",
    },
    "dict": {
        "get": "value or default",
        "items": "pairs, directly in a `for` or a call",
        "keys": "keys, directly in a `for` or a call",
        "values": "values, directly in a `for` or a call",
        "setdefault": "value, set first if missing",
        "pop": "remove and return",
        "update": "take all entries of another dict",
        "clear": "remove all",
        "copy": "a shallow copy",
    },
    "set": {"add": "add an element", "discard": "remove an element if there"},
    "str": {
        "startswith": "whether it starts with a label",
        "endswith": "whether it ends with a label",
        "lower": "in lower case",
        "upper": "in upper case",
    },
}
METHOD_NAMES: Final = frozenset(name for table in METHODS.values() for name in table)
DICT_VIEWS: Final = frozenset({"items", "keys", "values"})

MATH_FUNCTIONS: Final = [
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cbrt",
    "ceil",
    "copysign",
    "cos",
    "cosh",
    "degrees",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "fabs",
    "floor",
    "fmod",
    "gamma",
    "gcd",
    "hypot",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "lgamma",
    "log",
    "log10",
    "log1p",
    "log2",
    "pow",
    "radians",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
]
MATH_CONSTANTS: Final = ("e", "inf", "nan", "pi", "tau")

FIELDS: Final[dict[str, frozenset[str]]] = {
    **{view: frozenset(vars(cls)["__slots__"]) for view, cls in api.VIEWS.items()},
    **{name: frozenset(names) for name, names in CONSTRUCTORS.items()},
}
"""Readable attributes by object."""
CALLABLE_FIELDS: Final = frozenset({"random"})
"""Fields that exist to be called: `ctx.random()`."""


def _members(*protocols: type) -> tuple[frozenset[str], frozenset[str]]:
    public = [
        (name, value) for cls in protocols for name, value in vars(cls).items() if not name.startswith("_")
    ]
    attributes = frozenset(name for name, value in public if isinstance(value, property))
    return frozenset(name for name, _ in public) - attributes, attributes


TOOLKIT_METHODS, TOOLKIT_ATTRIBUTES = _members(toolkit.Toolkit, toolkit.Milp, toolkit.Solution)

READABLE: Final = frozenset().union(*FIELDS.values()) | TOOLKIT_ATTRIBUTES
CALLABLE: Final = METHOD_NAMES | CALLABLE_FIELDS | TOOLKIT_METHODS
RESERVED: Final = frozenset(BUILTINS) | frozenset(CONSTRUCTORS) | frozenset(VERDICTS) | {"math", "API"}
"""Names that a policy may not define."""
