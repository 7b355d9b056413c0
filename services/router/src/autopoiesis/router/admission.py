"""From body and headers to a flight: everything that can be refused before the dispatcher is asked."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

import msgspec

from autopoiesis.contracts.messages.infer import Endpoint
from autopoiesis.router import intake, passthrough
from autopoiesis.router.errors import ApiError, BadRequestError, UnavailableError, UnknownModelError
from autopoiesis.router.fleet import Fleet
from autopoiesis.router.flight import Flight
from autopoiesis.router.identity import Identities
from autopoiesis.router.intake import Intake
from autopoiesis.router.prompts import block_hashes
from autopoiesis.router.settings import RouterSettings


class Admission:
    """Checks requests against settings and against what is known of the fleet.

    `key` is the installation's secret; `incarnation` begins the id of every request of this process.
    """

    def __init__(
        self,
        settings: RouterSettings,
        identities: Identities,
        fleet: Fleet,
        *,
        key: bytes,
        incarnation: str,
        max_body_bytes: int,
    ) -> None:
        self._settings = settings
        self._identities = identities
        self._fleet = fleet
        self._key = key
        self._incarnation = incarnation
        self._numbers = count(1)
        self.max_body_bytes = max_body_bytes
        self.draining = False
        """Set when the process stops: nothing is admitted any more."""

    def admit(
        self,
        endpoint: Endpoint,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        path: str = "",
        tenant: bytes = b"",
        *,
        method: str = "POST",
        query: str = "",
    ) -> Flight:
        """`path` names the endpoint where it is passed through, with `method` and `query`; `tenant` is that of the API key.

        Raises ApiError with what to answer.
        """
        if self.draining:
            raise UnavailableError("this router is shutting down", "shutting_down")
        if endpoint == "passthrough":
            read = self._read_other(method, path, query, headers, body)
            read.model = read.model or self._only_model()
        else:
            read = intake.read(endpoint, body)
        self._check_model(read.model)
        if read.n > self._settings.max_choices:
            most = self._settings.max_choices
            raise BadRequestError(f"invalid value for n: at most {most} choices", "n", "invalid_value")
        if read.prompts > self._settings.max_prompts:
            most = self._settings.max_prompts
            raise BadRequestError(
                f"invalid value for prompt: at most {most} prompts", "prompt", "invalid_value"
            )
        identity = self._identities.read(headers, tenant)
        return Flight(
            f"{self._incarnation}{next(self._numbers):08x}",
            read,
            identity,
            msgspec.Raw(body),
            max_tokens=self._max_tokens(read),
            block_hashes=block_hashes(read.prompt, self._key),
        )

    def limit(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, bool]:
        """Most bytes of a body that is passed through, and whether it goes on unread."""
        unread = bool(self._settings.attach) and not passthrough.is_json(method, _content_type(headers))
        return (self._settings.max_upload_bytes if unread else self.max_body_bytes), unread

    def _read_other(
        self, method: str, path: str, query: str, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> Intake:
        content_type = _content_type(headers)
        if passthrough.is_json(method, content_type):
            return passthrough.read(path, body)
        if not self._settings.attach:
            message = f"{content_type}: only servers attached to this router take bodies that are not JSON"
            raise ApiError(415, message, code="unsupported_media_type")
        return passthrough.relay(method, path, query, content_type, body)

    @property
    def models(self) -> list[str]:
        """Names of all models known, by configuration or from replicas."""
        return sorted({*self._settings.models, *self._fleet.models})

    def _check_model(self, model: str) -> None:
        if model in self._fleet.models or model in self._settings.models:
            return
        if not self.models:
            raise UnavailableError("no replica has reported yet", "no_replica")
        raise UnknownModelError(model, self.models)

    def _only_model(self) -> str:
        """What a request means that names no model."""
        models = self.models
        if len(models) > 1:
            known = ", ".join(models)
            raise BadRequestError(
                f"missing required parameter: model; served: {known}", "model", "missing_required_parameter"
            )
        return models[0] if models else ""

    def _max_tokens(self, read: Intake) -> int:
        if not read.generates:
            return 1
        configured = self._settings.models.get(read.model)
        context = configured.context_tokens if configured else None
        longest = context or self._fleet.models.get(read.model) or 0
        wanted = read.max_tokens
        if wanted is None:
            wanted = (configured.max_tokens if configured else None) or self._settings.default_max_tokens
            return min(wanted, longest) if longest else wanted
        if longest and wanted > longest:
            raise BadRequestError(
                f"invalid value for {read.max_tokens_param}: {wanted} tokens are more than "
                f"{'the context of ' + read.model if context else 'any replica of ' + read.model + ' holds'} ({longest})",
                read.max_tokens_param,
                "context_length_exceeded",
            )
        return wanted


def _content_type(headers: Iterable[tuple[bytes, bytes]]) -> str:
    return next((value.decode("latin-1") for name, value in headers if name == b"content-type"), "")
