"""Logs, metrics and traces as a process sets them up."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from autopoiesis.runtime.telemetry import configure_logs


@pytest.fixture
def root_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("root_logging")
def test_json_lines_from_both_kinds_of_loggers() -> None:
    stream = StringIO()
    configure_logs("router", style="json", stream=stream, instance="r1")
    with TracerProvider().get_tracer("test").start_as_current_span("outer") as span:
        logging.getLogger("standard").warning("plain %s", "words", extra={"replica": "a"})
        structlog.get_logger("structured").info("event", request_id="q1")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first["event"] == "plain words"
    assert first["replica"] == "a"
    assert second["request_id"] == "q1"
    for entry, level in ((first, "warning"), (second, "info")):
        assert (entry["service"], entry["instance"], entry["level"]) == ("router", "r1", level)
        assert entry["trace_id"] == f"{span.get_span_context().trace_id:032x}"
        assert entry["timestamp"].endswith("Z")


@pytest.mark.usefixtures("root_logging")
def test_tracebacks_are_kept_and_the_level_holds() -> None:
    stream = StringIO()
    configure_logs("router", style="json", level="warning", stream=stream)
    logging.getLogger("x").info("not shown")
    try:
        raise ZeroDivisionError("why")
    except ZeroDivisionError:
        logging.getLogger("x").exception("failed")
    [entry] = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert entry["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert "trace_id" not in entry


@pytest.mark.usefixtures("root_logging")
def test_console_lines_are_readable() -> None:
    stream = StringIO()
    configure_logs("router", stream=stream)
    logging.getLogger("x").info("hello")
    assert "hello" in stream.getvalue()
    assert "service=router" in stream.getvalue()


SCRIPT = """
import asyncio, json, sys
from opentelemetry import metrics, trace
from prometheus_client import Counter
from autopoiesis.runtime import telemetry
from autopoiesis.runtime.settings import TelemetrySettings

observed = telemetry.configure("router", TelemetrySettings(otlp_endpoint=sys.argv[1], logs="json"), instance="r1")
metrics.get_meter("autopoiesis.test").create_counter("autopoiesis.test.things").add(3, {"kind": "good"})
Counter("own_things", "ours", registry=observed.registry).inc()
with trace.get_tracer("test").start_as_current_span("work") as span:
    pass

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})

print(json.dumps({
    "tracing": observed.tracing,
    "recorded": span.is_recording() or span.get_span_context().is_valid,
    "wrapped": observed.instrument(app) is not app,
    "exposition": observed.exposition().decode(),
}))
observed.shutdown()
"""


def run(endpoint: str) -> dict[str, object]:
    """`configure` sets process-wide providers, so each case has a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, endpoint], capture_output=True, text=True, check=True
    )
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_without_a_collector_nothing_is_traced_and_metrics_are_exposed() -> None:
    result = run("")
    assert (result["tracing"], result["recorded"], result["wrapped"]) == (False, False, False)
    exposition = str(result["exposition"])
    assert 'autopoiesis_test_things_total{kind="good"} 3.0' in exposition
    assert "own_things_total 1.0" in exposition


def test_with_a_collector_traces_and_metrics_are_sent() -> None:
    paths: set[str] = set()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            paths.add(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        result = run(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (result["tracing"], result["recorded"], result["wrapped"]) == (True, True, True)
    assert paths == {"/v1/traces", "/v1/metrics"}


def test_the_bus_and_the_lifecycle_do_not_load_the_sdk() -> None:
    code = "import sys, autopoiesis.runtime.bus, autopoiesis.runtime.lifecycle; print([m for m in sys.modules if m in {'opentelemetry.sdk', 'structlog', 'numpy', 'sqlalchemy', 'fastapi'}])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
