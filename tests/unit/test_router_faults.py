"""Fault reports are few, and a quarantine is never lost among them."""

from autopoiesis.contracts.messages.policy import Faulted
from autopoiesis.dispatch.events import Fault
from autopoiesis.router.faults import FaultReports


async def test_rate_and_quarantine() -> None:
    stored: dict[str, Faulted] = {}
    now = [0.0]

    async def publish(event: Faulted, name: str) -> None:
        stored[name] = event

    reports = FaultReports(publish, scope="local/m", service="r-1", clock=lambda: now[0])
    for strikes in range(1, 6):
        reports.report(
            Fault(hash="h", epoch=7, fault="ZeroDivisionError", strikes=strikes, quarantined=strikes == 5)
        )
    now[0] = 1.5
    reports.report(Fault(hash="h", epoch=7, fault="ZeroDivisionError", strikes=6, quarantined=True))
    await reports.flush(1.0)
    assert [(event.strikes, event.quarantined) for event in stored.values()] == [
        (1, False),
        (5, True),
        (6, True),
    ]
    assert reports.suppressed == 3
    assert {(event.scope, event.kind, event.epoch, event.service) for event in stored.values()} == {
        ("local/m", "dispatch", 7, "r-1")
    }


async def test_a_bus_that_is_away_is_survived() -> None:
    async def publish(event: Faulted, name: str) -> None:
        raise ConnectionError("away")

    reports = FaultReports(publish, scope="s", service="r")
    reports.report(Fault(hash="h", epoch=1, fault="boom"))
    await reports.flush(1.0)
    assert reports.suppressed == 0
