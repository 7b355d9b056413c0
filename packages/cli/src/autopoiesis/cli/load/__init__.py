"""Load generator: replays a trace against any OpenAI-compatible server and measures at the client.

`run_load` sends and measures, `LoadResult` holds what was seen, `table` shows it.
"""

from autopoiesis.cli.load.plan import Lengths
from autopoiesis.cli.load.result import Latencies, LoadResult, Record, Summary
from autopoiesis.cli.load.run import Progress, run_load
from autopoiesis.cli.load.table import table

__all__ = ["Latencies", "Lengths", "LoadResult", "Progress", "Record", "Summary", "run_load", "table"]
