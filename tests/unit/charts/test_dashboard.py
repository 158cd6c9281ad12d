"""The dashboard asks for what `GET /metrics` has, by labels that are there. Prometheus answers it in tests/e2e."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from controlplane.gateway import exposition
from tests.support import charts
from tests.support.charts import rendered, values

DASHBOARD = json.loads((charts.CHART / "dashboards" / "headrace.json").read_text())
EXPOSED = (charts.ROOT / "controlplane" / "gateway" / "exposition.py").read_text()
OPERATING = (charts.ROOT / "docs" / "operating.md").read_text()


def queries() -> Iterator[str]:
    """Of all panels and variables."""
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def test_queue_nodes_and_a_job_are_shown() -> None:
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == [
        "Queue",
        "Nodes",
        "A job: $job",
    ]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_number_of_a_query_is_exposed_and_documented() -> None:
    asked = {name for query in queries() for name in re.findall(r"headrace_(\w+)", query)}
    exposed = set(re.findall(r'families\.add\("(\w+)"', EXPOSED))
    assert asked - exposed == {"dead_letters"}, "a counter of the gateway"
    assert "`dead_letters`" in OPERATING
    assert {name for name in exposed if f"`headrace_{name}`" not in OPERATING} == set()


def test_every_label_and_variable_of_a_query_is_there() -> None:
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    for query in queries():
        assert set(re.findall(r"\$(\w+)", query)) <= variables
        labels = {name for group in re.findall(r"by \(([^)]*)\)", query) for name in group.split(", ")}
        assert labels <= {"team", "queue", "node", "service", "name", "rank"}


def test_numbers_of_two_gateways_count_once() -> None:
    assert [query for query in queries() if "label_values" not in query and "max" not in query] == []


def test_the_dashboard_is_in_the_config_map_as_it_is() -> None:
    objects = rendered(values("minimal"))
    dashboard = objects["ConfigMap", "headrace-dashboard"]
    assert json.loads(dashboard["data"]["headrace.json"]) == DASHBOARD
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert ("ConfigMap", "headrace-dashboard") not in rendered(values("external-nats"))


def test_no_name_is_exposed_twice() -> None:
    families = exposition.Families()
    families.add("up", 1, service="a")
    families.add("up", 0, service="b")
    assert [(family.name, len(family.samples)) for family in families.collect()] == [("headrace_up", 2)]
