"""One transaction and the repositories that take part in it."""

from dataclasses import dataclass
from functools import cached_property

from sqlalchemy.ext.asyncio import AsyncSession

from autopoiesis.store.repositories.activations import Activations
from autopoiesis.store.repositories.archive import Archive
from autopoiesis.store.repositories.completions import Completions
from autopoiesis.store.repositories.control import Controls
from autopoiesis.store.repositories.evaluations import Evaluations
from autopoiesis.store.repositories.outbox import Outbox
from autopoiesis.store.repositories.policies import Policies
from autopoiesis.store.repositories.segments import Segments
from autopoiesis.store.repositories.snapshots import Snapshots


@dataclass
class Unit:
    """What `Store.begin` yields. State and the event that tells of it belong in the same unit."""

    session: AsyncSession

    @cached_property
    def policies(self) -> Policies:
        return Policies(self.session)

    @cached_property
    def snapshots(self) -> Snapshots:
        return Snapshots(self.session)

    @cached_property
    def segments(self) -> Segments:
        return Segments(self.session)

    @cached_property
    def evaluations(self) -> Evaluations:
        return Evaluations(self.session)

    @cached_property
    def activations(self) -> Activations:
        return Activations(self.session)

    @cached_property
    def controls(self) -> Controls:
        return Controls(self.session)

    @cached_property
    def archive(self) -> Archive:
        return Archive(self.session)

    @cached_property
    def completions(self) -> Completions:
        return Completions(self.session)

    @cached_property
    def outbox(self) -> Outbox:
        return Outbox(self.session)
