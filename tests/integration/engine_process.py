"""A program that stands in the place of an engine's process: answers each request with its own body, or does what it says.

`python engine_process.py --fd N`. Words in a body: `hang` answers nothing, `die` ends the process at once. A model that is `restless`
cannot sleep, and a `sound sleeper` does not wake.
"""

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys

from autopoiesis.worker.engines import frames
from autopoiesis.worker.engines.base import Ended, EngineStats, Piece


async def main(fd: int) -> None:
    link: frames.Link[frames.ToEngine] = await frames.Link.over(socket.socket(fileno=fd), frames.ToEngine)
    configure = await link.receive()
    assert isinstance(configure, frames.Configure)
    if configure.checkpoint == "refused":
        link.send(frames.Refused("no such checkpoint"))
        await link.flush()
        return
    core = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])  # noqa: ASYNC220 - starts at once
    link.send(frames.Progress(0.5))
    link.send(frames.Seen(stats=EngineStats(state="ready", kv_capacity_tokens=core.pid)))
    sleeps = configure.sleeps and configure.model != "restless"
    link.send(frames.Ready(version="stand-in 1", sleeps=sleeps))
    while (frame := await link.receive()) is not None:
        if isinstance(frame, frames.Run):
            body = bytes(frame.request.body).decode()
            if "die" in body:
                os.kill(os.getpid(), signal.SIGKILL)
            link.send(frames.Said(frame.request.request_id, Piece("a", 1, token_ids=(5,))))
            if "hang" not in body:
                ended = Ended(finish_reason="stop", prompt_tokens=1, output_tokens=1)
                link.send(frames.Said(frame.request.request_id, ended))
        elif isinstance(frame, frames.Sleep | frames.Wake):
            asleep = isinstance(frame, frames.Sleep)
            error = "sleeps too well" if not asleep and configure.model == "sound sleeper" else ""
            link.send(frames.Slept(asleep=asleep or bool(error), error=error))
        elif isinstance(frame, frames.Abort):
            link.send(frames.Seen(stats=EngineStats(state="ready", running=77)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    asyncio.run(main(parser.parse_args().fd))
