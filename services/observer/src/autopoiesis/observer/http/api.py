"""JSON for dashboards and operators: windows, snapshots, drift, fleet, history."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse

from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.observer.observatory import Observatory, UnknownScopeError
from autopoiesis.observer.snapshots import Cut, UnfitWindowError
from autopoiesis.runtime.probes import Probes, application
from autopoiesis.store import StoreError


class SnapshotRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/snapshots. Times are Unix seconds; those left out are chosen as for the regular snapshots."""

    scope: str | None = None
    """May be left out where only one scope was observed."""
    start_unix_s: float | None = None
    cut_unix_s: float | None = None
    """Where the open half ends."""
    end_unix_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """What the API asks of the rest of the service."""

    snapshot: Callable[[str, Cut], Awaitable[SnapshotReady]]
    snapshots: Callable[[str, int], Awaitable[Sequence[SnapshotReady]]]


def json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def create(observatory: Observatory, answers: Answers, probes: Probes) -> FastAPI:
    app = application("observer", probes)

    @app.exception_handler(UnknownScopeError)
    def unknown_scope(_: Request, error: UnknownScopeError) -> JSONResponse:
        return _problem(404, str(error))

    @app.exception_handler(UnfitWindowError)
    def unfit(_: Request, error: UnfitWindowError) -> JSONResponse:
        return _problem(409, str(error))

    @app.exception_handler(StoreError)
    def no_store(_: Request, error: StoreError) -> JSONResponse:
        return _problem(503, str(error))

    _reads(app, observatory, answers)

    @app.post("/v1/snapshots")
    async def snapshot(request: Request) -> Response:
        try:
            asked = msgspec.json.decode(await request.body() or b"{}", type=SnapshotRequest)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            return _problem(400, f"body: {error}")
        scope = asked.scope or _only(observatory.scopes)
        if scope is None:
            return _problem(
                400, f"body: scope must be one of {', '.join(observatory.scopes) or '(none observed yet)'}"
            )
        cut = Cut("operator", asked.start_unix_s, asked.cut_unix_s, asked.end_unix_s)
        return json(await answers.snapshot(scope, cut), 201)

    return app


def _reads(app: FastAPI, observatory: Observatory, answers: Answers) -> None:
    @app.get("/v1/windows")
    def windows(
        scope: str | None = None,
        seconds: Annotated[float, Query(gt=0, le=86_400)] = 600.0,
        step_s: Annotated[float | None, Query(gt=0)] = None,
    ) -> Response:
        step = max(step_s or observatory.settings.window_s, seconds / 2_000)
        scopes = [scope] if scope else observatory.scopes
        return json([window for name in scopes for window in observatory.windows(name, seconds, step)])

    @app.get("/v1/snapshots")
    async def snapshots(
        scope: str | None = None, limit: Annotated[int, Query(gt=0, le=500)] = 50
    ) -> Response:
        scopes = [scope] if scope else observatory.scopes
        return json([ready for name in scopes for ready in await answers.snapshots(name, limit)])

    @app.get("/v1/drift")
    def drift() -> Response:
        return json(observatory.drifts())

    @app.get("/v1/fleet")
    def fleet() -> Response:
        return json(observatory.fleet.current())

    @app.get("/v1/history")
    def history(scope: str | None = None, since_unix_s: float = 0.0) -> Response:
        return json(observatory.history(scope, since_unix_s))


def _only(scopes: Sequence[str]) -> str | None:
    return scopes[0] if len(scopes) == 1 else None


def _problem(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message}}, status_code=status)
