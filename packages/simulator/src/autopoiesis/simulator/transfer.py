"""Moving a computed prompt's KV cache from one replica to another."""

from __future__ import annotations

from typing import Final, Protocol

NEAR_SETUP_S: Final = 0.3e-3
FAR_SETUP_S: Final = 1e-3
"""Per transfer, inside a node and over RDMA between nodes (llm-d's tables: 0.1 to 0.5 ms and 0.5 to 2 ms)."""


class End(Protocol):
    """A replica as far as a transfer goes; `fleet.ReplicaSpec` is one."""

    @property
    def name(self) -> str: ...
    @property
    def node(self) -> str: ...
    @property
    def kv_token_bytes(self) -> int: ...
    @property
    def link_bandwidth(self) -> float: ...
    @property
    def network_bandwidth(self) -> float: ...


def transfer_seconds(tokens: int, source: End, target: End) -> tuple[float, float]:
    """Seconds of set-up, and seconds for which the source's link is busy. The slower end sets the pace.

    Raises `ValueError` where sizes or speeds are not known.
    """
    near = source.node == target.node
    if near:
        bandwidth = min(source.link_bandwidth, target.link_bandwidth)
    else:
        bandwidth = min(source.network_bandwidth, target.network_bandwidth)
    if not bandwidth or not source.kv_token_bytes:
        raise ValueError(
            f"KV transfer from {source.name} to {target.name}: kv_token_bytes and bandwidths must be above 0"
        )
    return (NEAR_SETUP_S if near else FAR_SETUP_S), tokens * source.kv_token_bytes / bandwidth
