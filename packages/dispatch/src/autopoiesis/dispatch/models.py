"""What the dispatcher keeps per model: the queue, the replicas, and what was learned of the requests."""

from __future__ import annotations

import math
from typing import Final

from autopoiesis.contracts.messages.fleet import StepModel
from autopoiesis.dispatch.estimators import PromptRatio
from autopoiesis.dispatch.keeping import Kept
from autopoiesis.dispatch.lengths import OutputLengths
from autopoiesis.dispatch.queue import HeldQueue
from autopoiesis.dispatch.replicas import ReplicaState
from autopoiesis.dispatch.settings import DispatchSettings
from autopoiesis.dispatch.traffic import Traffic
from autopoiesis.policy.api import Replica


class Offer:
    """The replicas that a policy is offered, and their views in the same order."""

    __slots__ = ("routers", "states", "until", "views")

    def __init__(self, states: tuple[ReplicaState, ...], until: float) -> None:
        self.states = states
        self.views: tuple[Replica, ...] = tuple(state.view for state in states)
        self.until = until
        self.routers = max((len(state.beat.received) for state in states if state.beat), default=1) or 1
        for index, view in enumerate(self.views):
            view.index = index


NOTHING: Final = Offer((), -math.inf)


class ModelState:
    """One model. `number` stands for its name in views."""

    __slots__ = (
        "_block_bytes",
        "_suspect_after",
        "block_tokens",
        "kept",
        "lengths",
        "members",
        "name",
        "number",
        "present",
        "queue",
        "ratio",
        "reader",
        "step_model",
        "touched",
        "traffic",
    )

    def __init__(self, name: str, number: int, settings: DispatchSettings, kept: Kept) -> None:
        self.name = name
        self.number = number
        self.kept = kept
        self.queue = HeldQueue()
        self.traffic = Traffic()
        self.lengths = OutputLengths(settings.prior_output_tokens)
        self.ratio = PromptRatio(settings.prior_tokens_per_byte)
        self._block_bytes = settings.block_bytes
        self.block_tokens = settings.block_tokens
        """Of one prompt block, as far as is known."""
        self.members: list[ReplicaState] = []
        self.touched: dict[ReplicaState, None] = {}
        """Replicas whose views do not show yet what happened to them."""
        self.reader: object = None
        """Who brings those views up to date, and only in the fields that its policy reads."""
        self.step_model: StepModel | None = None
        """Of the replica heard last."""
        self._suspect_after = settings.suspect_after_s
        self.present = NOTHING
        """The offer that holds before its `until`; ask `offer` from then on."""

    def offer(self, now: float) -> Offer:
        """Replicas that are ready and not suspect, in order of first sight."""
        offer = self.present
        if now < offer.until:
            return offer
        after = self._suspect_after
        states = tuple(state for state in self.members if state.ready and now < state.beat_at + after)
        until = min((state.beat_at for state in states), default=-math.inf) + after
        self.present = offer = Offer(states, until)
        return offer

    def counted(self, prompt_bytes: int, tokens: int) -> None:
        """An engine counted the tokens of a prompt."""
        self.ratio.observe(prompt_bytes, tokens)
        if self._block_bytes:
            self.block_tokens = round(self._block_bytes * self.ratio.value) or 1

    def enlist(self, state: ReplicaState) -> None:
        state.model = self
        self.members.append(state)
        self.touched[state] = None

    def dismiss(self, state: ReplicaState) -> None:
        self.members.remove(state)
        self.touched.pop(state, None)
        self.changed()

    def changed(self) -> None:
        """A replica joined, left, or changed its state."""
        self.present = NOTHING
