"""Every process is killed, and stopped and continued, while requests run.

What each test lets fail is said in it; that nothing else fails is asserted.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals

import httpx
import pytest
from e2e_world import (
    Durable,
    Probe,
    Traffic,
    catches_up,
    durables,
    family,
    promote,
    replicas,
    send,
    serves_on_every_replica,
    state,
    until,
)

from autopoiesis.cli.installation import Installation
from autopoiesis.runtime.embedded import Child, free_port

pytestmark = [pytest.mark.xdist_group("installation"), pytest.mark.slow]

Heal = Callable[[], Awaitable[None]]
SIGNALS = pytest.mark.parametrize("number", [SIGKILL, SIGSTOP], ids=["kill", "stop"])
CONSUMERS = ("observer-requests", "evaluator-guard-requests")

BUS_AWAY = r"not connected to NATS|replica \S+ failed while|nothing from replica|reply \d+ was lost|no replica of model"
"""What a client may be told while NATS is away: streams that would go on elsewhere find no replica either."""


def hurt(child: Child, number: Signals) -> Heal:
    """Kill or stop a process (a stopped one with all its children); returns how it comes back to life."""
    assert child.pid is not None
    pid, restarts = child.pid, child.restarts
    processes = family(pid) if number == SIGSTOP else family(pid)[:1]
    send(processes, number)

    async def heal() -> None:
        if number == SIGSTOP:
            send(processes, SIGCONT)
            assert (child.pid, child.restarts) == (pid, restarts)
        else:
            await until(lambda: child.restarts > restarts and child.pid not in (None, pid), 60)
            if child.command.layer > 0:  # a service says when it is ready; the servers of layer 0 are probed
                await until(lambda: child.ready is not None, 60)

    return heal


@SIGNALS
@pytest.mark.parametrize("name", ["observer", "evaluator", "postgres"])
async def test_nobody_notices_an_outage_of_the_control_plane(
    whole: Installation, http: httpx.AsyncClient, name: str, number: Signals
) -> None:
    """Nothing at all may fail. Afterwards telemetry is stored again, and a promotion reaches the router."""
    async with Traffic(whole.running.router) as traffic:
        heal = hurt(whole.supervisor.children[name], number)
        await traffic.goes_on()
        await heal()
        for consumer in CONSUMERS:
            await catches_up(http, whole.running.nats_monitor, consumer)
        await promote(whole, http, "least_requests")
        await promote(whole, http, "round_robin")
    assert not traffic.errors()


@SIGNALS
async def test_a_cycle_of_the_synthesizer_survives_an_outage(
    whole: Installation, http: httpx.AsyncClient, number: Signals
) -> None:
    """Nothing may fail, and the snapshot that was in work is worked on until its cycle is over."""

    async def cycles() -> Durable:
        return (await durables(http, whole.running.nats_monitor))["synthesizer-snapshots"]

    async def at_work() -> bool:
        return (await cycles()).held == 1

    async with Traffic(whole.running.router) as traffic:
        await until(lambda: snapshot(http, whole.running.observer))
        await until(at_work)
        heal = hurt(whole.supervisor.children["synthesizer"], number)
        before = await cycles()
        await traffic.goes_on()
        await heal()

        async def over() -> bool:
            return (await cycles()).done > before.done

        await until(over, 60)
    assert not traffic.errors()


async def snapshot(http: httpx.AsyncClient, observer: str) -> bool:
    """Ask for a snapshot of what was observed; whether there was enough."""
    return (await http.post(f"{observer}/v1/snapshots", json={})).status_code == 201


@SIGNALS
async def test_a_worker_takes_no_request_with_it(
    whole: Installation, http: httpx.AsyncClient, number: Signals
) -> None:
    """Nothing may fail: streams that the worker had begun go on at another one. Then it serves again."""
    child, router = whole.supervisor.children["worker-b"], whole.running.router
    assert child.ready is not None
    lost = frozenset(child.ready["replicas"])
    async with Traffic(router) as traffic:
        streams = [Probe(http, router, tokens=300) for _ in range(6)]
        await until(lambda: all(stream.began for stream in streams))
        heal = hurt(child, number)
        wholes = [Probe(http, router, tokens=10, stream=False) for _ in range(6)]
        await asyncio.gather(*(probe.task for probe in (*streams, *wholes)))
        await heal()
        await serves_on_every_replica(http, router)
        await traffic.goes_on()
    hit = [stream for stream in streams if stream.replica in lost]
    assert 0 < len(hit) < len(streams)
    assert not [probe for probe in (*streams, *wholes) if not probe.finished]
    assert not traffic.errors()


@pytest.fixture(scope="module")
def second_router(installation: Installation) -> Child:
    """Another router in front of the same fleet; stopped with the installation."""
    first = installation.supervisor.children["router"].command
    return installation.supervisor.start(
        "router-second",
        [sys.executable, "-m", "autopoiesis.router"],
        env={
            **first.env,
            "AUTOPOIESIS_ROUTER_NAME": "second",
            "AUTOPOIESIS_ROUTER_PORT": str(free_port()),
        },
        cwd=first.cwd,
        ready="notify",
        restart=True,
        layer=2,
    )


@pytest.fixture
async def beside(second_router: Child, http: httpx.AsyncClient) -> str:
    """URL of the second router, once it knows the whole fleet."""
    assert second_router.ready is not None
    url = str(second_router.ready["http"])

    async def knows_all() -> bool:
        return len(await replicas(http, url)) == 3

    await until(knows_all)
    return url


@SIGNALS
async def test_a_router_takes_only_its_own_requests_with_it(
    whole: Installation, beside: str, http: httpx.AsyncClient, number: Signals
) -> None:
    """Whatever was under way on the router may fail; nothing on the one beside it, and nothing stays on the workers."""
    router = whole.running.router
    async with Traffic(router) as own, Traffic(beside, seed=1) as other:
        heal = hurt(whole.supervisor.children["router"], number)
        await other.goes_on()
        await heal()
        await other.goes_on()
        await own.goes_on()
        await serves_on_every_replica(http, router)
    assert not other.errors()
    cut = r"closed the connection|connection was lost|Connect call failed"  # nobody is left to say more
    stalled = r"nothing from replica|no sign of life"
    assert not own.errors(besides=cut if number == SIGKILL else stalled)

    async def nothing_runs() -> bool:
        rows = (await state(http, beside))["fleet"]
        return not any(row["running"] or row["waiting"] for row in rows)

    await until(nothing_runs)


@SIGNALS
async def test_services_outlive_an_outage_of_nats(
    whole: Installation, http: httpx.AsyncClient, number: Signals
) -> None:
    """Requests under way may fail while it is away, with an error that says so; then all goes on, and no service restarted."""
    router, children = whole.running.router, whole.supervisor.children
    services = {name: child.restarts for name, child in children.items() if name != "nats"}
    async with Traffic(router) as traffic:
        streams = [Probe(http, router, tokens=300) for _ in range(3)]
        await until(lambda: all(stream.began for stream in streams))
        heal = hurt(children["nats"], number)
        if number == SIGSTOP:  # until it is missed
            await until(lambda: all(stream.task.done() for stream in streams))
        await heal()
        await asyncio.gather(*(stream.task for stream in streams))
        await serves_on_every_replica(http, router)
        await traffic.goes_on()
        for consumer in CONSUMERS:
            await catches_up(http, whole.running.nats_monitor, consumer)
        await promote(whole, http, "least_requests")
        await promote(whole, http, "round_robin")
    assert all(stream.error is not None or stream.finished for stream in streams)
    assert not traffic.errors(besides=BUS_AWAY)
    assert {name: child.restarts for name, child in children.items() if name in services} == services
