"""The machines there are and what runs on them, as last heard of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from autopoiesis.contracts.messages.fleet import DesiredReplica, Heartbeat, NodeInventory

INVENTORY_S: Final = 25.0
"""An empty node tells of itself every ten seconds; two may be lost."""
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
    """Events in, `nodes` out. Only nodes that follow the planner count."""

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._nodes: dict[str, Node] = {}
        self.highest_lease = 0
        """Of the lease epochs that nodes have reconciled to."""

    def on_inventory(self, inventory: NodeInventory, now: float) -> None:
        node = self._node(inventory.node, now)
        node.gpus = dict(inventory.gpus) if inventory.plannable else {}

    def on_heartbeat(self, beat: Heartbeat, now: float) -> None:
        node = self._node(beat.node, now)
        node.beats[beat.replica] = (now, beat)
        node.beating = beat.state in RUNNING
        self.highest_lease = max(self.highest_lease, beat.lease_epoch)

    def nodes(self, now: float) -> dict[str, Node]:
        """Nodes that are there, follow the planner and have had time to say what runs on them; by name, sorted."""
        for node in list(self._nodes.values()):
            node.beats = {name: item for name, item in node.beats.items() if now - item[0] <= self._silence_s}
            if now - node.heard_s > self._patience(node):
                del self._nodes[node.name]
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

    def _patience(self, node: Node) -> float:
        return self._silence_s if node.beating else INVENTORY_S


def desired(beat: Heartbeat) -> DesiredReplica:
    return DesiredReplica(replica=beat.replica, model=beat.model, gpu=beat.gpu, tp=beat.tp, role=beat.role)
