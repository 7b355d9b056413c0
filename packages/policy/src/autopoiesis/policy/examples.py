"""Example states, to try a policy on: `autopoiesis policy run FILE --example dispatch|plan` prints them."""

from __future__ import annotations

from typing import Any, Final

from autopoiesis.policy.api import Kind


def _replica(replica_id: int, gpu: str, running: int, **others: object) -> dict[str, Any]:
    large = gpu == "H100"
    return {
        "id": replica_id,
        "gpu": gpu,
        "running": running,
        "queued_prefill_tokens": 40 * running,
        "kv_used_tokens": 900 * running,
        "kv_capacity_tokens": 400_000 if large else 180_000,
        "max_running": 256,
        "inflight": running,
        "predicted_ttft": (0.05 if large else 0.2) + 0.004 * running,
        "predicted_tpot": (0.012 if large else 0.035) + 0.0002 * running,
        "step_time": 0.012 if large else 0.035,
        "stats_age": 0.1,
        "uptime": 600.0,
        "price": 2.95 if large else 1.0,
        **others,
    }


def _model(name: str, concurrency: int) -> dict[str, Any]:
    return {
        "name": name,
        "concurrency": concurrency,
        "prompt_tokens": 900,
        "output_tokens": 250,
        "min_replicas": 1,
    }


EXAMPLES: Final[dict[Kind, dict[str, Any]]] = {
    "dispatch": {
        "request": {
            "seq": 41,
            "prompt_tokens": 900,
            "max_tokens": 512,
            "expected_output_tokens": 220.0,
            "arrival": 99.9,
            "waited": 0.1,
            "session": 7,
            "session_replica": 102,
            "ttft_slo": 2.0,
            "tpot_slo": 0.1,
        },
        "replicas": [
            _replica(101, "H100", 60),
            _replica(102, "H100", 25, prefix_hit_tokens=512),
            _replica(103, "L40S", 4),
            _replica(104, "L40S", 12),
        ],
        "ctx": {"now": 100.0, "queue_length": 3, "arrival_rate": 12.0, "attainment": 0.97},
    },
    "plan": {
        "step": 12,
        "now": 60.0,
        "models": [_model("Llama-3.1-8B", 120), _model("Qwen2.5-72B", 40)],
        "gpus": [
            {"type": "H100", "count": 16, "per_node": 8},
            {"type": "L40S", "count": 4, "per_node": 4},
        ],
        "plan": [
            {"model": 0, "gpu": "L40S", "tp": 1, "count": 4},
            {"model": 1, "gpu": "H100", "tp": 8, "count": 1},
        ],
        "last": {
            "step": 4,
            "now": 20.0,
            "models": [_model("Llama-3.1-8B", 30), _model("Qwen2.5-72B", 40)],
            "gpus": [
                {"type": "H100", "count": 8, "per_node": 8},
                {"type": "L40S", "count": 4, "per_node": 4},
            ],
        },
    },
}
"""One state per kind, as `states` reads it."""
