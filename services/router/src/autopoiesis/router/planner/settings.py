"""Settings of the planner, section `planner` of the configuration. Times are seconds."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from autopoiesis.contracts.messages.fleet import ModelBounds, PlanRules
from autopoiesis.runtime.settings import Section

_Seconds = Annotated[float, msgspec.Meta(gt=0.0)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class PlannerSettings(Section, frozen=True, kw_only=True):
    prefix: ClassVar[str] = "planner"
    policy: str = "plan_keep"
    """Shipped plan policy in force until an activation arrives (epoch 0); `plan_keep` leaves the fleet as it is."""
    step_s: _Seconds = 5.0
    """Between two monitoring steps."""
    window_s: _Seconds = 30.0
    """Requests that arrived in this time are the demand that a policy sees."""
    cooldown_s: Annotated[float, msgspec.Meta(ge=0.0)] = 30.0
    """After a change of the plan the policy is not asked for so long, unless GPUs came or went."""
    schedule_s: _Seconds = 60.0
    """Longest time that one step of the policy may take; then the plan stays."""
    lease_s: _Seconds = 6.0
    """A planner that has not renewed its lease for so long is replaced by another one."""
    silence_s: _Seconds = 3.0
    """A node whose replicas are all silent for so long is gone."""
    max_strikes: Annotated[int, msgspec.Meta(ge=1)] = 3
    """Faults in a row after which a policy is not asked any more, until the next activation."""
    seed: int = 0
    """Of the random numbers that policies see."""
    models: dict[str, ModelBounds] = msgspec.field(default_factory=dict)
    """Bounds by model; others keep at least one replica. A model named here is known before anyone serves it."""
    quota: dict[str, _Count] = msgspec.field(default_factory=dict)
    """Most GPUs that plans may use, by type; 0 for no bound."""

    @property
    def rules(self) -> PlanRules:
        return PlanRules(
            step_s=self.step_s,
            window_s=self.window_s,
            cooldown_s=self.cooldown_s,
            bounds=self.models,
            quota=self.quota,
        )
