"""The `autopoiesis` command: every subcommand and how their errors are told."""

import importlib.metadata
import sys
from collections.abc import Sequence

import httpx
from cyclopts import App

from autopoiesis.cli.commands import config, demo, doctor, keys, load, mode, policy, setup, status, up, whatif
from autopoiesis.cli.output import CommandError
from autopoiesis.policy.language import PolicyError
from autopoiesis.runtime.embedded import ChildFailedError, DataDirectoryInUseError
from autopoiesis.runtime.errors import OperatorError
from autopoiesis.runtime.settings import SettingsError
from autopoiesis.simulator.extras import MissingExtraError
from autopoiesis.simulator.workload import TraceError
from autopoiesis.store import StoreError

app = App(
    name="autopoiesis",
    version=lambda: importlib.metadata.version("autopoiesis-cli"),
    help="An LLM serving system that rewrites its own serving policy while it serves, and proves each rewrite first.",
)
app.command(up.up)
app.command(demo.demo)
app.command(load.load)
app.command(whatif.whatif)
app.command(  # by name: loaded when it is asked for, with the client of language models
    "autopoiesis.cli.commands.evolve:evolve",
    name="evolve",
    help="Evolve a dispatch policy on recorded traffic, without services, and compare it on traffic it never saw.",
)
app.command(status.status)
app.command(doctor.doctor)
app.command(policy.app, name="policy")
app.command(keys.app, name="keys")
app.command(mode.pause)
app.command(mode.resume)
app.command(config.app, name="config")
app.command(setup.setup)

EXPECTED = (
    CommandError,
    OperatorError,
    SettingsError,
    PolicyError,
    TraceError,
    StoreError,
    ChildFailedError,
    DataDirectoryInUseError,
    MissingExtraError,
    FileNotFoundError,
    httpx.HTTPError,
)
"""Errors whose message is meant for the person at the terminal; anything else is a bug and shows its traceback."""


def run(arguments: Sequence[str]) -> int:
    try:
        result = app(arguments, result_action="return_value")
    except EXPECTED as error:
        sys.stderr.write(f"autopoiesis: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return result if isinstance(result, int) else 0
