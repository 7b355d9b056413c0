"""Prefill and decode apart in two real vLLMs: one writes the prompt's KV cache to a folder, the other reads it."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from conftest import ARGUMENTS, LOADING_S, installation
from handover_policy import TO_PREFILL
from vllm_world import A, Fleet, World, chat, stream, whole

from autopoiesis.runtime import embedded
from autopoiesis.runtime.bus import Bus

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

PROMPT = "the quick brown fox jumps over the lazy dog " * 12


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kv")


@pytest.fixture(scope="module")
def apart(
    vllm_python: str,
    checkpoints: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    shared_folder: Path,
) -> Iterator[World]:
    """Servers of its own: routers of other tests must not hear of these replicas."""
    connector = {
        "kv_connector": "ExampleConnector",
        "kv_connector_extra_config": {"shared_storage_path": str(shared_folder)},
    }
    with (
        embedded.Supervisor(tmp_path_factory.mktemp("apart")) as supervisor,
        installation(
            supervisor,
            embedded.start_nats(supervisor, supervisor.data_dir / "nats"),
            "pd",
            WORKER_REPLICAS="1xCPU:prefill + 1xCPU:decode",
            VLLM_PYTHON=vllm_python,
            VLLM_ARGS=ARGUMENTS + " --no-enable-prefix-caching",
            VLLM_CHECKPOINTS=json.dumps(checkpoints),
            VLLM_KV_TRANSFER=json.dumps(connector),
        ) as running,
    ):
        yield running


@pytest.fixture
async def http(apart: World) -> AsyncIterator[httpx.AsyncClient]:
    bus = await Bus.connect(apart.nats, name="test")
    fleet = await Fleet.listen(bus)
    await fleet.ready("pd-cpu-0", "pd-cpu-1")
    assert {beat.role for beat in fleet.last.values()} == {"prefill", "decode"}
    await bus.close()
    async with httpx.AsyncClient(base_url=apart.router, timeout=LOADING_S, trust_env=False) as client:
        answer = await client.put("/admin/policy/pin", json={"source": TO_PREFILL})
        assert answer.is_success, answer.text
        yield client


def stored(folder: Path) -> int:
    """Layers of prompts that were written."""
    return len(list(folder.rglob("*.safetensors")))


async def test_the_answer_is_made_from_the_cache_of_the_other(
    http: httpx.AsyncClient, shared_folder: Path
) -> None:
    body = {"model": A, "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    alone = await http.post("/v1/completions", json={**body, "prompt": [PROMPT, PROMPT]})  # is not split
    assert alone.headers["x-autopoiesis-replica"] == "pd-cpu-0", alone.text
    split = await http.post("/v1/completions", json=body)
    assert split.headers["x-autopoiesis-replica"] == "pd-cpu-1", split.text
    assert split.json()["choices"][0]["text"] == alone.json()["choices"][0]["text"]
    assert split.json()["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64
    assert stored(shared_folder) > 0


async def test_streams_are_made_so_too(http: httpx.AsyncClient) -> None:
    streamed = await stream(http, chat(PROMPT, max_tokens=24))
    assert streamed.done
    assert streamed.replica == "pd-cpu-1"
    assert streamed.usage is not None
    assert streamed.usage["completion_tokens"] == 24
    said = await whole(http, chat(PROMPT, max_tokens=24))
    assert said["choices"][0]["message"]["content"] == streamed.text
