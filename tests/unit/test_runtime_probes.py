"""What every control-plane service answers over HTTP."""

import httpx

from autopoiesis.runtime.probes import Probes, application


async def test_health_tells_what_it_is_at_and_ready_why_it_is_not() -> None:
    problem = ""
    probes = Probes(
        state=lambda: {"running": "local/*", "waiting": []},
        not_ready=lambda: problem,
        metrics=lambda: (b"cycles_total 3\n", "text/plain; version=0.0.4"),
    )
    transport = httpx.ASGITransport(app=application("synthesizer", probes))
    async with httpx.AsyncClient(transport=transport, base_url="http://synthesizer") as client:
        assert (await client.get("/health")).json() == {"status": "ok", "running": "local/*", "waiting": []}
        assert (await client.get("/ready")).status_code == 200
        assert (await client.get("/metrics")).text == "cycles_total 3\n"
        problem = "not connected to NATS"
        refused = await client.get("/ready")
        assert (refused.status_code, refused.json()) == (503, {"status": "not connected to NATS"})
        assert (await client.get("/health")).status_code == 200
