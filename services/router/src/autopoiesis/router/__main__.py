"""`python -m autopoiesis.router`."""

from functools import partial

from autopoiesis.router.app import main
from autopoiesis.router.link import FLUSH_S
from autopoiesis.router.settings import RouterSettings
from autopoiesis.runtime.lifecycle import run_service
from autopoiesis.runtime.settings import Settings

CLEAN_UP_S = 2 * FLUSH_S + 4.0
"""After the requests' own time: telemetry, connections, the bus."""

if __name__ == "__main__":
    settings = Settings.load_or_exit(RouterSettings)
    run_service(partial(main, settings), name="router", grace=settings[RouterSettings].drain_s + CLEAN_UP_S)
