"""`/health`, `/ready` and `/metrics` of a control-plane service, to which it adds what it has of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse


def _nothing_more() -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What the endpoints ask of the service."""

    not_ready: Callable[[], str]
    """Why it cannot work just now, empty if it can."""
    metrics: Callable[[], tuple[bytes, str]]
    """Body and media type."""
    state: Callable[[], dict[str, Any]] = _nothing_more
    """More of what `/health` says."""


def application(service: str, probes: Probes) -> FastAPI:
    """The service's HTTP application, so far with the three endpoints."""
    app = FastAPI(title=f"autopoiesis {service}", docs_url=None, redoc_url=None)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", **probes.state()}

    @app.get("/ready")
    def ready() -> JSONResponse:
        problem = probes.not_ready()
        return JSONResponse({"status": problem or "ready"}, status_code=503 if problem else 200)

    @app.get("/metrics")
    def metrics() -> Response:
        body, media_type = probes.metrics()
        return Response(body, media_type=media_type)

    return app
