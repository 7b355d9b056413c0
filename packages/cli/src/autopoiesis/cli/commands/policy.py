"""`autopoiesis policy`: the versions, what is active, and the operator's hand on both."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import httpx
from cyclopts import App, Parameter
from rich.syntax import Syntax

from autopoiesis.cli.commands.policy_run import run
from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.output import CommandError, console, print_json, table
from autopoiesis.contracts.messages.policy import Activation, Origin
from autopoiesis.policy import library
from autopoiesis.policy.api import API_VERSION, KINDS, Kind
from autopoiesis.policy.language import compile_policy, kind_of
from autopoiesis.policy.language import verify as verify_source
from autopoiesis.store import Store, operations

app = App(help="List, read, compare, verify, run, activate and pin policies.")
app.command(run)

T = TypeVar("T")
SHORT = 12
SHIPPED = {name: kind for kind in KINDS for name in library.names(kind, every=True)}
"""Name of every shipped policy to its kind."""


def _with_store(common: Common, act: Callable[[Store], Awaitable[T]]) -> T:
    async def run() -> T:
        async with common.store() as store:
            return await act(store)

    return asyncio.run(run())


@app.command(name="list")
def list_(*, kind: Kind | None = None, limit: int = 30, common: Common = COMMON) -> None:
    """Versions in the store, newest first, the active ones marked; then the shipped ones."""

    async def read(store: Store) -> tuple[list[dict[str, Any]], set[str]]:
        rows = await operations.policies(store, kind=kind, limit=limit)
        active = {standing.policy.hash for standing in await operations.in_force(store)}
        known = [
            {
                "hash": p.hash,
                "kind": p.kind,
                "origin": p.origin,
                "title": p.title,
                "created": p.created.strftime("%Y-%m-%d %H:%M:%S"),
            }
            for p in rows
        ]
        return known, active

    rows, active = _with_store(common, read)
    shipped = [{"name": name, "kind": its} for name, its in SHIPPED.items() if kind in (None, its)]
    if common.json:
        print_json(
            {"policies": [{**row, "active": row["hash"] in active} for row in rows], "shipped": shipped}
        )
        return
    cells = [
        (
            "*" if r["hash"] in active else "",
            r["hash"][:SHORT],
            r["kind"],
            r["origin"],
            r["created"],
            r["title"],
        )
        for r in rows
    ]
    console.print(table("policies", ("", "hash", "kind", "origin", "created", "idea"), cells))
    console.print(f"\nshipped: {', '.join(row['name'] for row in shipped)}")


@app.command
def show(policy: str, *, common: Common = COMMON) -> None:
    """Source, lineage and evaluations of POLICY (a hash's beginning, or a shipped name)."""
    if policy in SHIPPED:
        _print_source(library.source(policy), common, {"name": policy, "origin": "library"})
        return
    shown = _with_store(common, lambda store: operations.show(store, policy))
    row = shown.policy
    facts = {
        "hash": row.hash,
        "kind": row.kind,
        "origin": row.origin,
        "parents": row.parents,
        "title": row.title,
    }
    _print_source(row.source, common, facts)
    if common.json:
        return
    cells = [
        (
            e.verdict,
            f"{e.gain:+.1%}",
            f"{e.gain_low:+.1%} to {e.gain_high:+.1%}",
            e.snapshot[:SHORT],
            e.reason,
        )
        for e in shown.evaluations
    ]
    console.print(table("\nevaluations", ("verdict", "gain", "interval", "snapshot", "reason"), cells))
    for standing in shown.in_force:
        console.print(f"active for {standing.activation.scope} as epoch {standing.activation.epoch}")


def _print_source(source: str, common: Common, facts: dict[str, Any]) -> None:
    if common.json:
        print_json({**facts, "source": source})
        return
    console.print(table("policy", ("", ""), facts.items()))
    console.print(Syntax(source, "python", background_color="default"))


@app.command
def diff(before: str, after: str, *, common: Common = COMMON) -> None:
    """Unified diff of two versions (beginnings of hashes)."""
    text = _with_store(common, lambda store: operations.diff(store, before, after))
    console.print(Syntax(text, "diff", background_color="default"))


@app.command
def verify(file: Path, *, kind: Kind | None = None, common: Common = COMMON) -> int:
    """Check FILE against the policy language. Exits 1 with every problem: line, column, rule, what to write instead.

    The kind is that of the functions it defines, unless given.
    """
    source = _read(file)
    report = verify_source(source, kind or kind_of(source) or "dispatch")
    if common.json:
        print_json(report.to_json())
    else:
        console.print(f"{file}: {report.text()}", markup=False, highlight=False)
    return 0 if report.ok else 1


@app.command
def promote(
    policy: str,
    *,
    scope: str | None = None,
    kind: Kind | None = None,
    why: str = "",
    common: Common = COMMON,
) -> None:
    """Make POLICY (a hash's beginning, a shipped name or a file) active, whatever the evaluator thinks.

    A source is of the kind whose functions it defines, a hash of kind dispatch, unless given.
    """
    target = scope or common.running().scope

    given = _source(policy)
    its: Kind = kind or (kind_of(given[0]) if given else None) or "dispatch"

    async def act(store: Store) -> Activation:
        prefix = policy if given is None else await _known(store, given, its)
        return await operations.promote(store, target, its, prefix, why or "promote")

    message = _with_store(common, act)
    console.print(f"{message.hash[:SHORT]} is active for {target} as epoch {message.epoch}")


@app.command
def rollback(
    *, scope: str | None = None, kind: Kind = "dispatch", why: str = "by hand", common: Common = COMMON
) -> None:
    """Go back to the policy that was active before."""
    target = scope or common.running().scope
    message = _with_store(common, lambda store: operations.rollback(store, target, kind, why))
    console.print(f"back to {message.hash[:SHORT]} for {target} as epoch {message.epoch}")


@app.command
def pin(
    policy: Annotated[str | None, Parameter(help="A file, or a shipped name; none with --off.")] = None,
    *,
    off: Annotated[bool, Parameter(help="Remove the pin.", negative=())] = False,
    url: Annotated[str | None, Parameter(help="Router; default the one that runs here.")] = None,
    token: Annotated[
        str | None, Parameter(help="Admin token.", env_var="AUTOPOIESIS_ROUTER_ADMIN_TOKEN")
    ] = None,
    common: Common = COMMON,
) -> None:
    """Fix one router to POLICY until the pin is removed. Needs neither database nor control plane."""
    endpoint = f"{common.router_url(url)}/admin/policy/pin"
    headers = {"authorization": f"Bearer {token}"} if token else common.admin_headers()
    with httpx.Client(timeout=10.0, headers=headers) as client:
        if off:
            answer = client.delete(endpoint)
        elif policy is None:
            raise CommandError("name a policy file or a shipped policy to pin, or --off to remove the pin")
        elif policy in SHIPPED:
            answer = client.put(endpoint, json={"library": policy})
        else:
            answer = client.put(endpoint, json={"source": _read(Path(policy))})
    if not answer.is_success:
        raise CommandError(f"the router refused ({answer.status_code}): {answer.text}")
    console.print("the pin is removed" if off else f"pinned: {policy}")


def _source(policy: str) -> tuple[str, Origin] | None:
    """The text of a shipped policy or of a file; None for anything else, which is then a hash."""
    if policy in SHIPPED:
        return library.source(policy), "library"
    file = Path(policy)
    return (_read(file), "operator") if file.is_file() else None


async def _known(store: Store, given: tuple[str, Origin], kind: Kind) -> str:
    """Put a source into the store; returns its hash."""
    source, origin = given
    compiled = compile_policy(source, kind)
    async with store.begin() as unit:
        await unit.policies.add(
            hash=compiled.hash,
            kind=kind,
            api=API_VERSION,
            source=compiled.source,
            origin=origin,
            title=compiled.title,
        )
    return compiled.hash


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError as error:
        raise CommandError(f"{file} does not exist; shipped policies are {', '.join(SHIPPED)}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is not UTF-8 text: {error}") from error
