"""Real worker processes: stopped gracefully, killed, misconfigured."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from worker_world import Router, first_chunk, read

from autopoiesis.contracts.messages.infer import Failed, Finished
from autopoiesis.runtime.bus import Bus, NoRespondersError, ReplyError

Connect = Callable[..., Awaitable[Bus]]
WaitFor = Callable[..., Awaitable[None]]
Spawn = Callable[..., Awaitable[asyncio.subprocess.Process]]
REPLICA = "n9-h100-0"
FOREVER = 100_000


@pytest.fixture
async def spawn(nats_url: str) -> AsyncIterator[Spawn]:
    """Starts a worker process with the given settings."""
    started: list[asyncio.subprocess.Process] = []

    async def start(**settings: str) -> asyncio.subprocess.Process:
        plain = {"node": "n9", "replicas": "1xH100"}
        env = {f"AUTOPOIESIS_WORKER_{key.upper()}": value for key, value in {**plain, **settings}.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "autopoiesis.worker",
            env={**os.environ, "AUTOPOIESIS_BUS_URL": nats_url, **env},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def router(connect: Connect) -> Router:
    return await Router.start(await connect("router"))


async def test_sigterm_loses_no_request(spawn: Spawn, router: Router, wait_for: WaitFor) -> None:
    process = await spawn()
    await wait_for(lambda: router.state(REPLICA) == "ready", timeout=20)
    streams = [await router.send(REPLICA, output=60 + i) for i in range(8)]
    await first_chunk(streams[0])
    process.send_signal(signal.SIGTERM)
    answers = asyncio.gather(*map(read, streams[1:]))
    await wait_for(lambda: router.state(REPLICA) == "draining")
    late = await router.ask(REPLICA)
    assert isinstance(late.end, Failed)
    assert late.end.code == "unavailable"
    for i, answer in enumerate(await answers, start=1):
        assert isinstance(answer.end, Finished)
        assert answer.tokens == answer.end.output_tokens == 60 + i
    assert await asyncio.wait_for(process.wait(), 10) == 0
    assert router.state(REPLICA) == "stopped"


async def test_a_killed_worker_is_seen_at_the_next_send(
    spawn: Spawn, router: Router, wait_for: WaitFor
) -> None:
    process = await spawn()
    await wait_for(lambda: router.state(REPLICA) == "ready", timeout=20)
    running = await router.send(REPLICA, output=FOREVER)
    await first_chunk(running)
    process.kill()
    await process.wait()

    async def refused() -> bool:
        try:
            await router.ask(REPLICA)
        except NoRespondersError:
            return True
        except ReplyError:
            return False
        return False

    await wait_for(refused)
    before = router.last(REPLICA)
    assert before is not None
    await spawn()
    await wait_for(lambda: router.last(REPLICA).incarnation != before.incarnation, timeout=20)  # type: ignore[union-attr]
    assert isinstance((await router.ask(REPLICA)).end, Finished)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"replicas": "2xB17"}, "unknown GPU type 'B17'"),
        ({"model": "gpt-17"}, "unknown model 'gpt-17'"),
        ({"engine": "attached"}, "worker.attach"),
        ({"replicas": "1xL4", "model": "llama-3.1-70b"}, "does not fit on 1 x L4"),
    ],
)
async def test_bad_settings_end_the_process_with_the_reason(
    spawn: Spawn, settings: dict[str, str], says: str
) -> None:
    process = await spawn(**settings)
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    assert says in output.decode()
    assert "Traceback" not in output.decode()
    assert process.returncode == 2
