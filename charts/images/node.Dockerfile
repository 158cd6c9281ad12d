# Ray's head and the nodes. From the root of a checkout:
#
#   docker build -f charts/images/node.Dockerfile --build-arg PYTHON=<registry>/python@sha256:<digest> .
#
# PYTHON is the same as of the services' image. What jobs import is not in here: each environment is made on the node. What
# the machines' GPUs need comes from the NVIDIA container runtime.
ARG PYTHON

FROM ${PYTHON} AS build
COPY constraints.txt pyproject.toml README.md LICENSE /source/
COPY events /source/events
COPY controlplane /source/controlplane
COPY runtime /source/runtime
COPY sdk /source/sdk
RUN python -m venv /opt/headrace \
 && /opt/headrace/bin/pip install --no-cache-dir --constraint /source/constraints.txt "/source" "/source/sdk"

FROM ${PYTHON}
RUN apt-get update \
 && apt-get install -y --no-install-recommends git procps wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --create-home --shell /bin/sh headrace
COPY --from=build /opt/headrace /opt/headrace
ENV PATH=/opt/headrace/bin:$PATH PYTHONUNBUFFERED=1 \
    RAY_memory_monitor_refresh_ms=0 RAY_worker_niceness=0 RAY_USAGE_STATS_ENABLED=0 RAY_DISABLE_FAILURE_SIGNAL_HANDLER=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
CMD ["python", "-m", "runtime.pod"]
