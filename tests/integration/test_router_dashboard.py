"""The dashboard asks for metrics that exist."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from router_harness import running_router, stub_worker

DASHBOARD = Path(__file__).parents[2] / "infra" / "grafana" / "serving.json"
METRIC = re.compile(r"(?:autopoiesis_router_|gen_ai_server_|vllm:)[a-z_]+")


async def test_every_metric_of_the_dashboard_is_there(nats_url: str, wait_for: Callable[..., Any]) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {
        name for panel in panels for target in panel["targets"] for name in METRIC.findall(target["expr"])
    }
    assert len(asked) >= 12
    async with stub_worker(nats_url, "gpu/0"), running_router(nats_url) as router:
        await wait_for(router.ready)
        assert (await router.chat(stream=True)).is_success
        shown = {
            re.split(r"[{ ]", line)[0]
            for line in (await router.client.get("/metrics")).text.splitlines()
            if not line.startswith("#")
        }
    assert asked <= shown
