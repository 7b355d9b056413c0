"""Which plan policy is in force: the newest activation heard of; until the first, and after too many faults, a shipped one."""

from __future__ import annotations

import structlog

from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.policy import API_VERSION, library
from autopoiesis.policy.language import PolicyError, compile_policy

log = structlog.get_logger(__name__)

KEEP = "plan_keep"


class Policies:
    """Faults in a row are strikes; a policy with `max_strikes` of them is quarantined until another activation comes."""

    def __init__(self, initial: str, *, max_strikes: int) -> None:
        compiled = library.load(initial)
        self.epoch = 0
        self.hash = compiled.hash
        self.source = compiled.source
        self.strikes = 0
        self._max_strikes = max_strikes
        self._keep = library.load(KEEP).hash

    @property
    def idle(self) -> bool:
        """Whether there is nothing to ask: the fleet stays as it is."""
        return self.quarantined or self.hash == self._keep

    @property
    def quarantined(self) -> bool:
        return self.strikes >= self._max_strikes

    def hear(self, activation: Activation) -> bool:
        """An activation arrived, perhaps again or late. Whether it is in force now."""
        if activation.kind != "plan" or activation.epoch <= self.epoch:
            return False
        try:
            if activation.api != API_VERSION:
                raise ValueError(f"written for policy API {activation.api}; this planner has {API_VERSION}")
            compiled = compile_policy(activation.source, "plan")
            if activation.hash and activation.hash != compiled.hash:
                raise ValueError(f"its source hashes to {compiled.hash}, not to {activation.hash}")
        except (ValueError, PolicyError) as error:
            log.error("plan policy refused", epoch=activation.epoch, hash=activation.hash, error=str(error))
            return False
        self.epoch, self.hash, self.source, self.strikes = activation.epoch, compiled.hash, compiled.source, 0
        log.info(
            "plan policy active",
            epoch=self.epoch,
            hash=self.hash,
            name=activation.name.partition("\n")[0],
            cause=activation.cause,
        )
        return True

    def faulted(self) -> int:
        """Count a strike; the policy's strikes in a row."""
        self.strikes += 1
        return self.strikes

    def succeeded(self) -> None:
        self.strikes = 0
