"""`autopoiesis config`: the settings and where each comes from."""

from typing import Annotated

from cyclopts import App, Parameter

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.output import console, print_json, table
from autopoiesis.cli.sections import SECTIONS

app = App(help="The settings in force.")


@app.command
def show(
    *,
    origin: Annotated[bool, Parameter(help="Say where each value comes from.", negative=())] = False,
    common: Common = COMMON,
) -> None:
    """Print every setting, secrets masked."""
    settings = list(common.settings(*SECTIONS))
    if common.json:
        print_json({item.key: {"value": item.shown, "origin": item.origin} for item in settings})
        return
    columns = ("setting", "value", "origin") if origin else ("setting", "value")
    rows = [(item.key, item.shown, item.origin)[: len(columns)] for item in settings]
    console.print(table("settings", columns, rows))
