"""Logs, traces and metrics of a process; the only importer of the OpenTelemetry SDK.

Code elsewhere uses the OpenTelemetry API, `logging` or `structlog`, and costs next to nothing until `configure` is called.
"""

from autopoiesis.runtime.telemetry.logs import configure_logs
from autopoiesis.runtime.telemetry.setup import Telemetry, configure

__all__ = ["Telemetry", "configure", "configure_logs"]
