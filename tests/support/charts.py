"""The chart, rendered as Helm would: objects as plain data.

`python -m tests.support.charts` writes the table in docs/kubernetes.md.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "headrace"
CASES = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))
NATS = os.environ.get("HEADRACE_NATS_CHART", "")
"""Folder of the official chart of NATS, if there is one on this machine."""
PAGE = ROOT / "docs" / "kubernetes.md"
BEGIN, END = "<!-- objects: begin -->\n", "<!-- objects: end -->\n"

Object = dict[str, Any]


def values(case: str, **more: Any) -> Object:
    """Those of a file in `ci/`, and some over them."""
    found: Object = yaml.safe_load((CHART / "ci" / f"{case}.yaml").read_text())
    return {**found, **more}


def copied(folder: Path, *, nats: bool = False) -> Path:
    """A copy of the chart, with that of NATS in it as `helm dependency build` would put it there."""
    chart = folder / "headrace"
    shutil.copytree(CHART, chart)
    if nats:
        shutil.copytree(NATS, chart / "charts" / "nats")
    return chart


def rendered(
    given: Object, *, release: str = "headrace", namespace: str = "ml", nats: bool = False
) -> dict[tuple[str, str], Object]:
    """(kind, name) → object; hooks too."""
    with tempfile.TemporaryDirectory() as folder:
        chart = copied(Path(folder), nats=nats)
        texts = helm_python.Chart.load(chart).render(given, name=release, namespace=namespace)
    objects: dict[tuple[str, str], Object] = {}
    for path, text in texts.items():
        for one in yaml.safe_load_all(text) if path.endswith(".yaml") else ():
            if one is not None:
                key = (one["kind"], one["metadata"]["name"])
                assert key not in objects, f"{key} twice"
                objects[key] = one
    return objects


def of(kind: str, objects: dict[tuple[str, str], Object]) -> dict[str, Object]:
    return {name: one for (its, name), one in objects.items() if its == kind}


def pods(objects: dict[tuple[str, str], Object]) -> dict[str, Object]:
    """Name of what makes them → the template of its pods."""
    makers = {**of("Deployment", objects), **of("Job", objects), **of("StatefulSet", objects)}
    return {name: one["spec"]["template"] for name, one in makers.items()}


def containers(template: Object) -> list[Object]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


# -- the table ---------------------------------------------------------------------------------------------------------


def table() -> str:
    """Of all objects with everything on, and numbers by default: how many, who reaches them, what they may."""
    objects = rendered(values("everything", networkPolicy={}, gateway={}, **{"global": {}}))
    lines = ["| object | replicas | listens, lets in | may |\n", "| --- | --- | --- | --- |\n"]
    for (kind, name), one in sorted(objects.items()):
        if kind in _CELLS:
            lines.append(f"| {kind} `{name}` | {' | '.join(_CELLS[kind](one, objects))} |\n".replace("  ", " "))
        else:
            lines.append(f"| {kind} `{name}` | | | |\n")
    return "".join(lines)


def _deployment(one: Object, objects: dict[tuple[str, str], Object]) -> Sequence[str]:
    spec = one["spec"]["template"]["spec"]
    listens = ", ".join(f"{p['containerPort']} ({p['name']})" for p in spec["containers"][0].get("ports", ()))
    replicas = one["spec"].get("replicas", 1)
    if one["spec"].get("strategy", {}).get("type") == "Recreate":
        replicas = f"{replicas}, never two"
    account = spec["serviceAccountName"] if spec["automountServiceAccountToken"] else ""
    return str(replicas), listens, f"what `{account}` may" if account else "nothing"


def _rules(one: Object, _: object) -> Sequence[str]:
    said = []
    for rule in one["rules"]:
        named = f" `{', '.join(rule['resourceNames'])}`" if "resourceNames" in rule else ""
        said.append(f"{', '.join(rule['verbs'])} {', '.join(rule['resources'])}{named}")
    return "", "", "; ".join(said)


def _service(one: Object, _: object) -> Sequence[str]:
    return "", ", ".join(f"{port['port']} ({port['name']})" for port in one["spec"]["ports"]), ""


def _budget(one: Object, _: object) -> Sequence[str]:
    limits = [name for name in ("maxUnavailable", "minAvailable") if name in one["spec"]]
    return ", ".join(f"`{name}` {one['spec'][name]}" for name in limits), "", ""


def _policy(one: Object, _: object) -> Sequence[str]:
    said = []
    for rule in one["spec"].get("ingress", ()):
        ports = ", ".join(str(port["port"]) for port in rule.get("ports", ())) or "all ports"
        said.append(f"{ports} from {', '.join(map(_peer, rule.get('from', ()))) or 'everybody'}")
    return "", "; ".join(said) or "lets nobody in", ""


def _peer(peer: Object) -> str:
    labels = {
        name: value
        for selector in peer.values()
        for name, value in selector["matchLabels"].items()
        if name not in {"app.kubernetes.io/name", "app.kubernetes.io/instance"} or len(selector["matchLabels"]) < 3
    }
    names = {name.rpartition("/")[2]: value for name, value in labels.items()}
    return " ".join(f"`{name}={value}`" for name, value in names.items())


_CELLS = {
    "Deployment": _deployment,
    "Job": _deployment,
    "Role": _rules,
    "ClusterRole": _rules,
    "Service": _service,
    "PodDisruptionBudget": _budget,
    "NetworkPolicy": _policy,
}


def page(text: str) -> str:
    """The page with the table in it as it is now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


# -- network policies, as Kubernetes reads them ------------------------------------------------------------------------


def lets_in(objects: dict[tuple[str, str], Object], pod: Object, port: int | str, comer: Object) -> bool:
    """Whether a pod (labels) may be reached at a port by a comer (labels, of the same namespace)."""
    chosen = [one for one in of("NetworkPolicy", objects).values() if _selects(one["spec"]["podSelector"], pod)]
    return not chosen or any(_rule_lets_in(rule, port, comer) for rule in _ingress(chosen))


def _ingress(policies: Sequence[Object]) -> Iterator[Object]:
    for policy in policies:
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        yield from policy["spec"].get("ingress", ())


def _rule_lets_in(rule: Object, port: int | str, comer: Object) -> bool:
    at = "ports" not in rule or any(one["port"] == port for one in rule["ports"])
    peers = rule.get("from", ())
    return at and (
        not peers or any("namespaceSelector" not in peer and _selects(peer["podSelector"], comer) for peer in peers)
    )


def _selects(selector: Object, labels: Object) -> bool:
    assert set(selector) == {"matchLabels"}
    return all(labels.get(name) == value for name, value in selector["matchLabels"].items())


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    print(f"written: {PAGE}", file=sys.stderr)
