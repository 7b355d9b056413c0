"""`autopoiesis status`: what runs, what is active, how it goes."""

from typing import Any

import httpx

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.output import console, print_json, table


def status(*, common: Common = COMMON) -> int:
    """Show services, replicas, the active policy and the queue. Exits 1 if the router is not ready."""
    running = common.running()
    with httpx.Client(timeout=5.0, headers=common.admin_headers()) as client:
        ready = client.get(f"{running.router}/ready")
        state: dict[str, Any] = client.get(f"{running.router}/admin/state").raise_for_status().json()
    if common.json:
        print_json(
            {"ready": ready.json(), "router": state, "services": running.services, "url": running.router}
        )
        return 0 if ready.is_success else 1
    console.print(table("services", ("service", "pid"), running.services.items()))
    console.print(f"\nrouter {running.router}: {'ready' if ready.is_success else ready.text}")
    console.print(
        f"policy {state['policy']['title'] or state['policy']['hash'][:12]} (epoch {state['policy']['epoch']})"
    )
    columns = ("replica", "state", "gpu", "running", "waiting", "KV used", "KV capacity", "in flight")
    keys = (
        "replica",
        "state",
        "gpu",
        "running",
        "waiting",
        "kv_used_tokens",
        "kv_capacity_tokens",
        "inflight",
    )
    console.print(table("\nreplicas", columns, ([row.get(key) for key in keys] for row in state["fleet"])))
    return 0 if ready.is_success else 1
