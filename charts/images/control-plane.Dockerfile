# The services. From the root of a checkout:
#
#   docker build -f charts/images/control-plane.Dockerfile --build-arg PYTHON=<registry>/python@sha256:<digest> .
#
# PYTHON is an image of CPython 3.11 or newer on Debian (`python:3.11-slim`), given by its digest; the node's image must
# have the same one, since Ray demands the same release of Python on both sides.
ARG PYTHON

FROM ${PYTHON} AS build
COPY constraints.txt pyproject.toml README.md LICENSE /source/
COPY events /source/events
COPY controlplane /source/controlplane
COPY runtime /source/runtime
RUN python -m venv /opt/headrace \
 && /opt/headrace/bin/pip install --no-cache-dir --constraint /source/constraints.txt "/source"

FROM ${PYTHON}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin headrace
COPY --from=build /opt/headrace /opt/headrace
ENV PATH=/opt/headrace/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
CMD ["python", "-m", "controlplane", "--help"]
