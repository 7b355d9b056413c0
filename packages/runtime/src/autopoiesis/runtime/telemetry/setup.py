"""One call sets up logs, metrics and, where a collector is configured, traces."""

import os
import socket
from typing import Any
from uuid import uuid4

from opentelemetry import metrics, trace
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from autopoiesis.runtime.settings import TelemetrySettings
from autopoiesis.runtime.telemetry.logs import configure_logs

METRICS_INTERVAL_MS = 15_000


class Telemetry:
    """What `configure` set up. `registry` takes prometheus_client metrics; OpenTelemetry's appear in it by themselves."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, registry: CollectorRegistry, providers: list[Any], *, tracing: bool) -> None:
        self.registry = registry
        self.tracing = tracing
        """Whether spans are recorded and exported."""
        self._providers = providers

    def exposition(self) -> bytes:
        """The body of `/metrics`, of media type `content_type`."""
        return generate_latest(self.registry)

    def instrument(self, app: Any) -> Any:
        """Wrap an ASGI application in server spans, one per request; the application itself when nothing is traced."""
        if not self.tracing:
            return app
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        return OpenTelemetryMiddleware(
            app, excluded_urls="/health,/ready,/metrics", exclude_spans=["send", "receive"]
        )

    def shutdown(self) -> None:
        """Export what is pending; blocks for at most a few seconds."""
        for provider in self._providers:
            provider.shutdown()
        self._providers.clear()


def configure(service: str, settings: TelemetrySettings, *, instance: str = "") -> Telemetry:
    """Set up this process's logs, metrics and traces. `instance` tells replicas of a service apart (default: host and pid).

    Without `settings.otlp_endpoint` nothing leaves the process and spans cost nothing; metrics are exposed in any case.
    """
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource

    instance = instance or f"{socket.gethostname()}-{os.getpid()}"
    configure_logs(service, style=settings.logs, level=settings.level, instance=instance)
    resource = Resource.create(
        {
            "service.name": f"autopoiesis-{service}",
            "service.namespace": "autopoiesis",
            "service.instance.id": f"{instance}-{uuid4().hex[:8]}",
        }
    )
    registry = CollectorRegistry()
    readers: list[Any] = [
        PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=registry)
    ]
    if settings.otlp_endpoint:
        readers.append(_otlp_metrics(settings.otlp_endpoint))
    meters = MeterProvider(readers, resource=resource)
    metrics.set_meter_provider(meters)
    providers: list[Any] = [meters]
    if settings.otlp_endpoint:
        tracers = _otlp_traces(settings.otlp_endpoint, resource)
        trace.set_tracer_provider(tracers)
        providers.append(tracers)
    return Telemetry(registry, providers, tracing=bool(settings.otlp_endpoint))


def _otlp_metrics(endpoint: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    exporter = OTLPMetricExporter(endpoint=f"{endpoint.rstrip('/')}/v1/metrics")
    return PeriodicExportingMetricReader(exporter, export_interval_millis=METRICS_INTERVAL_MS)


def _otlp_traces(endpoint: str, resource: Any) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(
        resource=resource
    )  # sampler by OTEL_TRACES_SAMPLER, parent-based always-on by default
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))
    )
    return provider
