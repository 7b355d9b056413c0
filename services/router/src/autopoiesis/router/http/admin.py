"""Operator's endpoints: what this router does, and pinning a policy with everything else gone."""

from __future__ import annotations

import hmac
import ipaddress
from typing import Any, Protocol

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from autopoiesis.policy import library
from autopoiesis.policy.language import PolicyError, VerificationError
from autopoiesis.router.auth import Doorkeeper
from autopoiesis.router.errors import ApiError, BadRequestError
from autopoiesis.router.policies import Policies


class Statement(Protocol):
    """Who can say what state the router is in."""

    def state(self) -> dict[str, Any]:
        """Plain data: policy, pinned, fleet, queue, in_flight."""


class _Pin(msgspec.Struct, forbid_unknown_fields=True):
    library: str = ""
    source: str = ""


def create(statement: Statement, policies: Policies, token: str, door: Doorkeeper) -> APIRouter:
    """Routes under `/admin`, for `token` and keys of scope admin; without either for loopback addresses alone."""
    router = APIRouter(dependencies=[Depends(_guard(token, door))])

    @router.get("/state")
    async def state() -> dict[str, Any]:
        return statement.state()

    @router.put("/policy/pin")
    async def pin(request: Request) -> Response:
        source, name = _read(await request.body())
        try:
            pinned = policies.pin(source, name)
        except VerificationError as error:
            return JSONResponse(
                {"error": _error(str(error), "invalid_policy"), "report": error.report.to_json()}, 422
            )
        except (PolicyError, ValueError) as error:
            return JSONResponse({"error": _error(str(error), "invalid_policy")}, 422)
        return JSONResponse({"pinned": {"hash": pinned.hash, "title": pinned.name}})

    @router.delete("/policy/pin")
    async def unpin() -> dict[str, Any]:
        active = policies.unpin()
        return {"active": {"hash": active.hash, "title": active.name, "epoch": active.epoch}}

    return router


def _error(message: str, code: str) -> dict[str, Any]:
    return {"message": message, "type": "invalid_request_error", "param": "source", "code": code}


def _read(body: bytes) -> tuple[str, str]:
    """The source to pin and its library name, empty if it has none."""
    try:
        pin = msgspec.json.decode(body, type=_Pin)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BadRequestError(f'expected {{"library": NAME}} or {{"source": TEXT}}: {error}') from None
    if bool(pin.library) == bool(pin.source):
        raise BadRequestError('expected either {"library": NAME} or {"source": TEXT}')
    if pin.source:
        return pin.source, ""
    if pin.library not in library.names("dispatch", every=True):
        known = ", ".join(library.names("dispatch", every=True))
        raise BadRequestError(
            f"no shipped policy {pin.library!r}; there are {known}", "library", "unknown_policy"
        )
    return library.source(pin.library), pin.library


def _guard(token: str, door: Doorkeeper) -> Any:
    async def check(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if token and scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), token.encode()):
            return
        if door.closed:
            door.identify(request.scope["headers"], "admin")
        elif token:
            raise ApiError(
                401, "admin endpoints need the bearer token of router.admin_token", code="unauthorized"
            )
        elif request.client is None or not ipaddress.ip_address(request.client.host).is_loopback:
            message = (
                "admin endpoints answer to loopback addresses alone; set router.admin_token to reach them"
            )
            raise ApiError(403, message, code="forbidden")

    return check
