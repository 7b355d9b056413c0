"""What the router says of itself: readiness, gauges, and the operator's view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autopoiesis.dispatch import Dispatcher
from autopoiesis.router import reexport
from autopoiesis.router.admission import Admission
from autopoiesis.router.metrics import State
from autopoiesis.router.policies import Policies
from autopoiesis.router.serving import Serving
from autopoiesis.router.shipping import Shipper
from autopoiesis.runtime.telemetry import Telemetry


class Status:
    """Reads, never changes."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        serving: Serving,
        policies: Policies,
        admission: Admission,
        shipper: Shipper,
        telemetry: Telemetry,
        settle: Callable[[], None],
        servers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`settle` is called before metrics are read. `servers`: what attached servers' own `/metrics` said last, by replica."""
        self._dispatcher = dispatcher
        self._serving = serving
        self._policies = policies
        self._admission = admission
        self._shipper = shipper
        self._telemetry = telemetry
        self._settle = settle
        self._servers = servers

    @property
    def models(self) -> list[str]:
        return self._admission.models

    def exposition(self) -> bytes:
        self._settle()
        own = self._telemetry.registry.collect()
        return self._telemetry.exposition() + reexport.exposition(
            self._serving.fleet.beats, self._servers(), own
        )

    def missing(self) -> list[str]:
        """What keeps this router from serving, in words; nothing if it can."""
        missing = []
        if self._admission.draining:
            missing.append("the router is shutting down")
        if not self._serving.connected and not self._serving.serves_without_bus:
            missing.append("the bus is not connected (bus.url)")
        if all(replica.state != "ready" for replica in self._dispatcher.fleet()):
            missing.append("no replica is ready: start a worker, or wait until one has loaded its model")
        return missing

    def gauges(self) -> State:
        stats = self._dispatcher.stats()
        return State(
            in_flight=self._serving.in_flight,
            epoch=stats.epoch,
            quarantined=stats.quarantined,
            connected=self._serving.connected,
            queues=stats.queued,
            replicas=[(replica.model, replica.state) for replica in self._dispatcher.fleet()],
            telemetry_waiting=self._shipper.waiting,
            telemetry_dropped=self._shipper.dropped,
        )

    def state(self) -> dict[str, Any]:
        """Plain data for `/admin/state`."""
        stats, wanted = self._dispatcher.stats(), self._policies.wanted
        return {
            "policy": {
                "hash": wanted.hash,
                "title": wanted.name,
                "epoch": stats.epoch,
                "cause": wanted.cause,
                "pinned": self._policies.pinned is not None,
                "quarantined": stats.quarantined,
                "deciding": stats.policy,
            },
            "heard_epoch": self._policies.heard.epoch,
            "fleet": self._fleet(),
            "queue": stats.queued,
            "in_flight": self._serving.in_flight,
            "connected": self._serving.connected,
            "draining": self._admission.draining,
        }

    def _fleet(self) -> list[dict[str, Any]]:
        beats = {beat.replica: beat for beat in self._serving.fleet.beats}
        rows = []
        for replica in sorted(self._dispatcher.fleet(), key=lambda info: info.name):
            beat = beats.get(replica.name)
            rows.append(
                {
                    "replica": replica.name,
                    "node": replica.node,
                    "model": replica.model,
                    "gpu": replica.gpu,
                    "state": replica.state,
                    "inflight": replica.inflight,
                    "stats_age_s": round(replica.stats_age_s, 3),
                    "running": beat.running if beat else 0,
                    "waiting": beat.waiting if beat else 0,
                    "kv_used_tokens": beat.kv_used_tokens if beat else 0,
                    "kv_capacity_tokens": beat.kv_capacity_tokens if beat else 0,
                    "prefix_queries": beat.prefix_queries if beat else 0,
                    "prefix_hits": beat.prefix_hits if beat else 0,
                    "evictions": beat.evictions if beat else 0,
                }
            )
        return rows
