"""`python -m autopoiesis.observer`."""

from functools import partial

from autopoiesis.observer.app import main
from autopoiesis.observer.settings import ObserverSettings
from autopoiesis.runtime.lifecycle import run_service
from autopoiesis.runtime.settings import Settings

if __name__ == "__main__":
    run_service(partial(main, Settings.load_or_exit(ObserverSettings)), name="observer")
