"""The sections of every service, so that one command can show and check the whole file."""

from typing import ClassVar

from autopoiesis.cli.installation import Worker
from autopoiesis.evaluator.settings import EvaluatorSettings
from autopoiesis.observer.settings import ObserverSettings
from autopoiesis.router.planner.settings import PlannerSettings
from autopoiesis.router.settings import RouterSettings
from autopoiesis.runtime.settings import Section
from autopoiesis.synthesizer.settings import LlmSettings, SynthesizerSettings
from autopoiesis.worker.settings import VllmSettings, WorkerSettings


class UpSettings(Section, frozen=True, kw_only=True):
    """What `autopoiesis up` starts on this machine."""

    prefix: ClassVar[str] = "up"
    workers: tuple[Worker, ...] = ()
    """One worker process each: `{node: a, replicas: 2xH100}` or `{node: b, attach: [URL]}`."""
    control_plane: bool = True
    """Start observer, synthesizer and evaluator (and PostgreSQL) here as well."""
    planner: bool = True
    """Start the planner, which runs plan policies; it leaves the fleet as it is until one is made active."""


SECTIONS: tuple[type[Section], ...] = (
    UpSettings,
    RouterSettings,
    PlannerSettings,
    WorkerSettings,
    VllmSettings,
    ObserverSettings,
    SynthesizerSettings,
    LlmSettings,
    EvaluatorSettings,
)
