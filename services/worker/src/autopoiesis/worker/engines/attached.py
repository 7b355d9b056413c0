"""Any OpenAI-compatible server by its URL (vLLM, SGLang, llama.cpp, …): requests are passed through."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

import httpx
import msgspec

from autopoiesis.contracts.messages.fleet import ReplicaState
from autopoiesis.contracts.messages.infer import FailureCode, FinishReason, Generate
from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.runtime.servers import protocol
from autopoiesis.runtime.servers.estimate import StepEstimator
from autopoiesis.runtime.servers.metrics import ServerLoad, parse
from autopoiesis.runtime.servers.passing import Tally, events
from autopoiesis.worker.engines.base import Broken, Ended, EngineStartError, EngineStats, Piece
from autopoiesis.worker.engines.openai import pieces
from autopoiesis.worker.engines.outputs import Outputs

log = logging.getLogger(__name__)

PROBE_S: Final = 1.0
"""Between two looks at the server's health and metrics."""

PROBE_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 5.0
FAILED_PROBES: Final = 2
"""In a row, until the replica is called failed."""


class _Request:
    __slots__ = (
        "began",
        "first_at",
        "kv_tokens",
        "last_at",
        "outputs",
        "prefill_ahead",
        "produced",
        "request",
        "task",
    )

    def __init__(self, request: Generate, outputs: Outputs, prefill_ahead: int) -> None:
        self.request = request
        self.outputs = outputs
        self.began = time.monotonic()
        self.first_at: float | None = None
        self.last_at = 0.0
        self.produced = 0
        self.prefill_ahead = prefill_ahead
        self.kv_tokens = 0.0
        self.task: asyncio.Task[None] | None = None


class AttachedEngine:
    """`base.Engine`. State follows the server's health; load comes from `/metrics`, else from what was sent here."""

    def __init__(
        self, url: str, *, model: str = "", api_key: str = "", chunk_interval_s: float = 0.05
    ) -> None:
        """`model` counts where the server does not list its models. Raises `ValueError` for what is no HTTP URL."""
        base = url.rstrip("/").removesuffix("/v1")
        if httpx.URL(base).scheme not in {"http", "https"}:
            raise ValueError(
                f"worker.attach: {url!r} is no HTTP URL; write for instance http://127.0.0.1:8000"
            )
        self.url = base
        self.model = model
        self.changed = asyncio.Event()
        self._chunk_interval_s = chunk_interval_s
        self._http = httpx.AsyncClient(
            base_url=base,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
            trust_env=False,
        )
        self._requests: dict[str, _Request] = {}
        self._state: ReplicaState = "loading"
        self._load = ServerLoad()
        self._failures = 0
        self._health_path = "/health"
        self._has_metrics = True
        self._estimator = StepEstimator()
        self._probing: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    # -- requests

    def generate(self, request: Generate) -> Outputs:
        outputs = Outputs(interval_s=self._chunk_interval_s, whole=not request.stream)
        if self._state in {"stopped", "loading"}:
            outputs.end(Broken(code="unavailable", message=f"the server at {self.url} is {self._state}"))
            return outputs
        waiting = [held for held in self._requests.values() if held.first_at is None]
        held = _Request(request, outputs, sum(other.request.prompt_tokens for other in waiting))
        self._requests[request.request_id] = held
        self._idle.clear()
        held.task = asyncio.create_task(self._run(held), name=f"attached {request.request_id}")
        held.task.add_done_callback(lambda _: self._forget(held))
        return outputs

    def cancel(self, request_id: str, reason: FailureCode) -> None:
        held = self._requests.get(request_id)
        if held is None:
            return
        held.outputs.end(
            Broken(code=reason, message="the request was cancelled", output_tokens=held.produced)
        )
        if held.task is not None:
            held.task.cancel()

    def knows(self, path: str) -> bool:
        """Whatever the server answers: it is the one to say no."""
        return True

    async def _run(self, held: _Request) -> None:
        try:
            if held.request.endpoint == "passthrough":
                await self._pass(held)
            elif held.request.stream:
                await self._stream(held)
            else:
                await self._whole(held)
        except protocol.ServerError as error:
            held.outputs.end(
                Broken(
                    code=error.code,
                    message=str(error),
                    param=error.param,
                    output_tokens=held.produced,
                    status=error.status,
                )
            )
        except httpx.ConnectError as error:
            held.outputs.end(Broken(code="unavailable", message=f"{self.url} does not answer: {error}"))
            self._note_probe(ok=False)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            message = f"the connection to {self.url} broke: {why}"
            held.outputs.end(Broken(code="unavailable", message=message, output_tokens=held.produced))
        except Exception as error:
            log.exception("request %s at %s failed", held.request.request_id, self.url)
            held.outputs.end(Broken(code="internal", message=str(error), output_tokens=held.produced))

    def _forget(self, held: _Request) -> None:
        held.outputs.end(Broken(code="cancelled", message="the request was cancelled"))
        self._requests.pop(held.request.request_id, None)
        if not self._requests:
            self._idle.set()

    async def _stream(self, held: _Request) -> None:
        request = held.request
        reason = usage = None
        several = protocol.several_choices(bytes(request.body))
        body = protocol.upstream_body(bytes(request.body), stream=True)
        async with self._http.stream(
            "POST", protocol.PATHS[request.endpoint], content=body, headers=_JSON
        ) as response:
            if response.status_code != 200:
                raise protocol.failure(response.status_code, await response.aread())
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line[5:].strip()
                if data == protocol.DONE:
                    break
                event = protocol.read_event(data)
                for piece in pieces(event, several=several):
                    self._note_token(held)
                    held.outputs.push(piece)
                reason = protocol.finish_reason(event) or reason
                usage = event.usage or usage
        if reason is None:
            raise protocol.ServerError(
                "unavailable", f"{self.url} ended the stream before its end was announced"
            )
        self._end(held, reason, usage)

    async def _whole(self, held: _Request) -> None:
        request = held.request
        body = protocol.upstream_body(bytes(request.body), stream=False)
        response = await self._http.post(protocol.PATHS[request.endpoint], content=body, headers=_JSON)
        if response.status_code != 200:
            raise protocol.failure(response.status_code, response.content)
        event = protocol.read_event(response.content)
        usage = event.usage or protocol.Usage()
        held.outputs.end(
            Ended(
                finish_reason=protocol.finish_reason(event) or "stop",
                prompt_tokens=usage.prompt_tokens,
                output_tokens=usage.completion_tokens,
                cached_tokens=usage.cached_tokens,
                body=msgspec.Raw(response.content),
            )
        )

    async def _pass(self, held: _Request) -> None:
        """The answer as it comes: event by event, or whole."""
        body = bytes(held.request.body)
        if b'"simulate"' in body:
            body = protocol.upstream_body(body, stream=False)
        tally = Tally()
        async with self._http.stream("POST", held.request.path, content=body, headers=_JSON) as response:
            if response.status_code >= 300:
                raise protocol.failure(response.status_code, await response.aread())
            kind = response.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                content = await response.aread()
                tally.body(content)
                held.outputs.end(_whole_answer(content, kind, tally))
                return
            async for event in events(response.aiter_bytes()):
                tokens = tally.event(event)
                if tokens:
                    self._note_token(held, tokens)
                held.outputs.push(Piece(event.decode(errors="replace"), tokens))
        self._end(held, "stop", tally.usage(held.request.prompt_tokens, held.produced), kind)

    def _note_token(self, held: _Request, tokens: int = 1) -> None:
        held.last_at = time.monotonic()
        held.produced += tokens
        if held.first_at is None:
            held.first_at = held.last_at
            held.kv_tokens = self._own_kv_tokens()

    def _end(
        self, held: _Request, reason: FinishReason, usage: protocol.Usage | None, kind: str = ""
    ) -> None:
        usage = usage or protocol.Usage(
            prompt_tokens=held.request.prompt_tokens, completion_tokens=held.produced
        )
        first_token_s = held.first_at - held.began if held.first_at is not None else 0.0
        if held.first_at is not None:
            self._learn(held, held.first_at, usage)
        held.outputs.end(
            Ended(
                finish_reason=reason,
                prompt_tokens=usage.prompt_tokens,
                output_tokens=usage.completion_tokens,
                cached_tokens=usage.cached_tokens,
                first_token_s=first_token_s,
                content_type=kind,
            )
        )

    def _learn(self, held: _Request, first_at: float, usage: protocol.Usage) -> None:
        sequences = max(1, sum(other.first_at is not None for other in self._requests.values()))
        prefill = max(1, usage.prompt_tokens - usage.cached_tokens)
        self._estimator.first(
            first_at - held.began,
            prefill_tokens=prefill + held.prefill_ahead,
            kv_tokens=held.kv_tokens,
            sequences=sequences,
        )
        if usage.completion_tokens > 1:
            kv_tokens = (held.kv_tokens + self._own_kv_tokens()) / 2
            pause = (held.last_at - first_at) / (usage.completion_tokens - 1)
            self._estimator.pause(pause, kv_tokens=kv_tokens, sequences=sequences)

    def _own_kv_tokens(self) -> int:
        return sum(
            held.request.prompt_tokens + held.produced
            for held in self._requests.values()
            if held.first_at is not None
        )

    # -- the server's state

    async def start(self) -> None:
        self._probing = asyncio.create_task(self._probe_forever(), name=f"probe {self.url}")
        await self._probe()
        if self._state != "ready":
            raise EngineStartError(
                f"no OpenAI-compatible server answers at {self.url}; check that it runs, that the port is right and that "
                f"this machine reaches it (curl {self.url}{self._health_path}). Its replica serves as soon as it answers"
            )

    def stats(self) -> EngineStats:
        """Metrics lag, so whatever is in flight from here counts at least."""
        load = self._load
        prefilling = [held for held in self._requests.values() if held.first_at is None]
        total = max(len(self._requests), (load.running or 0) + (load.waiting or 0))
        waiting = min(total, load.waiting or 0)
        return EngineStats(
            state=self._state,
            progress=0.0 if self._state == "loading" else 1.0,
            running=total - waiting,
            waiting=waiting,
            queued_prefill_tokens=sum(held.request.prompt_tokens for held in prefilling),
            kv_used_tokens=self._own_kv_tokens() if load.kv_used_tokens is None else load.kv_used_tokens,
            kv_capacity_tokens=load.kv_capacity_tokens or 0,
            step_model=self._estimator.model,
            prefix_queries=load.prefix_queries or 0,
            prefix_hits=load.prefix_hits or 0,
        )

    def steps(self) -> list[StepRecord]:
        return []

    async def drain(self) -> None:
        await self._idle.wait()

    async def stop(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        tasks = [held.task for held in self._requests.values() if held.task is not None]
        for request_id in list(self._requests):
            self.cancel(request_id, "unavailable")
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()
        self._become("stopped")

    async def _probe_forever(self) -> None:
        while True:
            await asyncio.sleep(PROBE_S)
            await self._probe()

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                ok = await self._healthy()
                if ok and self._state != "ready":
                    await self._name_model()
                if ok and self._has_metrics:
                    await self._scrape()
        except (TimeoutError, httpx.HTTPError) as error:
            log.debug("probe of %s: %s", self.url, error)
            ok = False
        self._note_probe(ok=ok)

    def _note_probe(self, *, ok: bool) -> None:
        self._failures = 0 if ok else self._failures + 1
        if ok:
            self._become("ready")
        elif self._failures >= FAILED_PROBES:
            self._become("failed")

    async def _healthy(self) -> bool:
        response = await self._http.get(self._health_path)
        if response.status_code == 404 and self._health_path == "/health":
            self._health_path = "/v1/models"
            response = await self._http.get(self._health_path)
        return response.status_code == 200

    async def _name_model(self) -> None:
        response = await self._http.get("/v1/models")
        if response.status_code != 200:
            return
        served = protocol.served_models(response.content)
        if served and self.model not in served:
            self.model = served[0]

    async def _scrape(self) -> None:
        response = await self._http.get("/metrics")
        self._has_metrics = response.status_code != 404
        if response.status_code == 200:
            self._load = parse(response.text)

    def _become(self, state: ReplicaState) -> None:
        if self._state not in {state, "stopped"}:
            log.info("%s: %s -> %s", self.url, self._state, state)
            self._state = state
            self.changed.set()


def _whole_answer(content: bytes, kind: str, tally: Tally) -> Ended:
    json = kind.partition(";")[0].strip() == "application/json"
    return Ended(
        finish_reason="stop",
        prompt_tokens=tally.prompt_tokens,
        output_tokens=tally.output_tokens,
        cached_tokens=tally.cached_tokens,
        body=msgspec.Raw(content) if json else None,
        content=b"" if json else content,
        content_type="" if json else kind,
    )


_JSON: Final = {"Content-Type": "application/json"}
