"""Which policy decides: the one in force, or the fallback while that one is quarantined."""

from __future__ import annotations

from typing import Final

from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.dispatch.chance import mix
from autopoiesis.dispatch.deciding import Decider
from autopoiesis.dispatch.events import Fault, Swapped
from autopoiesis.dispatch.fallback import Fallback
from autopoiesis.dispatch.filling import Hits
from autopoiesis.dispatch.port import Compile, CompiledPolicy
from autopoiesis.dispatch.settings import DispatchSettings
from autopoiesis.dispatch.strikes import Strikes

MAX_REASON: Final = 500


class Control:
    """`decider` decides now; `epoch` is that of the activation in force, 0 before the first."""

    def __init__(
        self,
        settings: DispatchSettings,
        policy: CompiledPolicy,
        compile_: Compile | None,
        hits: Hits,
        seed: int,
    ) -> None:
        self._settings = settings
        self._compile = compile_
        self._hits = hits
        self._seed = seed
        self._heard = 0
        self.epoch = 0
        self.fallback = Decider(Fallback(), hits, seed, alone=False)
        self._install(policy, 0)

    def _install(self, policy: CompiledPolicy, epoch: int) -> None:
        self.policy = policy
        self.epoch = epoch
        self.strikes = Strikes(self._settings.strikes, self._settings.strike_window_s)
        self.decider = Decider(policy, self._hits, mix(self._seed ^ mix(epoch)))

    @property
    def quarantined(self) -> bool:
        return self.strikes.quarantined

    def activate(self, activation: Activation, *, force: bool) -> Swapped | None:
        """None where the epoch is not news. Raises RuntimeError where the policy is one that stays."""
        if self._compile is None:
            raise RuntimeError(
                "this dispatcher was made for one policy that stays; give it `compile` to swap"
            )
        if activation.epoch <= self._heard and not force:
            return None
        self._heard = activation.epoch
        try:
            policy = self._compile(activation)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:MAX_REASON]
            return Swapped(activation.hash, activation.epoch, reason)
        self._install(policy, activation.epoch)
        return Swapped(policy.hash, activation.epoch)

    def fault(self, now: float, error: Exception) -> Fault:
        """Count a strike against the policy in force."""
        strikes = self.strikes.strike(now)
        if self.strikes.quarantined:
            self.decider = self.fallback
        return Fault(
            hash=self.policy.hash,
            epoch=self.epoch,
            fault=f"{type(error).__name__}: {error}"[:MAX_REASON],
            line=getattr(error, "line", 0),
            strikes=strikes,
            quarantined=self.strikes.quarantined,
        )
