"""Service processes under the supervisor: ready, stopped, crashed, late."""

import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from autopoiesis.runtime import embedded

HEADER = """
import asyncio, logging
from autopoiesis.runtime.errors import OperatorError
from autopoiesis.runtime.lifecycle import run_service
logging.basicConfig(level="INFO")
"""


@pytest.fixture
def start(own_supervisor: embedded.Supervisor, tmp_path: Path) -> Callable[..., embedded.Child]:
    def start(body: str, *, grace: float = 10.0, **options: object) -> embedded.Child:
        script = tmp_path / "service.py"
        script.write_text(f"{HEADER}{body}\nrun_service(main, name='example', grace={grace})\n")
        return own_supervisor.start("service", [sys.executable, script], **{"ready": "notify", **options})  # type: ignore[arg-type]

    return start


SERVER = """
async def app(scope, receive, send):
    if scope["path"] == "/slow":
        await asyncio.sleep(0.3)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answered"})

async def main(service):
    server = await service.serve(app, host="127.0.0.1", port=0)
    service.ready(http=server.url)
    await service.until_stopped()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_and_stops_well(start: Callable[..., embedded.Child], number: int) -> None:
    child = start(SERVER)
    assert child.ready is not None
    assert child.ready["pid"] == child.pid
    with urllib.request.urlopen(child.ready["http"]) as answer:
        assert answer.read() == b"answered"
    child.signal(number)
    assert child.wait(10) == 0
    assert "stopping" in child.log.read_text()


def test_an_open_request_is_finished_when_stopped(start: Callable[..., embedded.Child]) -> None:
    child = start(SERVER)
    assert child.ready is not None
    request = urllib.request.Request(f"{child.ready['http']}/slow")

    def stop_it() -> None:
        child.signal(signal.SIGTERM)

    import threading

    timer = threading.Timer(0.1, stop_it)
    timer.start()
    with urllib.request.urlopen(request) as answer:
        assert answer.read() == b"answered"
    timer.join()
    assert child.wait(10) == 0


def test_a_failing_task_ends_the_process_with_its_traceback(start: Callable[..., embedded.Child]) -> None:
    child = start(
        """
async def broken():
    raise ZeroDivisionError("in the background")

async def main(service):
    service.ready()
    service.spawn(broken())
    await service.until_stopped()
"""
    )
    assert child.wait(10) == 1
    assert "in broken" in child.log.read_text()
    assert "ZeroDivisionError: in the background" in child.log.read_text()


def test_an_operator_error_is_told_without_traceback(start: Callable[..., embedded.Child]) -> None:
    with pytest.raises(embedded.ChildFailedError, match="set colour to blue") as caught:
        start("async def main(service):\n    raise OperatorError('set colour to blue')")
    assert "ended with code 2" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_fail_ends_a_waiting_service(start: Callable[..., embedded.Child]) -> None:
    child = start(
        """
async def main(service):
    service.ready()
    service.fail("the bus is closed")
    await service.until_stopped()
"""
    )
    assert child.wait(10) == 1
    assert "the bus is closed" in child.log.read_text()


LATE = """
async def main(service):
    service.ready()
    await service.until_stopped()
    {forever}
"""


@pytest.mark.parametrize(
    "forever",
    [
        "await asyncio.sleep(100)",
        "while True:\n        try: await asyncio.sleep(100)\n        except BaseException: pass",
    ],
)
def test_a_service_that_does_not_stop_is_ended(start: Callable[..., embedded.Child], forever: str) -> None:
    child = start(LATE.format(forever=forever), grace=0.1)
    child.signal(signal.SIGTERM)
    assert child.wait(10) == 1


def test_spawned_tasks_are_cancelled_after_main_and_exits_run_in_reverse(
    start: Callable[..., embedded.Child],
) -> None:
    child = start(
        """
async def work():
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        print("task cancelled", flush=True)
        raise

async def step(name):
    print(name, flush=True)

async def main(service):
    service.spawn(work())
    service.on_exit(lambda: step("registered first"))
    service.on_exit(lambda: step("registered last"))
    service.ready()
    await service.until_stopped()
    print("main ends", flush=True)
"""
    )
    child.signal(signal.SIGTERM)
    assert child.wait(10) == 0
    printed = [line for line in child.log.read_text().splitlines() if not line.startswith("INFO")]
    assert printed == ["main ends", "registered last", "registered first", "task cancelled"]


def test_a_taken_port_is_explained(start: Callable[..., embedded.Child]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            embedded.ChildFailedError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"
        ):
            start(SERVER.replace("port=0", f"port={port}"))
