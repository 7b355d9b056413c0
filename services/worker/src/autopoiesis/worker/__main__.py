"""`python -m autopoiesis.worker`."""

import sys
from functools import partial

from autopoiesis.runtime.lifecycle import REFUSED, run_service
from autopoiesis.runtime.settings import Settings, SettingsError
from autopoiesis.worker.app import main
from autopoiesis.worker.settings import WorkerSettings

CLEAN_UP_S = 5.0
"""After the requests' own deadline, for goodbyes and the bus."""

if __name__ == "__main__":
    try:
        settings = Settings.load(WorkerSettings)
    except SettingsError as error:
        sys.stderr.write(f"worker: {error}\n")
        sys.exit(REFUSED)
    run_service(partial(main, settings), name="worker", grace=settings[WorkerSettings].drain_s + CLEAN_UP_S)
