"""vLLM's metric names, from servers' own pages and from heartbeats."""

from typing import Any

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.parser import text_string_to_metric_families

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.router.reexport import exposition
from autopoiesis.runtime.servers.metrics import parse

PAGE = """\
# HELP python_info Python platform information
# TYPE python_info gauge
python_info{version="3.12"} 1.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
# HELP vllm:prefix_cache_hits_total Prefix cache hits.
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 7.0
# HELP vllm:time_to_first_token_seconds Time to first token.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 2.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 2.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 0.5
# HELP vllm:bare A sample without labels.
# TYPE vllm:bare gauge
vllm:bare 1.0
vllm:empty{} 2.0
"""


def beat(replica: str, model: str, **fields: Any) -> Heartbeat:
    return Heartbeat(
        node="n", replica=replica, incarnation="i", beat=1, state="ready", model=model, gpu="H100", **fields
    )


def samples(text: bytes) -> dict[str, list[tuple[dict[str, str], float]]]:
    """As Prometheus reads them; every family only once."""
    families = list(text_string_to_metric_families(text.decode()))
    assert len({family.name for family in families}) == len(families)
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_nothing_is_said_of_an_empty_fleet() -> None:
    assert exposition([], {}) == b""


def test_servers_show_what_is_theirs_with_their_name_on_it() -> None:
    found = samples(exposition([beat("a:1", "m"), beat("b:1", "m")], {"a:1": PAGE, "b:1": PAGE}))
    assert "python_info" not in found
    running = found["vllm:num_requests_running"]
    assert [(labels["server"], labels["model_name"], value) for labels, value in running] == [
        ("a:1", "m", 3.0),
        ("b:1", "m", 3.0),
    ]
    assert {labels["le"] for labels, _ in found["vllm:time_to_first_token_seconds_bucket"]} == {"0.1", "+Inf"}
    assert found["vllm:bare"][0] == ({"server": "a:1"}, 1.0)


def test_other_replicas_by_their_heartbeats_under_new_and_old_names() -> None:
    figures = {
        "running": 4,
        "waiting": 2,
        "kv_used_tokens": 250,
        "kv_capacity_tokens": 1000,
        "prefix_queries": 80,
        "prefix_hits": 20,
    }
    text = exposition([beat('odd"\\name', "m", **figures), beat("loading", "")], {})
    found = samples(text)
    values = {name: value for name, ((_, value),) in found.items()}
    assert values == {
        "vllm:num_requests_running": 4.0,
        "vllm:num_requests_waiting": 2.0,
        "vllm:kv_cache_usage_perc": 0.25,
        "vllm:gpu_cache_usage_perc": 0.25,
        "vllm:prefix_cache_queries_total": 80.0,
        "vllm:prefix_cache_hits_total": 20.0,
        "vllm:gpu_prefix_cache_queries_total": 80.0,
        "vllm:gpu_prefix_cache_hits_total": 20.0,
        "vllm:gpu_prefix_cache_hit_rate": 0.25,
    }
    assert found["vllm:num_requests_running"][0][0] == {
        "model_name": "m",
        "engine": "0",
        "server": 'odd"\\name',
    }
    assert (parse(text.decode()).running, parse(text.decode()).waiting) == (4, 2)


def test_latencies_of_models_whose_servers_do_not_show_theirs() -> None:
    disable_created_metrics()  # as the router does
    registry = CollectorRegistry()
    name = "gen_ai_server_time_to_first_token_seconds"
    labels = ("gen_ai_operation_name", "gen_ai_request_model", "slo_class")
    first = Histogram(name, "Arrival to first token", labels, buckets=(0.1, 1.0), registry=registry)
    for model, klass, seconds in (("m", "batch", 0.05), ("m", "interactive", 0.5), ("shown", "batch", 0.5)):
        first.labels("chat", model, klass).observe(seconds)
    beats = [beat("r", "m"), beat("a:1", "shown")]
    found = samples(exposition(beats, {"a:1": PAGE.replace('"m"', '"shown"')}, registry.collect()))
    own = [
        (labels.get("le"), value)
        for labels, value in found["vllm:time_to_first_token_seconds_bucket"]
        if labels["model_name"] == "m"
    ]
    assert own == [("0.1", 1.0), ("1.0", 2.0), ("+Inf", 2.0)]
    counts = {
        labels["model_name"]: value for labels, value in found["vllm:time_to_first_token_seconds_count"]
    }
    assert counts == {"m": 2.0, "shown": 2.0}
