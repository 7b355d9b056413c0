"""What simulated engines say to each other of a computed prompt, and how long its KV cache takes from one to the other."""

from __future__ import annotations

import msgspec

from autopoiesis.simulator.fleet import ReplicaSpec
from autopoiesis.simulator.transfer import transfer_seconds


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Where a prompt's KV cache is: `Finished.kv_transfer` of a simulated engine."""

    name: str
    node: str
    prompt_tokens: int
    kv_token_bytes: int
    link_bandwidth: float
    """Bytes per second inside the node."""
    network_bandwidth: float
    """Bytes per second to other nodes."""


def kept(spec: ReplicaSpec, prompt_tokens: int) -> msgspec.Raw:
    """For the engine that decodes."""
    return msgspec.Raw(
        msgspec.json.encode(
            Kept(
                name=spec.name,
                node=spec.node,
                prompt_tokens=prompt_tokens,
                kv_token_bytes=spec.kv_token_bytes,
                link_bandwidth=spec.link_bandwidth,
                network_bandwidth=spec.network_bandwidth,
            )
        )
    )


def transfer_s(words: msgspec.Raw, target: ReplicaSpec) -> float:
    """Seconds until the KV cache is at `target`. Raises `ValueError` for the words of another kind of engine."""
    try:
        source = msgspec.json.decode(words, type=Kept)
    except msgspec.MsgspecError as error:
        raise ValueError(f"kv_transfer is not of a simulated engine: {error}") from error
    return sum(transfer_seconds(source.prompt_tokens, source, target))
