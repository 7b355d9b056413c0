"""`/health`, `/ready` and `/metrics`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse


@dataclass(frozen=True, slots=True)
class Answers:
    """What the API asks of the rest of the service."""

    state: Callable[[], dict[str, Any]]
    not_ready: Callable[[], str]
    """Why it cannot work just now, empty if it can."""
    metrics: Callable[[], tuple[bytes, str]]
    """Body and media type."""


def create(answers: Answers) -> FastAPI:
    app = FastAPI(title="autopoiesis synthesizer", docs_url=None, redoc_url=None)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", **answers.state()}

    @app.get("/ready")
    def ready() -> JSONResponse:
        problem = answers.not_ready()
        return JSONResponse({"status": problem or "ready"}, status_code=503 if problem else 200)

    @app.get("/metrics")
    def metrics() -> Response:
        body, media_type = answers.metrics()
        return Response(body, media_type=media_type)

    return app
