"""`autopoiesis status`: what runs, what is active, how it goes."""

from collections.abc import Sequence
from typing import Any

import httpx
from rich.markup import escape
from rich.table import Table

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.installation import Running
from autopoiesis.cli.output import console, print_json, table
from autopoiesis.cli.policies import SHORT, with_store
from autopoiesis.store import StoreError, operations


def status(*, common: Common = COMMON) -> int:
    """Show the mode, the active policy, queues, replicas and services. Exits 1 if the router is not ready."""
    running = common.running()
    with httpx.Client(timeout=5.0, headers=common.admin_headers()) as client:
        ready = client.get(f"{running.router}/ready")
        answer = client.get(f"{running.router}/admin/state")
        answer.raise_for_status()
        state: dict[str, Any] = answer.json()
    overrides = _overrides(common, running)
    if common.json:
        print_json(
            {
                "ready": ready.json(),
                "mode": {"configured": running.mode, "overrides": overrides},
                "scope": running.scope,
                "router": state,
                "services": running.services,
                "restarts": running.restarts,
                "urls": running.urls,
                "url": running.router,
            }
        )
        return 0 if ready.is_success else 1
    told = "ready" if ready.is_success else f"[red]not ready[/red]: {escape(ready.text)}"
    console.print(f"router {running.router}: {told}", highlight=False)
    console.print(f"mode {running.mode}, scope {running.scope}{_words(overrides)}", highlight=False)
    console.print(_policy(state["policy"]), highlight=False)
    queued = ", ".join(f"{count} for {model}" for model, count in state["queue"].items()) or "none"
    console.print(f"requests: {state['in_flight']} in flight; queued: {queued}\n", highlight=False)
    console.print(_replicas(state["fleet"]))
    console.print()
    services = [
        (name, running.services.get(name, "[red]does not run[/red]"), count or "", running.urls.get(name))
        for name, count in running.restarts.items()
    ]
    console.print(table("services", ("service", "pid", "restarts", "health, metrics"), services))
    return 0 if ready.is_success else 1


def _replicas(fleet: Sequence[dict[str, Any]]) -> Table:
    """One row each; their model only where it is not the same for all."""
    columns = ["replica", "gpu", "state", "running", "waiting", "in flight", "KV used"]
    keys = ["replica", "gpu", "state", "running", "waiting", "inflight"]
    if len({row["model"] for row in fleet}) > 1:
        columns.insert(1, "model")
        keys.insert(1, "model")
    rows = [[*(row.get(key) for key in keys), _share(row)] for row in fleet]
    return table("replicas", columns, rows)


def _share(row: dict[str, Any]) -> str:
    used, capacity = row.get("kv_used_tokens"), row.get("kv_capacity_tokens")
    return f"{used / capacity:.0%}" if capacity and used is not None else ""


def _overrides(common: Common, running: Running) -> dict[str, str] | str:
    """Modes by scope that an operator set, `paused` among them; or why they are not known."""
    if not running.database:
        return {}
    try:
        return {row.scope: row.mode for row in with_store(common, operations.modes)}
    except StoreError as error:
        return f"not known: {error}"


def _words(overrides: dict[str, str] | str) -> str:
    if isinstance(overrides, str):
        return f"; overrides {escape(overrides)}"
    return "".join(f"; [yellow]{mode}[/yellow] for {scope} by hand" for scope, mode in overrides.items())


def _policy(policy: dict[str, Any]) -> str:
    name = policy["title"] or policy["hash"][:SHORT]
    words = escape(f"policy {name} ({policy['hash'][:SHORT]}, epoch {policy['epoch']}, {policy['cause']})")
    if policy["pinned"]:
        words += "; [yellow]pinned[/yellow] here by hand"
    if policy["quarantined"]:
        words += "; [red]quarantined[/red]: it failed too often, the fallback decides"
    return words
