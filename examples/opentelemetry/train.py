"""The same numbers without a line of Headrace: the plain OpenTelemetry API and its stock SDK.

    headrace run -- python examples/opentelemetry/train.py

Headrace sets `OTEL_EXPORTER_OTLP_*` in every job, so the stock exporter finds its way. A gauge of the SDK keeps only
the newest value of each export interval (here 1 s): what arrives is a sample. `headrace.log` keeps every value.
"""

import math
import random
import time

from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader


def main(steps: int = 60, seconds_a_step: float = 0.05) -> None:
    provider = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
    metrics.set_meter_provider(provider)
    meter = metrics.get_meter("example")
    loss, seen = meter.create_gauge("loss"), meter.create_counter("samples")
    for step in range(1, steps + 1):
        value = 2 * math.exp(-step / 20) + random.random() * 0.05
        loss.set(value)
        seen.add(32)
        if step % 20 == 0:
            print(f"step {step} loss {value:.4f}", flush=True)
        time.sleep(seconds_a_step)
    provider.shutdown()  # sends what is left


if __name__ == "__main__":
    main()
