"""The life of a service process: start, ready, graceful stop, or a loud death."""

import asyncio
import contextlib
import faulthandler
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, NoReturn

from autopoiesis.runtime.errors import OperatorError
from autopoiesis.runtime.http import HttpServer

log = logging.getLogger(__name__)

READY_FD = "AUTOPOIESIS_READY_FD"
GRACE = 10.0
"""Seconds between the first SIGTERM or SIGINT and giving up on a graceful stop."""

LAST_RESORT = 2.0
"""Seconds that a cancelled main gets before the process ends under it."""

OK, CRASHED, REFUSED = 0, 1, 2


class Service:
    """What `run_service` gives to a service's main function."""

    def __init__(self, name: str, group: asyncio.TaskGroup, grace: float) -> None:
        self.name = name
        self.grace = grace
        self.stopping = asyncio.Event()
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()
        self._exits = contextlib.AsyncExitStack()
        self._failure: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str = "") -> asyncio.Task[None]:
        """Run a background task. An exception in it ends the service; a graceful stop cancels it after main has returned."""
        task = self._group.create_task(work, name=name or None)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def on_exit(self, step: Callable[[], Awaitable[object]]) -> None:
        """Call `step` when main has returned or failed, last registered first."""
        self._exits.push_async_callback(step)

    async def serve(
        self, app: Any, *, host: str, port: int, grace: float = GRACE, **options: Any
    ) -> HttpServer:
        """Start an HTTP server that stops with the service (or earlier, by its `stop`)."""
        server = await HttpServer.start(app, host=host, port=port, grace=grace, **options)
        self.on_exit(server.stop)
        return server

    def ready(self, **info: Any) -> None:
        """Tell whoever started this process that it serves; `info` is JSON, for instance ``http="http://…"``."""
        log.info("%s is ready %s", self.name, info or "")
        notify_ready(**info)

    def stop(self) -> None:
        self.stopping.set()

    def fail(self, reason: str) -> None:
        """End the process with an error: something it cannot live without has gone."""
        if not self._failure.done():
            self._failure.set_exception(RuntimeError(reason))

    async def until_stopped(self) -> None:
        """Return at the first SIGTERM or SIGINT. Raises when `fail` was called."""
        stop: asyncio.Future[Any] = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait([stop, self._failure], return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                await self._failure
        finally:
            stop.cancel()

    async def close(self) -> None:
        if not self._failure.cancel():
            self._failure.exception()  # seen: a stop may have come first
        await self._exits.aclose()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            asyncio.get_running_loop().call_later(self.grace, _abandon, self.name, task.exception())

    def cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()


Main = Callable[[Service], Awaitable[None]]


def notify_ready(**info: Any) -> None:
    """Write `info` as one JSON line to the supervisor's pipe, if a supervisor started this process. Once per process."""
    number = os.environ.pop(READY_FD, None)
    if number is not None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(int(number), "w") as pipe:
            pipe.write(json.dumps({"pid": os.getpid(), **info}) + "\n")


def run_service(main: Main, *, name: str, grace: float = GRACE) -> NoReturn:
    """Run `main(service)` until it returns, and exit: 0 well, 1 crashed or too slow to stop, 2 refused to start.

    `main` sets up, calls `service.ready`, awaits `service.until_stopped()`, ends gracefully and returns; then tasks it
    spawned are cancelled. SIGTERM and SIGINT begin that; after `grace` seconds, or a second signal, it is cancelled.
    An `OperatorError` is logged as its message alone, any other exception with its traceback. SIGUSR1 prints stacks.
    """
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(_run(main, name, grace))
    logging.shutdown()
    sys.exit(code)


async def _run(main: Main, name: str, grace: float) -> int:
    try:
        async with asyncio.TaskGroup() as group:
            service = Service(name, group, grace)
            work = group.create_task(_main(main, service), name=f"{name} main")
            work.add_done_callback(lambda _: service.cancel_tasks())
            _handle_signals(service, work)
    except BaseExceptionGroup as errors:
        return _explain(name, list(_leaves(errors)))
    if work.cancelled():
        log.critical("%s did not stop within %g s", name, grace)
        return CRASHED
    return OK


async def _main(main: Main, service: Service) -> None:
    try:
        await main(service)
    finally:
        await service.close()


def _handle_signals(service: Service, work: asyncio.Task[None]) -> None:
    loop = asyncio.get_running_loop()

    def give_up() -> None:
        work.cancel()
        loop.call_later(LAST_RESORT, os._exit, CRASHED)

    def stop() -> None:
        if service.stopping.is_set():
            give_up()
        else:
            log.info("%s: stopping", service.name)
            service.stop()
            loop.call_later(service.grace, give_up)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def _abandon(name: str, error: BaseException | None) -> None:
    log.critical("%s crashed, and main did not end after it", name, exc_info=error)
    os._exit(CRASHED)


def _explain(name: str, errors: list[BaseException]) -> int:
    for error in errors:
        if isinstance(error, OperatorError):
            log.critical("%s: %s", name, error)
        else:
            log.critical("%s crashed", name, exc_info=error)
    return REFUSED if all(isinstance(error, OperatorError) for error in errors) else CRASHED


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
