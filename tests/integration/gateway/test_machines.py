"""What operators say of machines, over HTTP."""

from __future__ import annotations

from events import messages as m
from events import subjects
from events.ledger import Write
from tests.integration.gateway.conftest import Stage

N1 = subjects.node("n.1")


async def newest(stage: Stage) -> m.Fact:
    entry = await stage.tools.ledger.last(N1)
    assert entry is not None
    return entry.fact


async def test_a_machine_is_drained_closed_and_given_up(stage: Stage) -> None:
    joined = m.NodeJoined(boot="b", capacity=m.Capacity(cpus=1, memory_bytes=1))
    await stage.tools.ledger.append(Write(N1, joined, 0))
    drained = await stage.ops.post("/v1/nodes/n.1/drain", json={"stop": True, "why": "disks"})
    assert (drained.status_code, drained.json()["verdict"]) == (200, "applied")
    assert await newest(stage) == m.NodeDraining(by="ops", stop=True, why="disks")
    wrong = await stage.ops.post("/v1/nodes/n.1/maintenance", json={"begins_at": 2, "ends_at": 1})
    assert (wrong.status_code, wrong.json()["error"]["problems"][0]["path"]) == (422, "$.ends_at")
    assert (await stage.ops.post("/v1/nodes/n.1/gone")).status_code == 200
    assert (await stage.ops.post("/v1/nodes/n.1/cordon")).status_code == 409
    assert (await stage.ops.post("/v1/nodes/nowhere/cordon")).status_code == 404
    assert (await stage.ops.post("/v1/nodes/n.1/explode")).status_code == 404


async def test_gpus_of_a_machine_are_repaired_but_for_those_that_it_still_sees(stage: Stage) -> None:
    joined = m.NodeJoined(boot="b", capacity=m.Capacity(cpus=1, memory_bytes=1, gpus=4))
    sequence = await stage.tools.ledger.append(Write(N1, joined, 0))
    fell = m.GpuFault(gpu=3, sign="Xid 79", why="Xid 79 (it fell)", since_at=1.0)
    lost = m.GpuFault(gpu=1, sign="lost", why="the driver has lost it", since_at=1.0, stands=True)
    await stage.tools.ledger.append(Write(N1, m.NodeGpus(term=1, faults=(lost, fell)), sequence))
    refused = await stage.ops.post("/v1/nodes/n.1/repair")
    assert (refused.status_code, refused.json()["error"]["problems"][0]["path"]) == (422, "$.gpus")
    assert (await stage.ada.post("/v1/nodes/n.1/repair", json={"gpus": [3]})).status_code == 403
    repaired = await stage.ops.post("/v1/nodes/n.1/repair", json={"gpus": [3], "why": "riser"})
    assert (repaired.status_code, repaired.json()["verdict"]) == (200, "applied")
    assert await newest(stage) == m.NodeGpusRepaired(by="ops", gpus=(3,), why="riser")


async def test_only_operators_say_anything_of_machines(stage: Stage) -> None:
    assert (await stage.ada.post("/v1/nodes/n.1/gone")).status_code == 403
    assert await stage.tools.ledger.last(N1) is None
