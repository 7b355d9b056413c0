"""The policy API and language in words, generated from the code that defines them, for prompts."""

import inspect
import io
import tokenize
from collections.abc import Iterator
from functools import cache

from autopoiesis.policy import api, toolkit
from autopoiesis.policy.api import Kind
from autopoiesis.policy.language import grammar

_VIEWS: dict[Kind, tuple[str, ...]] = {
    "dispatch": ("Request", "Replica", "DispatchContext", "Workflow"),
    "plan": ("PlanContext", "ModelDemand", "GpuPool"),
}
_ARGUMENTS = {"request": "Request", "ctx": "DispatchContext", "replicas": "list of Replica"}


def fields(view: str) -> Iterator[tuple[str, str]]:
    """(name, meaning) of each field of a view, read from the comments behind them."""
    tokens = list(tokenize.generate_tokens(io.StringIO(inspect.getsource(api.VIEWS[view])).readline))
    name = ""
    for before, dot, token in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if before.string == "self" and dot.string == ".":
            name = token.string
        elif token.type == tokenize.COMMENT and name:
            yield name, token.string.lstrip("# ")
            name = ""


@cache
def api_reference(kind: Kind) -> str:
    """Entry points, views with every field, and answers of one kind."""
    lines = ["Functions (plain module-level `def`s; all required unless said otherwise):"]
    for name, parameters in api.FUNCTIONS[kind].items():
        optional = "" if name in api.REQUIRED[kind] else "   # optional"
        lines.append(f"- def {name}({', '.join(parameters)}){optional}")
    if kind == "dispatch":
        lines += [
            "prioritize returns a finite number; the queue of a model is served lowest first and re-keyed as requests age.",
            "route returns Assign(replica.index), HOLD (keep queued, offered again when room may have appeared) or REJECT (429).",
            "REJECT counts as a missed objective and is honoured only within the operator's maximum reject share.",
            "`replicas` is never empty. Times are seconds, sizes tokens. A policy keeps no state between calls.",
        ]
    else:
        lines += [
            "schedule returns a list of Replicas(model, gpu, tp, count, batch=0, role='mixed', share=0.0).",
            "`model` is a model's index, `gpu` a type's label. At the first step, and when GPUs of the plan have gone, schedule is",
            "called without asking should_reschedule. No state is kept: what was is in ctx.plan, ctx.last and ctx.history.",
            "ctx.toolkit has:",
            *(f"- {line}" for line in _calls(toolkit.Toolkit)),
            "A program from ctx.toolkit.milp() has:",
            *(f"- {line}" for line in _calls(toolkit.Milp)),
            "Its solution has status, objective and x (one value per variable).",
        ]
    for view in _VIEWS[kind]:
        lines += ["", f"{view}:"]
        lines += [f"- {name}: {meaning}" for name, meaning in fields(view)]
    return "\n".join(lines)


def _calls(protocol: type) -> Iterator[str]:
    """`name(parameters): what it does`, each on one line."""
    for name, value in vars(protocol).items():
        if not name.startswith("_"):
            parameters = (
                str(inspect.signature(value)).replace("self, ", "").replace("self", "").replace("'", "")
            )
            yield f"{name}{parameters}: {' '.join((inspect.getdoc(value) or '').split())}"


@cache
def language_reference() -> str:
    """What a policy may be written with."""
    refused = sorted({refusal.construct for refusal in grammar.REFUSED.values()})
    return "\n".join(
        [
            "A subset of Python; every loop iteration and call costs fuel, so keep decisions short.",
            f"Statements: {'; '.join(grammar.STATEMENTS.values())}.",
            f"Expressions: {'; '.join(grammar.EXPRESSIONS.values())}.",
            (
                f"Builtins: {', '.join(sorted(grammar.BUILTINS))}. From math: {', '.join(grammar.MATH_FUNCTIONS)}, "
                f"{', '.join(grammar.MATH_CONSTANTS)} (as math.sqrt and so on, no import needed)."
            ),
            *(f"Methods of a {kind}: {', '.join(table)}." for kind, table in grammar.METHODS.items()),
            f"Not in the language: {', '.join(refused)}.",
            "The file begins with a docstring of one paragraph (the idea) and `API = 1`; constants in capitals may follow.",
        ]
    )
