"""A real Prometheus scrapes a running stack, and answers every query of the chart's dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.embedded.plan import free_ports
from load_tests.stack import Stack, until
from tests.support.charts import CHART

PROMETHEUS = shutil.which("prometheus")
DASHBOARD = json.loads((CHART / "dashboards" / "headrace.json").read_text())
PROGRAM = "import headrace, time; headrace.log(step=40, loss=0.25); time.sleep(300)"

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus on this machine")


class Prometheus:
    """A server that scrapes one gateway, as the chart's ServiceMonitor has it done."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The result of a query; empty, too, while the server starts."""
        address = f"{self.url}/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise AssertionError(f"{query}: {error.read().decode()}") from error
            return []
        except urllib.error.URLError:
            return []
        return found


@pytest.fixture
def prometheus(stack: Stack, tmp_path: Path) -> Iterator[Prometheus]:
    target = stack.about["url"].removeprefix("http://")
    scrape = {
        "job_name": "headrace",
        "scrape_interval": "1s",
        "honor_labels": True,
        "authorization": {"type": "Bearer", "credentials": "prometheus-token"},
        "static_configs": [{"targets": [target], "labels": {"namespace": "ml", "service": "headrace-gateway"}}],
    }
    file = tmp_path / "prometheus.yml"
    file.write_text(json.dumps({"scrape_configs": [scrape]}))
    port = free_ports(1)[0]
    places = (f"--config.file={file}", f"--storage.tsdb.path={tmp_path}/data")
    options = (*places, f"--web.listen-address=127.0.0.1:{port}")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([str(PROMETHEUS), *options], stdout=log, stderr=log)
    try:
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait(30)


def test_every_query_of_the_dashboard_has_an_answer(stack: Stack, prometheus: Prometheus) -> None:
    job = stack.patient("POST", "/v1/jobs", {"entrypoint": ["python3", "-c", PROGRAM]})["job"]
    try:
        value = f'headrace_job_value{{team="default", job="{job}"}}'
        until(lambda: bool(prometheus.ask(value)), limit_s=90, what="a value of the job in Prometheus")
        unanswered = [query for query in _queries(job) if not prometheus.ask(query)]
        assert unanswered == []
        assert [one["value"][1] for one in prometheus.ask(value)] == ["0.25"]
        assert [one["value"][1] for one in prometheus.ask(value.replace("_value", "_step"))] == ["40"]
    finally:
        stack.patient("POST", f"/v1/jobs/{job}/cancel", {})
    stack.wait(job)
    until(lambda: not prometheus.ask(value), limit_s=60, what="the series of a job that is over to be gone")


def _queries(job: str) -> Iterator[str]:
    """As Grafana would send them."""
    chosen = {"namespace": ".*", "team": "default", "job": job, "name": ".*"}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield re.sub(r"\$(\w+)", lambda match: chosen[match[1]], target["expr"])
