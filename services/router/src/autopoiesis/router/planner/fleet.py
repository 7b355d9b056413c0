"""The machines there are and what runs on them, as last heard of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from autopoiesis.contracts.messages.fleet import DesiredReplica, DesiredState, Heartbeat, NodeInventory

log = structlog.get_logger(__name__)

HEARING_S: Final = 2.0
"""Replicas beat four times a second: who runs one is known after so long, on a slow machine too."""
ANNOUNCED_S: Final = 12.0
"""An empty node tells of itself every ten seconds."""
INVENTORY_S: Final = 25.0
"""Two of these may be lost."""
SETTLED_S: Final = 1.0
"""After its inventory, a node's replicas have had time for a heartbeat."""
RUNNING: Final = frozenset({"loading", "ready"})


@dataclass(slots=True)
class Node:
    """One machine. Times are those of the caller's monotonic clock."""

    name: str
    first_s: float
    heard_s: float
    gpus: dict[str, int] = field(default_factory=dict)
    beats: dict[str, tuple[float, Heartbeat]] = field(default_factory=dict)
    """By replica: when it was heard of last, and what it said."""
    announced: bool = False
    """It said what it has, or never will: attached servers beat for themselves."""
    beating: bool = False
    """A replica of it was heard of: silence then means more."""

    def running(self) -> tuple[DesiredReplica, ...]:
        """What runs here, as it would be asked for."""
        return tuple(
            desired(beat)
            for _, beat in sorted(self.beats.values(), key=lambda item: item[1].replica)
            if beat.state in RUNNING
        )


class Fleet:
    """Events in, `nodes` out. Only nodes that follow the planner count. Hears from `now` on.

    Where most nodes fall silent at once the fault is rather on this side, a starved process or a lost connection. They are then
    doubted, not dropped, until they speak or have been silent for `INVENTORY_S` more.
    """

    def __init__(self, silence_s: float, now: float) -> None:
        self._silence_s = silence_s
        self._nodes: dict[str, Node] = {}
        self._since = now
        self._doubting = False
        self.highest_lease = 0
        """Of the lease epochs that nodes have reconciled to."""

    def on_inventory(self, inventory: NodeInventory, now: float) -> None:
        node = self._node(inventory.node, now)
        node.gpus = dict(inventory.gpus) if inventory.plannable else {}
        node.announced = True

    def on_heartbeat(self, beat: Heartbeat, now: float) -> None:
        node = self._node(beat.node, now)
        node.beats[beat.replica] = (now, beat)
        node.beating = beat.state in RUNNING
        node.announced |= bool(beat.via)
        self.highest_lease = max(self.highest_lease, beat.lease_epoch)

    def resume(self, now: float) -> None:
        """Nothing could be heard for a while: silence counts from `now` on."""
        self._since = now

    def settled(self, now: float, told: Mapping[str, DesiredState]) -> bool:
        """Whether everybody has had time to be heard, those that were `told` what to run included. Until then `nodes` is a part.

        To be asked after `nodes`.
        """
        heard_s = now - self._since
        if self._doubting or heard_s < HEARING_S:
            return False
        if any(not node.announced and now - node.first_s < INVENTORY_S for node in self._nodes.values()):
            return False
        return not any(
            heard_s < (self._silence_s if state.replicas else ANNOUNCED_S)
            for name, state in told.items()
            if name not in self._nodes
        )

    def nodes(self, now: float) -> dict[str, Node]:
        """Nodes that are there, follow the planner and have had time to say what runs on them; by name, sorted."""
        self._doubt(now)
        if not self._doubting:
            for node in self._silent(now):
                del self._nodes[node.name]
            for node in self._nodes.values():
                node.beats = {
                    name: item
                    for name, item in node.beats.items()
                    if now - max(item[0], self._since) <= self._silence_s
                }
        known = sorted(self._nodes.items())
        return {name: node for name, node in known if node.gpus and now - node.first_s >= SETTLED_S}

    def load(self) -> Mapping[str, int]:
        """Requests in replicas by model, running and waiting."""
        found: dict[str, int] = {}
        for node in self._nodes.values():
            for _, beat in node.beats.values():
                found[beat.model] = found.get(beat.model, 0) + beat.running + beat.waiting
        return found

    def _node(self, name: str, now: float) -> Node:
        node = self._nodes.setdefault(name, Node(name, now, now))
        node.heard_s = now
        return node

    def _silent(self, now: float) -> list[Node]:
        return [
            node
            for node in self._nodes.values()
            if now - max(node.heard_s, self._since) > (self._silence_s if node.beating else INVENTORY_S)
        ]

    def _doubt(self, now: float) -> None:
        """Begin to doubt where most are silent; cease where most have spoken since, or had time enough to."""
        if self._doubting:
            unheard = sum(node.heard_s < self._since for node in self._nodes.values())
            self._doubting = 2 * unheard > len(self._nodes) and now - self._since <= INVENTORY_S
        elif 2 * len(self._silent(now)) > len(self._nodes):
            log.warning("most nodes fell silent at once; nothing is planned until they speak or stay silent")
            self._doubting = True
            self.resume(now)


def desired(beat: Heartbeat) -> DesiredReplica:
    return DesiredReplica(replica=beat.replica, model=beat.model, gpu=beat.gpu, tp=beat.tp, role=beat.role)
