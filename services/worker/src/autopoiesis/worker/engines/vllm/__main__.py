"""The engine's process: `python -m autopoiesis.worker.engines.vllm --fd N`, N being a socket to the node's worker."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
from typing import Final

from autopoiesis.worker.engines import frames
from autopoiesis.worker.engines.frames import Link, ToEngine
from autopoiesis.worker.engines.vllm.version import VersionError, supported_version

LOST: Final = 1
REFUSED: Final = 3

log = logging.getLogger("autopoiesis.worker.engines.vllm")


async def main(connected: socket.socket) -> int:
    link: Link[ToEngine] = await Link.over(connected, ToEngine)
    configure = await link.receive()
    if not isinstance(configure, frames.Configure):
        return LOST
    try:
        version = supported_version()
        link.send(frames.Progress(0.05))
        from autopoiesis.worker.engines.vllm.engine import ArgumentsError, load

        link.send(frames.Progress(0.2))
        loaded = await load(configure, lambda share: link.send(frames.Progress(share)))
    except VersionError as error:
        return await _refuse(link, str(error))
    except ImportError as error:
        return await _refuse(link, f"vLLM cannot be imported: {error}")
    except ArgumentsError as error:
        return await _refuse(link, str(error))

    from autopoiesis.worker.engines.vllm.host import Host

    host = Host(link, loaded)
    host.tell()
    link.send(frames.Ready(version=f"vLLM {version}", sleeps=loaded.sleeps))
    try:
        return await host.serve()
    finally:
        loaded.close()


async def _refuse(link: Link[ToEngine], message: str) -> int:
    log.error("%s", message)
    link.send(frames.Refused(message))
    await link.flush()
    return REFUSED


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.exit(asyncio.run(main(socket.socket(fileno=parser.parse_args().fd))))
