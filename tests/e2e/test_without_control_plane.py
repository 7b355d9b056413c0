"""With the whole control plane and PostgreSQL dead, serving goes on, and an operator keeps a hand on the policy."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from e2e_world import Probe, Traffic, accepts, revive, shell, state, until

from autopoiesis.cli.installation import Installation
from autopoiesis.policy import library

pytestmark = [pytest.mark.xdist_group("installation"), pytest.mark.slow]

CONTROL_PLANE = ("postgres", "observer", "evaluator", "synthesizer")


@pytest.fixture(scope="module")
def killed(installation: Installation) -> Iterator[Installation]:
    """The installation with its control plane killed, and kept dead until these tests are over."""
    children = [installation.supervisor.children[name] for name in CONTROL_PLANE]
    for child in children:
        child.kill()
        child.stop()
    assert not any(child.alive for child in children)
    yield installation
    postgres, *services = (child.command for child in children)
    revive(installation.supervisor, postgres, ready=lambda: accepts(installation.running.database))
    with ThreadPoolExecutor() as pool:
        list(pool.map(partial(revive, installation.supervisor), services))


@pytest.fixture
def dead(killed: Installation, whole: Installation) -> Installation:
    """`killed`, with every replica ready."""
    return killed


async def test_serving_goes_on_and_a_policy_can_be_pinned(
    dead: Installation, http: httpx.AsyncClient, data_dir: Path
) -> None:
    router, pinning = dead.running.router, f"{dead.running.router}/admin/policy/pin"
    before = (await state(http, router))["policy"]
    async with Traffic(router) as traffic:
        await traffic.goes_on()
        answer = await http.put(pinning, json={"library": "slo_triage"})
        assert answer.json()["pinned"]["hash"] == library.load("slo_triage").hash
        assert await decides(http, router, "slo_triage")
        await traffic.goes_on()
        refused = await http.put(pinning, json={"source": "import os"})
        assert refused.status_code == 422
        assert "import" in refused.json()["error"]["message"]
        assert await decides(http, router, "slo_triage")

        await shell("policy", "pin", "least_requests", "--data", str(data_dir))
        assert await decides(http, router, "least_requests")
        await traffic.goes_on()
        await shell("policy", "pin", "--off", "--data", str(data_dir))
        assert (await state(http, router))["policy"] == before
        await traffic.goes_on()
    assert not traffic.errors()


async def test_a_router_that_starts_meanwhile_finds_the_activation_in_force(
    dead: Installation, http: httpx.AsyncClient
) -> None:
    router, child = dead.running.router, dead.supervisor.children["router"]
    before = (await state(http, router))["policy"]
    restarts = child.restarts
    child.kill()
    await until(lambda: child.restarts > restarts and child.ready is not None, 60)
    after = (await state(http, router))["policy"]
    assert (after["epoch"], after["hash"]) == (before["epoch"], before["hash"])
    assert after["epoch"] > 0


async def decides(http: httpx.AsyncClient, router: str, policy: str) -> bool:
    """Whether `policy` is pinned, and is what chose the replica of a fresh request."""
    said = (await state(http, router))["policy"]
    probe = Probe(http, router, tokens=2)
    await probe.task
    wanted = library.load(policy).hash
    return (
        bool(said["pinned"])
        and said["deciding"] == said["hash"] == wanted
        and probe.finished
        and bool(probe.policy)
        and wanted.startswith(probe.policy)
    )
