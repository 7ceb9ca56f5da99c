"""OpenTelemetry traces: an extra, off unless the environment names a collector."""

import os
from importlib.metadata import version

from opentelemetry.trace import Tracer

from gradmem_core.extras import INSTALL
from service.settings import StartError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def create_tracer() -> Tracer | None:
    """Return a tracer that sends spans where OpenTelemetry's variables say; None where none does.

    Raises:
        StartError: The extra `otel` is not installed.
    """
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise StartError(f"traces need an extra; {INSTALL.format(extra='otel')}") from error
    name = os.environ.get("OTEL_SERVICE_NAME", "gradmem")
    provider = TracerProvider(
        resource=Resource.create({"service.name": name, "service.version": version("gradmem")})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("gradmem")
