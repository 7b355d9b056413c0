"""What an operator may turn."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSettings:
    """Limits and time constants of one dispatcher. Times are seconds, sizes tokens. Raises ValueError naming a bad field."""

    hold_max_s: float = 20.0
    """A request held this long is decided by the fallback; keep it under the idle timeouts of gateways in front."""
    max_reject_share: float = 0.1
    """Most of the last minute's arrivals of a model that a policy may reject, 0 to 1."""
    admit_ttft_factor: float = 0.0
    """Requests whose first token would come later than so many times their objective, by the prediction for every replica, are
    refused before anything is sent; 0 admits all."""
    max_queue: int = 10_000
    """Requests held per model; the next one is refused."""
    no_replica_wait_s: float = 5.0
    """How long requests wait for a model that has no ready replica."""
    suspect_after_s: float = 1.0
    """A replica silent this long is not offered to policies."""
    forget_after_s: float = 60.0
    """A replica silent this long with nothing in flight is forgotten."""
    max_attempts: int = 2
    """Sends of one request, the first included; those to replicas that turn out to be leaving do not count."""
    wake_interval_s: float = 0.005
    """Least time between two passes over held requests."""
    fuel_per_wake: int = 50_000
    """Fuel that one pass over held requests may spend, all models together."""
    fuel_per_second: int = 2_000_000
    """Fuel of all decisions in any second beyond which passes over held requests pause; arrivals are always decided."""
    rekey_per_wake: int = 64
    """Held requests per model whose priority is computed anew in each pass."""
    strikes: int = 5
    """Faults within `strike_window_s` that quarantine a policy."""
    strike_window_s: float = 60.0
    block_tokens: int = 256
    """Estimated tokens per prompt block of `Arrival.block_hashes`."""
    block_bytes: int = 0
    """Bytes of such a block, where prompts are cut by bytes: then its tokens are learned, per model; 0: they are `block_tokens`."""
    max_prefix_blocks: int = 65_536
    """Blocks remembered per replica, also bounded by its KV capacity."""
    max_parties: int = 100_000
    """Tenants, and as many sessions and workflows, that are remembered; the longest unseen go first."""
    prior_output_tokens: float = 256.0
    """Predicted answer length before anything was observed."""
    prior_tokens_per_byte: float = 0.25
    """Prompt tokens per byte before anything was observed."""

    def __post_init__(self) -> None:
        may_be_zero = {
            "admit_ttft_factor",
            "max_reject_share",
            "no_replica_wait_s",
            "hold_max_s",
            "wake_interval_s",
            "max_queue",
            "block_bytes",
        }
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in may_be_zero else 1e-9
            if not least <= value < float("inf"):
                raise ValueError(
                    f"{field.name} is {value!r}; it must be finite and {'at least 0' if least == 0 else 'above 0'}"
                )
        if self.max_reject_share > 1:
            raise ValueError(f"max_reject_share is {self.max_reject_share!r}; it is a share, at most 1")
