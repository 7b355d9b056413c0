"""`python -m autopoiesis.router.planner`."""

from functools import partial

from autopoiesis.router.planner.app import main
from autopoiesis.router.planner.settings import PlannerSettings
from autopoiesis.runtime.lifecycle import run_service
from autopoiesis.runtime.settings import Settings

if __name__ == "__main__":
    settings = Settings.load_or_exit(PlannerSettings)
    run_service(partial(main, settings), name="planner")
