"""States as plain data: what a policy would see, from JSON and back, to run one outside of a router.

`{"request": {...}, "replicas": [{...}], "ctx": {...}}` for dispatch, `{"models": [...], "gpus": [...], "plan": [...] | null, ...}` for
plans. Fields that are left out hold what an empty view holds; `"inf"` stands for infinity.
"""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, TypeVar, cast

from autopoiesis.policy.api import (
    DispatchContext,
    GpuPool,
    ModelDemand,
    PlanContext,
    Replica,
    Replicas,
    Request,
    Workflow,
)

V = TypeVar("V")

HISTORY: Final = 32
"""Most earlier steps that a plan policy sees."""
_NESTED: Final = frozenset({"models", "gpus", "plan", "last", "history", "toolkit", "random", "workflow"})


class StateError(ValueError):
    """Data that is no state; the message says where and what would be right."""


def dispatch_state(
    data: Mapping[str, Any], *, seed: int = 0
) -> tuple[Request, tuple[Replica, ...], DispatchContext]:
    """The views of a dispatch decision. Raises StateError."""
    _only(data, ("request", "replicas", "ctx"), "state")
    request = view(Request, data.get("request", {}), "request")
    workflow = data.get("request", {}).get("workflow")
    request.workflow = None if workflow is None else view(Workflow, workflow, "request.workflow")
    replicas = _list(data.get("replicas", []), "replicas")
    fleet = tuple(view(Replica, entry, f"replicas[{i}]") for i, entry in enumerate(replicas))
    for index, replica in enumerate(fleet):
        replica.index = index
    ctx = view(DispatchContext, data.get("ctx", {}), "ctx")
    ctx.random = random.Random(seed).random
    return request, fleet, ctx


def plan_state(data: Mapping[str, Any]) -> PlanContext:
    """The context of a plan decision, without a toolkit. Raises StateError."""
    ctx = view(PlanContext, data, "state")
    models = _list(data.get("models", []), "models")
    ctx.models = tuple(view(ModelDemand, entry, f"models[{i}]") for i, entry in enumerate(models))
    for index, model in enumerate(ctx.models):
        model.index = index
    ctx.gpus = tuple(
        view(GpuPool, entry, f"gpus[{i}]") for i, entry in enumerate(_list(data.get("gpus", []), "gpus"))
    )
    plan, last = data.get("plan"), data.get("last")
    ctx.plan = None if plan is None else plan_of(plan)
    ctx.last = None if last is None else plan_state(last)
    ctx.history = tuple(plan_state(entry) for entry in _list(data.get("history", []), "history"))
    return ctx


def plan_data(ctx: PlanContext, *, earlier: bool = True) -> dict[str, Any]:
    """What `plan_state` reads. `earlier`: with `last` and `history`."""
    return {
        "step": ctx.step,
        "now": ctx.now,
        "models": [fields_of(model) for model in ctx.models],
        "gpus": [fields_of(pool) for pool in ctx.gpus],
        "plan": None if ctx.plan is None else [asdict(entry) for entry in ctx.plan],
        "last": plan_data(ctx.last, earlier=False) if earlier and ctx.last is not None else None,
        "history": [plan_data(old, earlier=False) for old in ctx.history] if earlier else [],
    }


def plan_of(data: Any) -> tuple[Replicas, ...]:
    """A plan from a list of objects with the fields of `Replicas`. Raises StateError."""
    plan = []
    for i, entry in enumerate(_list(data, "plan")):
        _only(entry, Replicas.__slots__, f"plan[{i}]")
        try:
            plan.append(Replicas(**entry))
        except TypeError:
            raise StateError(f"plan[{i}] needs model, gpu, tp and count") from None
    return tuple(plan)


def view(cls: type[V], data: Mapping[str, Any], where: str) -> V:
    """A view with the plain fields that `data` gives. Raises StateError for unknown ones and wrong types."""
    slots: tuple[str, ...] = vars(cls)["__slots__"]
    _only(data, slots, where)
    made = cls()
    for name, value in data.items():
        if name not in _NESTED:
            setattr(made, name, _like(getattr(made, name), value, f"{where}.{name}"))
    return made


def fields_of(made: object) -> dict[str, Any]:
    """The plain fields of a view."""
    return {name: getattr(made, name) for name in vars(type(made))["__slots__"] if name not in _NESTED}


def _like(default: object, value: object, where: str) -> object:
    if isinstance(default, float):
        if value == "inf":
            return math.inf
        if type(value) in {int, float}:
            return float(cast("float", value))
    elif type(value) is type(default):
        return value
    raise StateError(f"{where} is {value!r}; it is of type {type(default).__name__}")


def _only(data: object, known: Sequence[str], where: str) -> None:
    if not isinstance(data, Mapping):
        raise StateError(f"{where} is not an object")
    for name in data:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known)}"
            raise StateError(f"{where} has no field {name!r}{hint}")


def _list(data: object, where: str) -> list[Any]:
    if not isinstance(data, list):
        raise StateError(f"{where} is not a list")
    return data
