"""The language and what policies see, in words: parts of docs/policy-language.md, and what a language model is told.

Generated from the tables that the verifier uses and the code that defines the views.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final

from autopoiesis.policy import api, toolkit
from autopoiesis.policy.api import Kind
from autopoiesis.policy.fields import FIELDS
from autopoiesis.policy.language import grammar, prose
from autopoiesis.policy.language.compiler import DEFAULT_FUEL, compile_policy
from autopoiesis.policy.language.cost import SHORT

_SCORE: Final = """\
def score(request, r):
    load = (r.running + r.waiting) / max(r.max_running, 1)
    cached = r.prefix_hit_tokens / max(request.prompt_tokens, 1)
    return load + r.predicted_ttft * (1.0 - cached)
"""
_LEAST: Final = """\
def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    return Assign(min(replicas, key=lambda r: score(request, r)).index)


"""
_LIMITS: Final = {
    "bytes of source": grammar.SOURCE_LIMIT,
    "syntax nodes": grammar.NODE_LIMIT,
    "nesting of syntax": grammar.DEPTH_LIMIT,
    "functions at the top level": grammar.FUNCTION_LIMIT,
    "characters in a string literal": grammar.STRING_LIMIT,
    "characters in a computed string": grammar.TEXT_LIMIT,
    "bits of a computed integer": grammar.INT_BITS,
    "nested calls of recursive functions": grammar.CALL_DEPTH,
    "nesting of containers that are compared or keys": grammar.VALUE_DEPTH,
}


@cache
def language(*kinds: Kind) -> str:
    """How policies of these kinds are written, and what they cost."""
    limits = "\n".join(f"| {what} | {limit:,} |" for what, limit in _LIMITS.items())
    parts = [
        _shape(kinds),
        "## What may be written\n\n"
        + _bullets([*grammar.STATEMENTS.values(), *grammar.EXPRESSIONS.values()]),
        prose.NOTES.format(
            consumers=_names(sorted(grammar.CONSUMERS)),
            taken=_names((*grammar.CONSTRUCTORS, *grammar.VERDICTS)),
            entries=_names(name for table in api.FUNCTIONS.values() for name in table),
        ),
        _table("### Builtins", "name", grammar.BUILTINS),
        *(_table(f"### Methods of {kind}", "method", methods) for kind, methods in grammar.METHODS.items()),
        f"### `math`\n\n{_names(grammar.MATH_FUNCTIONS)}; {_names(grammar.MATH_CONSTANTS)}.\n",
        _refused(),
        prose.METER.format(**DEFAULT_FUEL, **_fuel_of_example(), short=SHORT, limits=limits),
    ]
    return "\n".join(parts)


@cache
def interface(kind: Kind) -> str:
    """What policies of this kind are given, and what becomes of their answers."""
    own = [prose.DISPATCH] if kind == "dispatch" else [_plan(), _toolkit()]
    return "\n".join([prose.SEES.format(kind=kind), *map(_view, api.VIEWS_OF[kind]), *own])


def _shape(kinds: Sequence[Kind]) -> str:
    functions = [
        f"| {kind} | `{name}({', '.join(parameters)})` | {'yes' if name in api.REQUIRED[kind] else 'no'} | {prose.RETURNS[name]} |"
        for kind in kinds
        for name, parameters in api.FUNCTIONS[kind].items()
    ]
    return prose.SHAPE.format(
        version=api.API_VERSION,
        functions="\n".join(functions),
        assign=_signature(api.Assign),
        replicas=_signature(api.Replicas),
    )


def _fuel_of_example() -> dict[str, object]:
    """What `_SCORE` costs, and how far a call's fuel goes with it."""
    policy = compile_policy(_LEAST + _SCORE, "dispatch")

    def fuel(count: int) -> int:
        policy.route(api.Request(), tuple(api.Replica() for _ in range(count)), api.DispatchContext())
        return policy.fuel_used

    per_replica = fuel(2) - fuel(1)
    fixed = fuel(1) - per_replica
    return {
        "example": _SCORE,
        "per_replica": per_replica,
        "fixed": fixed,
        "hundred": fuel(100),
        "most": (policy.fuel - fixed) // per_replica,
        "square": math.isqrt(policy.fuel // per_replica),
    }


def _plan() -> str:
    rows = (f"| `{name}` | {kind} | {meaning} |" for name, (kind, meaning) in prose.REPLICAS.items())
    return prose.PLAN.format(replicas="\n".join(rows))


def _signature(cls: type) -> str:
    return ", ".join(
        str(parameter).split(":")[0] + _default(parameter)
        for parameter in inspect.signature(cls).parameters.values()
    )


def _default(parameter: inspect.Parameter) -> str:
    return "" if parameter.default is inspect.Parameter.empty else f"={parameter.default!r}"


def _bullets(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(title: str, head: str, rows: dict[str, str]) -> str:
    body = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in rows.items())
    return f"{title}\n\n| {head} | |\n|---|---|\n{body}\n"


def _refused() -> str:
    rows = {(refusal.construct, refusal.why, refusal.instead): None for refusal in grammar.REFUSED.values()}
    body = "\n".join(f"| {construct} | {why} | {instead} |" for construct, why, instead in rows)
    return f"## What may not, and why\n\nWhatever is not listed above is refused. Among it:\n\n| not | because | instead |\n|---|---|---|\n{body}\n"


def _view(name: str) -> str:
    about = (inspect.getdoc(api.VIEWS[name]) or "").splitlines()[0]
    body = "\n".join(
        f"| `{field}` | {info.type.replace('|', 'or')} | {info.meaning} |"
        for field, info in FIELDS[name].items()
    )
    return f"### {name}\n\n{about}\n\n| field | type | meaning |\n|---|---|---|\n{body}\n"


def _toolkit() -> str:
    parts = ["## The toolkit of plan policies\n\n`ctx.toolkit`, trusted and outside the language.\n"]
    for cls in (toolkit.Toolkit, toolkit.Milp, toolkit.Solution):
        rows = {}
        for name, value in vars(cls).items():
            if not name.startswith("_"):
                signature = (
                    ""
                    if isinstance(value, property)
                    else str(inspect.signature(value)).replace("self, ", "").replace("self", "")
                )
                rows[name + signature.replace("|", "or").replace("'", "")] = inspect.getdoc(value) or ""
        parts.append(_table(f"### {cls.__name__}", "call" if cls is not toolkit.Solution else "field", rows))
    return "\n".join(parts)
