"""What makes two policies the same: our own serialisation of the linked syntax tree, and its hash.

Formatting, comments, docstrings, annotations, imports and the order of definitions do not count. `ast.dump` would: it
changes between Python versions.
"""

from __future__ import annotations

import ast
import hashlib
import json
from typing import Any

from autopoiesis.policy.api import API_VERSION, Kind
from autopoiesis.policy.language.module import Module, is_docstring
from autopoiesis.policy.language.report import Problems

_SKIPPED = frozenset(
    {"ctx", "type_comment", "annotation", "returns", "decorator_list", "kind", "simple", "type_params"}
)


def policy_hash(policy: str | ast.Module, kind: Kind) -> str:
    """SHA-256, in hexadecimal, of a linked and verified policy with its kind and the API version.

    Raises:
        SyntaxError: `policy` is text that does not parse.
    """
    tree = ast.parse(policy) if isinstance(policy, str) else policy
    return hashlib.sha256(canonical(tree, kind).encode("utf-8", "surrogatepass")).hexdigest()


def canonical(tree: ast.Module, kind: Kind) -> str:
    """The serialisation that is hashed: JSON of node names and their meaningful fields, definitions by name."""
    module = Module(tree, Problems())
    definitions = {
        **{name: ["=", plain(value)] for name, value in module.constants.items()},
        **{name: ["math"] for name in module.math_names},
        **{name: plain(function) for name, function in module.functions.items()},
    }
    return json.dumps(
        [API_VERSION, kind, sorted(definitions.items())], ensure_ascii=False, separators=(",", ":")
    )


def plain(node: Any) -> Any:
    match node:
        case ast.Constant(value=value):
            return _constant(value)
        case ast.AnnAssign(target=target, value=value):
            return ["Assign", [plain(target)], plain(value)]
        case ast.AST():
            return [
                type(node).__name__,
                *(_field(node, name) for name in node._fields if name not in _SKIPPED),
            ]
        case list():
            return [plain(item) for item in node]
    return node


def _field(node: ast.AST, name: str) -> Any:
    value = getattr(node, name, None)
    if (
        name == "body"
        and isinstance(value, list)
        and value
        and isinstance(node, ast.FunctionDef)
        and is_docstring(value[0])
    ):
        value = value[1:] or [ast.Pass()]
    return plain(value)


def _constant(value: object) -> list[str]:
    text = value.hex() if isinstance(value, float) else repr(value) if not isinstance(value, str) else value
    return [type(value).__name__, text]
