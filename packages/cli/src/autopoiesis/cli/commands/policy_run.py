"""`autopoiesis policy run`: what a policy decides in one state, what that costs, and what it looks at."""

import json
import time
from dataclasses import asdict, is_dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from cyclopts import Parameter

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.output import CommandError, console, print_json, table
from autopoiesis.policy import library
from autopoiesis.policy.api import KINDS, Kind
from autopoiesis.policy.examples import EXAMPLES
from autopoiesis.policy.jail import Jail, JailError, Job, Limits
from autopoiesis.policy.language import CompiledPolicy, PolicyError, compile_policy, kind_of
from autopoiesis.policy.states import StateError, dispatch_state, plan_state

CALLS = 200
"""How often a dispatch decision is timed; its time is the median."""
PLAN_JOB = "autopoiesis.simulator.plan_step"


def run(
    policy: Annotated[str | None, Parameter(help="A file, or a shipped name.")] = None,
    *,
    state: Annotated[
        Path | None, Parameter(help="JSON file; by default the example of the policy's kind.")
    ] = None,
    example: Annotated[
        Kind | None, Parameter(help="Print the example state of this kind and do nothing else.")
    ] = None,
    wall: Annotated[float, Parameter(help="Seconds that `schedule` may take.")] = 60.0,
    common: Common = COMMON,
) -> int:
    """Run POLICY once on a state: its decision, fuel, time, and the fields it reads. Exits 1 on a fault."""
    if example is not None:
        print_json(EXAMPLES[example])
        return 0
    if policy is None:
        raise CommandError("name a policy file or a shipped policy to run, or --example dispatch|plan")
    source = _source(policy)
    kind = kind_of(source) or "dispatch"
    compiled = compile_policy(source, kind)
    data = EXAMPLES[kind] if state is None else _state(state)
    try:
        answer = _dispatch(compiled, data) if kind == "dispatch" else _plan(compiled, data, wall)
    except StateError as error:
        raise CommandError(f"{state or 'the example'}: {error}") from error
    facts = {
        "policy": compiled.hash,
        "kind": kind,
        **answer,
        "reads": {v: sorted(f) for v, f in compiled.reads.items() if f},
    }
    if common.json:
        print_json(facts)
    else:
        _show(facts)
    return 1 if facts["fault"] else 0


def _dispatch(compiled: CompiledPolicy, data: dict[str, Any]) -> dict[str, Any]:
    request, replicas, ctx = dispatch_state(data)
    answer: dict[str, Any] = {"priority": None, "decision": None, "fault": ""}
    times = []
    try:
        answer["priority"] = compiled.prioritize(request, ctx)
        for _ in range(CALLS):
            started = time.process_time_ns()
            decision = compiled.route(request, replicas, ctx)
            times.append(time.process_time_ns() - started)
        answer["decision"] = asdict(decision) if is_dataclass(decision) else repr(decision)
    except PolicyError as error:
        answer["fault"] = f"{type(error).__name__}: {error}"
    return {
        **answer,
        "fuel": compiled.fuel_used,
        "fuel_limit": compiled.fuel,
        "seconds": median(times) / 1e9 if times else None,
    }


def _plan(compiled: CompiledPolicy, data: dict[str, Any], wall: float) -> dict[str, Any]:
    plan_state(data)  # what is wrong with it is said here, not from inside the jail
    payload = json.dumps({"policy": compiled.source, "state": data}).encode()
    with Jail([PLAN_JOB], workers=1) as jail:
        try:
            answer = json.loads(jail.run(Job(f"{PLAN_JOB}:run", payload, Limits(wall_s=wall, cpu_s=wall))))
        except JailError as error:
            raise CommandError(error.detail.strip().splitlines()[-1]) from error
    return {
        "rescheduled": answer["rescheduled"],
        "decision": answer["plan"],
        "fault": answer["fault"],
        "fuel": answer["fuel"],
        "fuel_limit": compiled.fuel,
        "seconds": answer["cpu_s"],
    }


def _source(policy: str) -> str:
    shipped = {name for kind in KINDS for name in library.names(kind, every=True)}
    if policy in shipped:
        return library.source(policy)
    try:
        return Path(policy).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CommandError(
            f"{policy} does not exist; shipped policies are {', '.join(sorted(shipped))}"
        ) from error


def _state(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CommandError(f"{file} does not exist; `policy run --example dispatch` prints one") from error
    except ValueError as error:
        raise CommandError(f"{file} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise CommandError(f"{file} is not a JSON object; `policy run --example dispatch` prints one")
    return data


def _show(facts: dict[str, Any]) -> None:
    rows = [
        (name, value)
        for name, value in facts.items()
        if name not in {"reads", "seconds", "fuel_limit"} and value not in (None, "")
    ]
    if facts["seconds"] is not None:
        rows.append(("processor time", f"{facts['seconds'] * 1e6:,.1f} us"))
    rows += [(f"reads of {view}", ", ".join(fields)) for view, fields in facts["reads"].items()]
    console.print(table("", ("", ""), rows))
