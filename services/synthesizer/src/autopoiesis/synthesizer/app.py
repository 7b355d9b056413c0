"""Wires the synthesizer: the only place that knows which parts there are."""

import asyncio
import logging
import os
from typing import Any

from autopoiesis.contracts.messages.policy import Judgement
from autopoiesis.contracts.messages.trace import Drifted
from autopoiesis.contracts.subjects import DRIFTED, EVALUATED, REJECTED, Subject
from autopoiesis.policy.jail import Jail, JailError, Limits
from autopoiesis.runtime.bus import Bus, Delivered, Retry
from autopoiesis.runtime.errors import OperatorError
from autopoiesis.runtime.lifecycle import Service
from autopoiesis.runtime.probes import Probes, application
from autopoiesis.runtime.settings import (
    BusSettings,
    DatabaseSettings,
    Settings,
    TelemetrySettings,
)
from autopoiesis.runtime.telemetry import configure
from autopoiesis.store import Store, StoreError
from autopoiesis.store.relay import keep_relaying
from autopoiesis.synthesizer.lanes import Lane
from autopoiesis.synthesizer.llm import LanguageModel
from autopoiesis.synthesizer.memory import Memory
from autopoiesis.synthesizer.replay import MODULES
from autopoiesis.synthesizer.settings import LlmSettings, SynthesizerSettings

log = logging.getLogger(__name__)

PUBLISH_S = 30.0
RETRY_S = 5.0


class Verdicts:
    """What the evaluator says of candidates goes into the archive."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def judged(self, delivered: Delivered[Judgement]) -> None:
        judgement = delivered.message
        try:
            await Memory(self._store, judgement.scope, judgement.kind).feedback(judgement)
        except StoreError as error:
            log.warning("synthesizer: a verdict waits for the database: %s", error)
            raise Retry(RETRY_S) from error


async def drifted(delivered: Delivered[Drifted]) -> None:
    """Only said: the snapshot that follows is what matters."""
    drift = delivered.message
    log.info(
        "synthesizer: %s of %s moved from %.3g to %.3g; its snapshot follows",
        drift.feature, drift.scope, drift.before, drift.after,
    )  # fmt: skip


def language_model(settings: LlmSettings) -> LanguageModel | None:
    """The configured model, none where none is: what the environment holds does not count."""
    return LanguageModel(settings) if settings.configured else None


def open_store(url: str) -> Store:
    """A pool that connects when it is used: the database may come later. Raises OperatorError for a URL that cannot be."""
    try:
        return Store(url)
    except StoreError as error:
        raise OperatorError(f"database.url, of the synthesizer's role: {error}") from error


async def main(settings: Settings, service: Service) -> None:
    own, llm = settings[SynthesizerSettings], settings[LlmSettings]
    os.nice(own.nice)
    telemetry = configure("synthesizer", settings[TelemetrySettings])
    service.on_exit(lambda: asyncio.to_thread(telemetry.shutdown))
    store = open_store(settings[DatabaseSettings].url)
    service.on_exit(store.close)
    jail = Jail(MODULES, workers=own.jobs, limits=Limits(wall_s=own.replay_s, cpu_s=own.replay_s))
    try:
        await asyncio.to_thread(jail.start)
    except JailError as error:
        raise OperatorError(f"the jail for candidates cannot be built: {error.detail}") from error
    service.on_exit(lambda: asyncio.to_thread(jail.close))
    model = language_model(llm)
    if model is not None:
        service.on_exit(model.close)
    log.info(
        "candidates from %s",
        f"{llm.model} at {llm.base_url}, and the mutator" if model else "the offline mutator",
    )
    if model is not None and not (llm.prompt_price or llm.completion_price):
        log.info("llm.prompt_price and llm.completion_price are 0: calls and tokens are bound, money is not")
    bus = await Bus.open(
        settings[BusSettings],
        "synthesizer",
        on_closed=lambda: service.fail("the connection to NATS closed for good"),
    )
    service.on_exit(bus.drain)
    await bus.ensure_streams()
    lanes = [Lane(kind, settings, bus, store, jail, model) for kind in own.kinds]
    for lane in lanes:
        service.spawn(lane.run(), name=f"{lane.kind} cycles")
        await lane.start()
    await bus.consume(DRIFTED, "synthesizer-drift", drifted, only_new=True)
    await bus.consume((EVALUATED, REJECTED), "synthesizer-verdicts", Verdicts(store).judged)

    async def publish(subject: Subject[Any], message: Any, *, msg_id: str, **tokens: str) -> None:
        await bus.publish_event(subject, message, msg_id=msg_id, timeout=PUBLISH_S, **tokens)

    def state() -> dict[str, Any]:
        return {"language_model": model is not None} | {lane.kind: lane.state() for lane in lanes}

    service.spawn(keep_relaying(store, "synthesizer", publish), name="relay")
    probes = Probes(
        state=state,
        not_ready=lambda: "" if bus.connected else "not connected to NATS",
        metrics=lambda: (telemetry.exposition(), telemetry.content_type),
    )
    server = await service.serve(
        telemetry.instrument(application("synthesizer", probes)), host=own.host, port=own.port
    )
    service.ready(http=server.url)
    await service.until_stopped()
