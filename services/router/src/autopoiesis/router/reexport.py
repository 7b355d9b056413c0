"""`vllm:*` metrics of every replica, for dashboards and scalers that know vLLM and not us.

A server that is attached here shows all it has, with the label `server` added. Of other replicas the names that schedulers scale by
come from heartbeats, and latencies by model from this router's own histograms.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.core import Metric

from autopoiesis.contracts.messages.fleet import Heartbeat

PREFIXES: Final = ("vllm:", "sglang:", "llamacpp:")

_HISTOGRAMS: Final = {
    "gen_ai_server_time_to_first_token_seconds": "vllm:time_to_first_token_seconds",
    "gen_ai_server_time_per_output_token_seconds": "vllm:request_time_per_output_token_seconds",
    "gen_ai_server_request_duration_seconds": "vllm:e2e_request_latency_seconds",
}
_MODEL: Final = "gen_ai_request_model"


class _Family:
    __slots__ = ("about", "kind", "samples")

    def __init__(self, kind: str, about: str) -> None:
        self.kind = kind
        self.about = about
        self.samples: list[str] = []


class Families:
    """Samples grouped by metric, as the text format wants them."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}

    def add(self, name: str, kind: str, about: str, sample: str) -> None:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = _Family(kind, about)
        family.samples.append(sample)

    def text(self) -> bytes:
        lines = []
        for name, family in self._families.items():
            lines += [f"# HELP {name} {family.about}", f"# TYPE {name} {family.kind}", *family.samples]
        return ("\n".join(lines) + "\n").encode() if lines else b""


def exposition(beats: Iterable[Heartbeat], servers: Mapping[str, str], own: Iterable[Metric] = ()) -> bytes:
    """Prometheus text. `servers`: by replica what its own `/metrics` said; `own`: this router's metrics."""
    families = Families()
    shown: set[str] = set()
    for replica in sorted(servers):
        _pass_on(families, replica, servers[replica])
    for beat in beats:
        if not beat.model or beat.state == "stopped":
            continue
        if servers.get(beat.node if beat.via else beat.replica):
            shown.add(beat.model)
        else:
            _describe(families, beat)
    _latencies(families, own, shown)
    return families.text()


def _pass_on(families: Families, server: str, text: str) -> None:
    """The lines of `text` that are an engine's, each with `server` as its first label. Line by line: parsing would cost far more."""
    label = f'server="{_escaped(server)}"'
    name, kind, about = "", "untyped", ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, _, about = line[7:].partition(" ")
            kind = "untyped"
        elif line.startswith("# TYPE "):
            name, _, kind = line[7:].partition(" ")
        elif line.startswith(PREFIXES) and name and line.startswith(name.removesuffix("_total")):
            brace = line.find("{")
            if brace >= 0:
                comma = "" if line[brace + 1] == "}" else ","
                sample = f"{line[: brace + 1]}{label}{comma}{line[brace + 1 :]}"
            else:
                metric, _, value = line.partition(" ")
                sample = f"{metric}{{{label}}} {value}"
            families.add(name, kind, about, sample)


def _describe(families: Families, beat: Heartbeat) -> None:
    model, server = _escaped(beat.model), _escaped(beat.replica)
    labels = f'{{model_name="{model}",engine="0",server="{server}"}}'
    capacity = beat.kv_capacity_tokens
    used = beat.kv_used_tokens / capacity if capacity else 0.0
    rate = beat.prefix_hits / beat.prefix_queries if beat.prefix_queries else 0.0
    for name, kind, about, value in (
        ("num_requests_running", "gauge", "Requests in the batch", beat.running),
        ("num_requests_waiting", "gauge", "Requests that wait for the batch", beat.waiting),
        ("kv_cache_usage_perc", "gauge", "Share of the KV cache in use, 0 to 1", used),
        ("gpu_cache_usage_perc", "gauge", "The same by its old name", used),
        ("prefix_cache_queries_total", "counter", "Prompt tokens looked up", beat.prefix_queries),
        ("prefix_cache_hits_total", "counter", "Prompt tokens found", beat.prefix_hits),
        ("gpu_prefix_cache_queries_total", "counter", "The same by its old name", beat.prefix_queries),
        ("gpu_prefix_cache_hits_total", "counter", "The same by its old name", beat.prefix_hits),
        ("gpu_prefix_cache_hit_rate", "gauge", "Hits per query since start", rate),
    ):
        families.add(f"vllm:{name}", kind, about, f"vllm:{name}{labels} {float(value)}")


def _latencies(families: Families, own: Iterable[Metric], shown: set[str]) -> None:
    """Histograms of this router under vLLM's names, for models whose servers do not show theirs."""
    for metric in own:
        name = _HISTOGRAMS.get(metric.name)
        if name is None:
            continue
        sums: dict[tuple[str, str, str], float] = defaultdict(float)
        for sample in metric.samples:
            model = sample.labels.get(_MODEL, "")
            if model not in shown:
                suffix = sample.name.removeprefix(metric.name)
                sums[suffix, model, sample.labels.get("le", "")] += sample.value
        for (suffix, model, bound), value in sums.items():
            le = f',le="{bound}"' if bound else ""
            labels = f'{{model_name="{_escaped(model)}",engine="0"{le}}}'
            families.add(name, "histogram", metric.documentation, f"{name}{suffix}{labels} {value}")


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
