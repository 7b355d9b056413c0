"""A real `autopoiesis up`: ended in every way it leaves nothing behind, and finds its data again."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from e2e_world import Probe, command, family, state, until
from openai_server import OpenAIServer
from processes import living

from autopoiesis.policy import library

pytestmark = [pytest.mark.xdist_group("up"), pytest.mark.slow]


@dataclass(frozen=True)
class Up:
    """One process of `autopoiesis up`, what it printed, and every process that came of it."""

    data: Path
    process: subprocess.Popen[str]
    printed: dict[str, Any]
    family: list[psutil.Process]
    services: dict[str, int]
    """Name to process id, as `run.json` has them."""

    @property
    def router(self) -> str:
        return str(self.printed["router"])


@asynccontextmanager
async def up(data: Path, *arguments: str) -> AsyncIterator[Up]:
    """Start it in a session of its own, as a terminal would, and wait until it says that it is up."""
    argv = [sys.executable, "-m", "autopoiesis.cli", "up", "--data", str(data), "--port", "0", "--json"]
    with (
        (data.parent / "up.log").open("ab") as log,
        subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [*argv, *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=data.parent,
            start_new_session=True,
        ) as process,
    ):
        try:
            printed = await asyncio.to_thread(_json, process)
            services = json.loads((data / "run.json").read_text())["services"]
            yield Up(data, process, printed, family(process.pid), services)
        finally:
            process.kill()


def _json(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)
    pytest.fail(f"`autopoiesis up` ended with {process.wait()} before it was up; it printed {text!r}")


def using(data: Path) -> list[psutil.Process]:
    """Processes that work in a data directory, or were told of it."""
    everything = psutil.process_iter(["cwd", "cmdline"], ad_value=None)
    return [
        process
        for process in everything
        if str(data) in " ".join([process.info["cwd"] or "", *(process.info["cmdline"] or ())])
    ]


async def ends(running: Up, number: signal.Signals, code: int) -> None:
    """Signal it and wait until it has ended with `code`, and with it every process and process group it made."""
    assert set(running.services.values()) <= {process.pid for process in running.family}
    (os.kill if number == signal.SIGKILL else os.killpg)(running.process.pid, number)
    assert await asyncio.to_thread(running.process.wait, 60) == code
    await until(lambda: not living(running.family) and not using(running.data), 60)
    for pid in running.services.values():  # each service leads a group
        with pytest.raises(ProcessLookupError):
            os.killpg(pid, 0)


async def test_however_it_ends_nothing_is_left_and_its_data_is_found_again(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    data, wanted = tmp_path / "data", library.load("slo_triage").hash
    async with up(data, "--replicas", "1xL40S") as running:
        await asyncio.to_thread(command, "policy", "promote", "slo_triage", "--data", str(data))
        await until(lambda: decides(http, running, wanted))
        epoch = (await state(http, running.router))["policy"]["epoch"]
        await ends(running, signal.SIGKILL, -signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        shutil.rmtree(data / "nats")  # what NATS remembers must come from PostgreSQL, through the promoter
        async with up(data, "--replicas", "1xL40S") as again:
            await until(lambda: decides(http, again, wanted))
            assert (await state(http, again.router))["policy"]["epoch"] >= epoch
            await until(lambda: is_ready(http, again))
            probe = Probe(http, again.router, tokens=60)
            await until(lambda: probe.began)  # noqa: B023
            await ends(again, number, 0)
            await probe.task
            assert probe.finished, "what runs when it stops is served to its end"
        assert not (data / "run.json").exists()


async def decides(http: httpx.AsyncClient, running: Up, policy: str) -> bool:
    return bool((await state(http, running.router))["policy"]["deciding"] == policy)


@pytest.mark.parametrize(
    ("number", "begun"), [(signal.SIGTERM, "nats"), (signal.SIGINT, "observer")], ids=["term", "int"]
)
async def test_ended_while_it_starts_it_leaves_nothing(
    tmp_path: Path, number: signal.Signals, begun: str
) -> None:
    data = tmp_path / "data"
    argv = [sys.executable, "-m", "autopoiesis.cli", "up", "--data", str(data), "--port", "0", "--json"]
    with subprocess.Popen(  # noqa: ASYNC220 - returns at once
        argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            await until((data / "logs" / f"{begun}.log").exists)
            assert len(using(data)) > 1
            process.send_signal(number)
            printed, _ = await asyncio.to_thread(process.communicate, timeout=60)
        finally:
            process.kill()  # else leaving this block waits for it, whatever went wrong
    assert printed == b"", "it said that it is up"
    assert process.returncode != 0
    assert not using(data)


@pytest.fixture
def only_serving(tmp_path: Path) -> Path:
    """A configuration without control plane: it starts faster, and PostgreSQL is not needed."""
    file = tmp_path / "autopoiesis.yaml"
    file.write_text("up:\n  control_plane: false\n")
    return file


async def test_an_attached_server_is_served(
    tmp_path: Path, only_serving: Path, http: httpx.AsyncClient
) -> None:
    async with (
        OpenAIServer(tokens=4).running() as server,
        up(tmp_path / "data", "--attach", server.url, "--config", str(only_serving)) as running,
    ):
        await until(lambda: is_ready(http, running))
        url = f"{running.router}/v1/chat/completions"
        models = (await http.get(f"{running.router}/v1/models")).json()
        assert [model["id"] for model in models["data"]] == ["served/model"]

        whole = (await http.post(url, json=asking(stream=False))).json()
        assert whole["choices"][0]["message"]["content"] == "w " * 4
        streamed = (await http.post(url, json=asking(stream=True, temperature=0.3))).text
        assert "".join(contents(streamed)) == "w0 w1 w2 w3 "
        assert streamed.endswith("data: [DONE]\n\n")
        assert server.bodies[-1]["temperature"] == 0.3

        server.gate.clear()
        for left, stream in enumerate((True, False), start=1):
            asked = len(server.bodies)
            request = asyncio.create_task(http.post(url, json=asking(stream=stream)))
            await until(lambda: len(server.bodies) == asked + 1)  # noqa: B023
            request.cancel()
            await until(lambda: server.left == left)  # noqa: B023
        await ends(running, signal.SIGTERM, 0)


async def is_ready(http: httpx.AsyncClient, running: Up) -> bool:
    return (await http.get(f"{running.router}/ready")).is_success


def asking(**options: object) -> dict[str, object]:
    return {"model": "served/model", "messages": [{"role": "user", "content": "hello"}], **options}


def contents(stream: str) -> list[str]:
    events = [
        json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")
    ]
    return [choice["delta"].get("content", "") for event in events for choice in event["choices"]]
