"""What a client is told when it cannot be served: OpenAI's error body, with the right HTTP status."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec

from autopoiesis.contracts.messages.infer import FailureCode
from autopoiesis.dispatch.events import Refuse


class ApiError(Exception):
    """An answer that is an error: status, OpenAI `type`, the field at fault (`param`) and a stable `code`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002 - OpenAI's name
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """`{"error": {"message", "type", "param", "code"}}`."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


class BadRequestError(ApiError):
    """400: `param` names the field that is wrong."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(HTTPStatus.BAD_REQUEST, message, param=param, code=code)


class TooLargeError(ApiError):
    """413: the body is longer than this router or the bus carries. `upload`: it was to go on unread."""

    def __init__(self, limit_bytes: int, *, upload: bool = False) -> None:
        message = f"the request body is larger than the limit of {limit_bytes} bytes; " + (
            "send it in parts, or have the operator raise router.max_upload_bytes"
            if upload
            else "shorten the prompt, or have the operator raise router.max_body_bytes (and max_payload of the NATS server, "
            "which it cannot exceed)"
        )
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, code="request_too_large")


class UnknownModelError(ApiError):
    """404, as OpenAI answers it."""

    def __init__(self, model: str, known: list[str]) -> None:
        message = f"the model {model!r} does not exist here; served: {', '.join(known) or 'none'}"
        super().__init__(HTTPStatus.NOT_FOUND, message, param="model", code="model_not_found")


class UnavailableError(ApiError):
    """503: nothing is wrong with the request; try again later."""

    def __init__(self, message: str, code: str = "unavailable", retry_after_s: float = 1.0) -> None:
        super().__init__(
            HTTPStatus.SERVICE_UNAVAILABLE,
            message,
            type="server_error",
            code=code,
            retry_after_s=retry_after_s,
        )


def client_left() -> ApiError:
    """Nobody will read it; 499 is what proxies log for this."""
    return ApiError(499, "the client closed the connection", code="client_left")


_REFUSED: Final = {
    "rejected": (HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error"),
    "queue_full": (HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error"),
    "overloaded": (HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error"),
    "no_replica": (HTTPStatus.SERVICE_UNAVAILABLE, "server_error"),
    "deadline": (HTTPStatus.GATEWAY_TIMEOUT, "timeout_error"),
}

_FAILED: Final[dict[FailureCode, tuple[HTTPStatus, str]]] = {
    "invalid_request": (HTTPStatus.BAD_REQUEST, "invalid_request_error"),
    "unavailable": (HTTPStatus.SERVICE_UNAVAILABLE, "server_error"),
    "overloaded": (HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error"),
    "deadline": (HTTPStatus.GATEWAY_TIMEOUT, "timeout_error"),
    "cancelled": (HTTPStatus.SERVICE_UNAVAILABLE, "server_error"),
    "internal": (HTTPStatus.BAD_GATEWAY, "server_error"),
}

_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)
_TRY_AGAIN: Final = frozenset(
    {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)


def refused(refuse: Refuse) -> ApiError:
    """The answer to a request that the dispatcher refused before anything was sent."""
    status, kind = _REFUSED[refuse.reason]
    return ApiError(
        status, refuse.message, type=kind, code=refuse.reason, retry_after_s=max(1.0, refuse.retry_after)
    )


def failed(code: FailureCode, message: str, param: str | None = None, engine_status: int = 0) -> ApiError:
    """The answer to a request that an engine ended with `code`; its own 4xx status says more than ours for `invalid_request`."""
    status, kind = _FAILED[code]
    if code == "invalid_request" and 400 <= engine_status < 500:
        status = HTTPStatus(engine_status) if engine_status in _STATUSES else status
    retry_after_s = 1.0 if status in _TRY_AGAIN else None
    return ApiError(status, message, type=kind, param=param, code=code, retry_after_s=retry_after_s)
