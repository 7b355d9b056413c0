"""`python -m autopoiesis.evaluator`."""

from functools import partial

from autopoiesis.evaluator.app import main
from autopoiesis.evaluator.settings import EvaluatorSettings
from autopoiesis.runtime.lifecycle import run_service
from autopoiesis.runtime.settings import Settings

if __name__ == "__main__":
    run_service(partial(main, Settings.load_or_exit(EvaluatorSettings)), name="evaluator")
