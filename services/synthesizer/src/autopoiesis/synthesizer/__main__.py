"""`python -m autopoiesis.synthesizer`; with `--show-prompt` it prints what would be sent to a language model and ends."""

import asyncio
import sys
from functools import partial

from autopoiesis.runtime.lifecycle import run_service
from autopoiesis.runtime.settings import Settings
from autopoiesis.synthesizer.app import main
from autopoiesis.synthesizer.preview import show_prompt
from autopoiesis.synthesizer.settings import LlmSettings, SynthesizerSettings

if __name__ == "__main__":
    settings = Settings.load(SynthesizerSettings, LlmSettings)
    if "--show-prompt" in sys.argv[1:]:
        sys.stdout.write(asyncio.run(show_prompt(settings)))
    else:
        run_service(partial(main, settings), name="synthesizer")
