"""The HTTP application: FastAPI for everything that goes to no engine.

Every endpoint is a coroutine, for plain functions run in threads and the dispatcher belongs to the event loop.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from autopoiesis.router.auth import Doorkeeper
from autopoiesis.router.errors import ApiError, UnknownModelError
from autopoiesis.router.http import openapi


class Probe(Protocol):
    """What the endpoints below ask of the router."""

    @property
    def models(self) -> list[str]: ...

    def missing(self) -> list[str]:
        """What keeps this router from serving, in words; nothing if it can."""

    def exposition(self) -> bytes:
        """Prometheus text."""


def create(probe: Probe, admin: APIRouter, door: Doorkeeper, paths: tuple[str, ...] = ()) -> FastAPI:
    """The application. `paths`: prefixes of what engines answer, which it describes and never sees."""
    app = FastAPI(title="Autopoiesis router", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(ProxyHeadersMiddleware)
    started = int(time.time())

    @app.head("/health")
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.head("/ready")
    @app.get("/ready")
    async def ready() -> JSONResponse:
        missing = probe.missing()
        return JSONResponse({"ready": not missing, "missing": missing}, 503 if missing else 200)

    described = openapi.document(paths)

    @app.get("/openapi.json")
    async def description() -> dict[str, Any]:
        return described

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(probe.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def describe(model: str) -> dict[str, Any]:
        return {"id": model, "object": "model", "created": started, "owned_by": "autopoiesis"}

    async def invited(request: Request) -> None:
        if door.closed:
            door.identify(request.scope["headers"], "inference")

    @app.get("/v1/models", dependencies=[Depends(invited)])
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [describe(model) for model in probe.models]}

    @app.get("/v1/models/{model:path}", dependencies=[Depends(invited)])
    async def model(model: str) -> dict[str, Any]:
        if model not in probe.models:
            raise UnknownModelError(model, probe.models)
        return describe(model)

    app.include_router(admin, prefix="/admin")
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    return app


def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return Response(error.body(), int(error.status), media_type="application/json")


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    return Response(what.body(), what.status, error.headers, "application/json")
