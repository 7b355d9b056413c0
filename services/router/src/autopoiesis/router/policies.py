"""Which policy this router should run: the newest activation it has heard of, unless an operator pinned another."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.policy import API_VERSION, library
from autopoiesis.policy.language import CompiledPolicy, compile_policy

log = structlog.get_logger(__name__)

Activate = Callable[[Activation, bool], str]
"""Hands an activation, forced or not, to the dispatcher; returns why it was refused, empty if it was not."""

KIND: Final = "dispatch"


def compile_activation(activation: Activation) -> CompiledPolicy:
    """Raises ValueError for another API version or a hash that is not the source's, PolicyError for a bad source."""
    if activation.api != API_VERSION:
        raise ValueError(f"written for policy API {activation.api}; this router has {API_VERSION}")
    policy = compile_policy(activation.source, KIND)
    if activation.hash and activation.hash != policy.hash:
        raise ValueError(f"its source hashes to {policy.hash}, not to {activation.hash}")
    return policy


class Policies:
    """Decides between activations and the pin. `scope` labels policies that are given here, which have epoch 0."""

    def __init__(self, activate: Activate, *, scope: str, initial: str) -> None:
        self._activate = activate
        self._scope = scope
        self.heard = self.given(library.source(initial), name=initial, cause="configuration")
        """The newest activation that was not refused."""
        self.pinned: Activation | None = None

    @property
    def wanted(self) -> Activation:
        """What should decide now."""
        return self.pinned or self.heard

    def hear(self, activation: Activation) -> None:
        """An activation arrived, perhaps again or late; a pin keeps it waiting."""
        if activation.kind != KIND or activation.epoch <= self.heard.epoch:
            return
        if self.pinned is None and self._activate(activation, False):
            return
        self.heard = activation

    def pin(self, source: str, name: str = "") -> Activation:
        """Let `source` decide until `unpin`. Raises PolicyError if it is not a policy."""
        pinned = self.given(source, name=name, cause="pinned by an operator")
        refused = self._activate(pinned, True)
        if refused:
            raise ValueError(refused)
        self.pinned = pinned
        log.info("policy pinned", name=name, hash=pinned.hash)
        return pinned

    def unpin(self) -> Activation:
        """Go back to the newest activation heard of. Returns what decides now."""
        if self.pinned is not None:
            refused = self._activate(self.heard, True)
            if refused:
                raise ValueError(refused)
            self.pinned = None
            log.info("pin removed", epoch=self.heard.epoch)
        return self.heard

    def given(self, source: str, *, name: str, cause: str) -> Activation:
        """An activation of a policy that was given on this router."""
        policy = compile_policy(source, KIND)
        return Activation(
            scope=self._scope,
            kind=KIND,
            epoch=0,
            hash=policy.hash,
            source=policy.source,
            api=API_VERSION,
            cause=cause,
            at_unix_s=time.time(),
            name=name or _title(policy),
        )


def _title(policy: CompiledPolicy) -> str:
    return policy.title.splitlines()[0] if policy.title else ""
