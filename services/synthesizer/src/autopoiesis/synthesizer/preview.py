"""What would leave the network, without sending it."""

import asyncio
from pathlib import Path

from autopoiesis.contracts.messages.policy import Kind
from autopoiesis.runtime.settings import BlobSettings, DatabaseSettings, General, Settings
from autopoiesis.simulator.workload.snapshot import read_snapshot
from autopoiesis.store import BlobStore, NotFoundError, Store
from autopoiesis.synthesizer import prompt
from autopoiesis.synthesizer.memory import Memory
from autopoiesis.synthesizer.proposers.base import Task
from autopoiesis.synthesizer.replay import newest
from autopoiesis.synthesizer.settings import SynthesizerSettings
from autopoiesis.synthesizer.situation import Situation, situation_of, situation_of_plans


async def show_prompt(
    settings: Settings, *, scope: str = "", kind: Kind = "dispatch", rewrite: bool = False
) -> str:
    """The first prompt of a cycle on the newest snapshot of `scope` (default: the configured one), as text.

    Nothing is sent and nothing replayed, so scores are missing. Without a snapshot the workload is left out.
    Raises StoreError.
    """
    own, scope = settings[SynthesizerSettings], scope or settings[General].scope
    async with Store(settings[DatabaseSettings].url) as store:
        memory = Memory(store, scope, kind)
        incumbent = await memory.incumbent(own.of(kind).initial)
        seeds = await memory.seeds()
        judged = await memory.judged()
        async with store.begin() as unit:
            recent = await unit.snapshots.recent(scope, limit=1)
    situation = await asyncio.to_thread(_situation, settings, kind, recent[0].hash if recent else "")
    parent = next((s for s in seeds if s.hash != incumbent.hash), incumbent)
    task = Task(
        scope=scope,
        kind=kind,
        incumbent=incumbent,
        parents=(parent,),
        best=incumbent,
        tried=tuple(judged),
        failures=tuple(f"{s.title}: {s.feedback}" for s in judged if s.feedback.startswith("reject")),
        situation=situation,
    )
    return prompt.show(prompt.Request(task, parent, rewrite=rewrite))


def _situation(settings: Settings, kind: Kind, snapshot: str) -> Situation:
    if not snapshot:
        return Situation(workload=("no snapshot was made yet",))
    try:
        blob = BlobStore(Path(settings[BlobSettings].dir)).get(snapshot)
    except NotFoundError as error:
        return Situation(workload=(str(error),))
    window = newest(read_snapshot(blob).window, settings[SynthesizerSettings].of(kind).arrivals)
    return situation_of_plans(window) if kind == "plan" else situation_of(window)
