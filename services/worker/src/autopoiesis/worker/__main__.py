"""`python -m autopoiesis.worker`."""

from functools import partial

from autopoiesis.runtime.lifecycle import run_service
from autopoiesis.runtime.settings import Settings
from autopoiesis.worker.app import main
from autopoiesis.worker.settings import VllmSettings, WorkerSettings

CLEAN_UP_S = 5.0
"""After the requests' own deadline, for goodbyes and the bus."""

if __name__ == "__main__":
    settings = Settings.load_or_exit(WorkerSettings, VllmSettings)
    run_service(partial(main, settings), name="worker", grace=settings[WorkerSettings].drain_s + CLEAN_UP_S)
