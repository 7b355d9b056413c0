"""`autopoiesis policy`: the versions, what is active, and the operator's hand on both."""

from pathlib import Path
from typing import Annotated

import httpx
from cyclopts import App, Parameter

from autopoiesis.cli.commands.policy_read import diff, history, list_, show
from autopoiesis.cli.commands.policy_run import run
from autopoiesis.cli.context import COMMON, Common, warn_of_scope
from autopoiesis.cli.output import CommandError, console, print_json
from autopoiesis.cli.policies import SHIPPED, SHORT, Source, read, source_of, with_store
from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.policy.api import API_VERSION, Kind
from autopoiesis.policy.language import compile_policy, kind_of
from autopoiesis.policy.language import verify as verify_source
from autopoiesis.store import Store, operations

app = App(help="List, read, compare, verify, run, activate and pin policies.")
app.command(run)
app.command(list_, name="list")
app.command(history)
app.command(show)
app.command(diff)


@app.command
def verify(file: Path, *, kind: Kind | None = None, common: Common = COMMON) -> int:
    """Check FILE against the policy language. Exits 1 with every problem: line, column, rule, what to write instead.

    The kind is that of the functions it defines, unless given.
    """
    source = read(file)
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

    Its kind is that of the functions it defines, unless given.
    """
    target = scope or common.running().scope
    given = source_of(policy)

    async def act(store: Store) -> Activation:
        prefix = policy if given is None else await _known(store, given, kind or given.kind)
        return await operations.promote(store, target, kind, prefix, why or "promote")

    message = with_store(common, act)
    warn_of_scope(common, target)
    _told(common, message, f"{message.hash[:SHORT]} is active for {target} as epoch {message.epoch}")


@app.command
def rollback(
    *, scope: str | None = None, kind: Kind = "dispatch", why: str = "by hand", common: Common = COMMON
) -> None:
    """Go back to the policy that was active before."""
    target = scope or common.running().scope
    message = with_store(common, lambda store: operations.rollback(store, target, kind, why))
    _told(common, message, f"back to {message.hash[:SHORT]} for {target} as epoch {message.epoch}")


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
            answer = client.put(endpoint, json={"source": read(Path(policy))})
    if not answer.is_success:
        raise CommandError(f"the router refused ({answer.status_code}): {answer.text}")
    if common.json:
        print_json({"pinned": None if off else policy, "router": endpoint.removesuffix("/admin/policy/pin")})
    else:
        console.print("the pin is removed" if off else f"pinned: {policy}")


async def _known(store: Store, given: Source, kind: Kind) -> str:
    """Put a source into the store; returns its hash."""
    compiled = compile_policy(given.text, kind)
    async with store.begin() as unit:
        await unit.policies.add(
            hash=compiled.hash,
            kind=kind,
            api=API_VERSION,
            source=compiled.source,
            origin=given.origin,
            title=compiled.title,
        )
    return compiled.hash


def _told(common: Common, message: Activation, words: str) -> None:
    if common.json:
        print_json({name: getattr(message, name) for name in ("scope", "kind", "epoch", "hash", "cause")})
    else:
        console.print(words)
