"""From source to something the dispatcher can call: verified, linked, metered, and checked on the way out."""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, Final, NoReturn

from autopoiesis.policy import api
from autopoiesis.policy.api import (
    DispatchContext,
    Kind,
    PlanContext,
    Replica,
    Replicas,
    Request,
    RouteDecision,
)
from autopoiesis.policy.language import decisions, grammar
from autopoiesis.policy.language.cost import Costs
from autopoiesis.policy.language.errors import OutOfFuel, PolicyFault, VerificationError
from autopoiesis.policy.language.growth import Growth
from autopoiesis.policy.language.identity import policy_hash
from autopoiesis.policy.language.infer import Inference
from autopoiesis.policy.language.linker import link
from autopoiesis.policy.language.meter import Meter
from autopoiesis.policy.language.module import Module
from autopoiesis.policy.language.nested import adopt
from autopoiesis.policy.language.report import Problems
from autopoiesis.policy.language.runtime import Runtime
from autopoiesis.policy.language.verifier import check

DEFAULT_FUEL: Final[dict[Kind, int]] = {"dispatch": 100_000, "plan": 50_000_000}
"""Fuel per call. One unit pays for about one elementary step and at most 64 bytes of new memory."""
_FILE: Final = "<policy>"
_RAW: Final = {
    "all": all,
    "any": any,
    "int": int,
    "list": list,
    "max": max,
    "min": min,
    "round": round,
    "sorted": sorted,
    "tuple": tuple,
}


class CompiledPolicy:
    """One policy, ready to be called. Not thread-safe: the meter belongs to one call at a time.

    Every call raises `OutOfFuel`, `PolicyFault` or `InvalidDecision` and nothing else for what the policy does.

    Attributes:
        kind: `dispatch` or `plan`.
        source: the linked source.
        hash: its identity (see `policy_hash`).
        title: its docstring, empty if it has none.
        reads: fields read per view; views it does not touch map to an empty set.
        functions: the entry points it has.
        fuel: the budget of one call.
        fuel_used: what the last call used.
    """

    def __init__(self, source: str, tree: ast.Module, kind: Kind, fuel: int) -> None:
        self.hash = policy_hash(tree, kind)  # before nested functions get names of their own
        module = Module(tree, Problems())
        adopt(module)
        inference = Inference(module, kind)
        costs = Costs(module)
        self.kind: Kind = kind
        self.source = source
        self.title = (ast.get_docstring(tree) or "").strip()
        self.reads = inference.reads()
        self.functions = frozenset(name for name in api.FUNCTIONS[kind] if name in module.functions)
        self.fuel = fuel
        self.fuel_used = 0
        growth = Growth(module, inference, costs)
        self._runtime = Runtime(growth.per_element)
        self._entry_cost = {
            name: 0 if name in costs.guarded else costs.of_function[name] for name in self.functions
        }
        self._namespace = self._execute(Meter(module, inference, costs, growth).transform(), module)

    def _execute(self, tree: ast.Module, module: Module) -> dict[str, Any]:
        with warnings.catch_warnings(action="ignore"):
            code = compile(tree, _FILE, "exec", dont_inherit=True)
        names = namespace(self._runtime, module)
        self._runtime.fuel = self.fuel
        try:
            exec(code, names)  # noqa: S102  the tree was verified and metered
        except Exception as error:
            self._fault(error)
        return names

    def __repr__(self) -> str:
        return f"CompiledPolicy({self.kind}, {self.hash[:12]}, {self.title.splitlines()[0] if self.title else 'untitled'!r})"

    def prioritize(self, request: Request, ctx: DispatchContext) -> float:
        """The request's key in its queue; lower goes first."""
        return decisions.check_priority(self._call("prioritize", request, ctx))

    def route(self, request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
        """Where the request goes now. `replicas` is best given as a tuple: anything else is copied into one."""
        offered = replicas if type(replicas) is tuple else tuple(replicas)
        return decisions.check_route(self._call("route", request, offered, ctx), len(offered))

    def place_decode(
        self, request: Request, replicas: Sequence[Replica], ctx: DispatchContext
    ) -> RouteDecision:
        """The second choice, when prefill is done. Only where `place_decode` is in `functions`."""
        offered = replicas if type(replicas) is tuple else tuple(replicas)
        return decisions.check_route(self._call("place_decode", request, offered, ctx), len(offered))

    def should_reschedule(self, ctx: PlanContext) -> bool:
        """Whether `schedule` should run at this monitoring step."""
        return decisions.check_reschedule(self._call("should_reschedule", ctx))

    def schedule(self, ctx: PlanContext) -> tuple[Replicas, ...]:
        """The fleet to have from now on."""
        return decisions.check_plan(self._call("schedule", ctx), ctx)

    def _call(self, name: str, *arguments: Any) -> Any:
        runtime = self._runtime
        runtime.depth = 0
        runtime.fuel = self.fuel - self._entry_cost[name]
        try:
            if runtime.fuel < 0:
                runtime.exhausted()
            return self._namespace[name](*arguments)
        except Exception as error:
            self._fault(error)
        finally:
            self.fuel_used = min(self.fuel, self.fuel - runtime.fuel)

    def _fault(self, error: Exception) -> NoReturn:
        line = 0
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == _FILE:
                line = trace.tb_lineno
            trace = trace.tb_next
        if isinstance(error, OutOfFuel):
            raise OutOfFuel(f"line {line}: more than {self.fuel} units of fuel") from None
        raise PolicyFault(_message(error), line) from None


def compile_policy(
    source: str, kind: Kind, *, parent: str | None = None, fuel: int | None = None
) -> CompiledPolicy:
    """Link `source` with the source of its parent, verify, meter and compile it.

    Args:
        source: the policy's text.
        kind: `dispatch` or `plan`.
        parent: source of the policy that missing functions come from.
        fuel: budget of one call, `DEFAULT_FUEL[kind]` if None.

    Raises:
        VerificationError: the text is not a policy of this kind; the report lists every problem.
        LinkError: a required function is missing here and in the parent.
        OutOfFuel, PolicyFault: computing the constants of the file failed.
    """
    linked = source if parent is None else link(source, kind, parent)
    tree, report = check(linked, kind, complete=True)
    if tree is None or not report.ok:
        raise VerificationError(report)
    return CompiledPolicy(linked, tree, kind, DEFAULT_FUEL[kind] if fuel is None else fuel)


def namespace(runtime: Runtime, module: Module) -> dict[str, Any]:
    """The globals of a compiled policy: the language's names, and the guards under names it cannot say."""
    guards = {
        f"__{name}": getattr(runtime, name)
        for name in dir(Runtime)
        if isinstance(getattr(Runtime, name), FunctionType)
    }
    builtins: dict[str, Callable[..., Any]] = {
        "abs": abs, "all": runtime.every, "any": runtime.some, "bool": bool, "dict": runtime.new_dict,
        "enumerate": enumerate, "float": float, "frozenset": runtime.new_frozenset, "int": runtime.integer,
        "len": len, "list": runtime.new_list, "max": runtime.maximum, "min": runtime.minimum, "pow": runtime.power,
        "range": range, "reversed": reversed, "round": runtime.rounded, "set": runtime.new_set, "sorted": runtime.ordered,
        "sum": runtime.sum, "tuple": runtime.new_tuple, "zip": zip,
    }  # fmt: skip
    return {
        "__builtins__": {},
        **{name: guard for name, guard in guards.items() if not name.startswith("___")},
        **{f"__raw_{name}": value for name, value in _RAW.items()},
        **{
            f"__math_{name}": getattr(math, name)
            for name in (*grammar.MATH_FUNCTIONS, *grammar.MATH_CONSTANTS)
        },
        **{name: getattr(math, name) for name in module.math_names},
        **builtins,
        **{name: getattr(api, name) for name in (*grammar.CONSTRUCTORS, *grammar.VERDICTS)},
        "__meter": runtime,
    }


def _message(error: Exception) -> str:
    name = type(error).__name__
    if isinstance(error, KeyError):
        return f"{name}: {decisions.described(error.args[0] if error.args else None)} is not in the dict"
    return f"{name}: {error}"
