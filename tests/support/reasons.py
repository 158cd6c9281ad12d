"""A world for each reason why a job waits: the real core, with small machines. What docs/concepts/why.md shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from controlplane.scheduling.decisions import Settings
from events import messages as m
from events import subjects
from tests.support.worlds import TIERS, World, a_job, an_end

AT = 1_790_000_000.0
MINUTE = 60.0
SETTINGS = Settings(
    heartbeat_s=5,
    suspect_s=20,
    lease_s=100,
    margin_s=10,
    tiers=tuple(m.Tier(name=name, resources=TIERS[name]) for name in ("cpu", "gpu1", "gpu2", "gpu8")),
)


class Scene(NamedTuple):
    """A job that waits, and in a sentence how it came to that."""

    title: str
    story: str
    build: Callable[[World], str]
    """Gives the job to ask about."""

    def play(self) -> tuple[World, str]:
        world = World(settings=SETTINGS)
        world.now = AT
        world.lead()
        return world, self.build(world)


def _running(world: World, *jobs: m.Specification) -> None:
    world.submit(*jobs)
    world.settle()


def _environment(world: World) -> str:
    world.node("n1")
    world.write(subjects.environment("ab"), m.EnvironmentBuilding(builder="environments-1"))
    _running(world, a_job("j-mine", tier="gpu1", environment="sha256:ab"))
    return "j-mine"


def _held(world: World) -> str:
    world.node("n1")
    world.submit(a_job("j-mine", tier="gpu1"), held=True)
    return "j-mine"


def _paused(world: World) -> str:
    world.node("n1")
    world.queue(paused=True)
    _running(world, a_job("j-mine", tier="gpu1"))
    return "j-mine"


def _too_many_running(world: World) -> str:
    world.node("n1")
    world.queue(running_max=2)
    _running(world, a_job("j-one", tier="gpu1", time_limit_s=40 * MINUTE), a_job("j-two", tier="gpu1"))
    _running(world, a_job("j-mine", tier="gpu1"))
    return "j-mine"


def _too_many_gpus(world: World) -> str:
    world.node("n1")
    world.queue(gpus_max=4)
    _running(world, a_job("j-one", tier="gpu2", time_limit_s=40 * MINUTE), a_job("j-two", tier="gpu1"))
    _running(world, a_job("j-mine", tier="gpu2"))
    return "j-mine"


def _behind_a_limit(world: World) -> str:
    _too_many_gpus(world)
    _running(world, a_job("j-next", tier="gpu1"))
    return "j-next"


def _unsuited(world: World) -> str:
    world.node("n1", gpu_model="V100", labels={"zone": "a"})
    world.node("n2", gpu_model="V100", labels={"zone": "b"})
    _running(world, a_job("j-mine", tier="gpu1", on=({"gpu": ("A100", "H100")},)))
    return "j-mine"


def _too_large(world: World) -> str:
    world.node("n1", gpus=4)
    _running(world, a_job("j-mine", tier="gpu8"))
    return "j-mine"


def _closed(world: World) -> str:
    world.node("n1")
    world.node("n2", gpus=1)
    world.write(subjects.node("n1"), m.NodeCordoned(by="ops"))
    _running(world, a_job("j-mine", tier="gpu8"))
    return "j-mine"


def _broken(world: World) -> str:
    world.node("n1")
    why = "Xid 79 (the GPU has fallen off the bus)"
    fault = m.GpuFault(gpu=3, sign="Xid 79", why=why, since_at=world.now)
    world.write(subjects.node("n1"), m.NodeGpus(term=world.core.term, faults=(fault,)))
    _running(world, a_job("j-mine", tier="gpu8"))
    return "j-mine"


def _maintenance(world: World) -> str:
    world.node("n1")
    begins_at = world.now + 60 * MINUTE
    closed = m.NodeMaintenance(by="ops", begins_at=begins_at, ends_at=begins_at + 60 * MINUTE, why="new driver")
    world.write(subjects.node("n1"), closed)
    _running(world, a_job("j-mine", tier="gpu1", time_limit_s=120 * MINUTE))
    return "j-mine"


def _resources(world: World) -> str:
    world.node("n1")
    _running(
        world,
        a_job("j-one", tier="gpu2", time_limit_s=40 * MINUTE),
        a_job("j-two", tier="gpu2", time_limit_s=75 * MINUTE),
    )
    world.now += 5 * MINUTE
    world.settle()
    _running(world, a_job("j-mine", tier="gpu8", time_limit_s=120 * MINUTE))
    return "j-mine"


def _no_limit_in_the_way(world: World) -> str:
    world.node("n1")
    _running(world, a_job("j-one", tier="gpu2"))
    _running(world, a_job("j-mine", tier="gpu8", time_limit_s=120 * MINUTE))
    return "j-mine"


def _delay(world: World) -> str:
    world.queue(policy="fcfs")
    _resources(world)
    _running(world, a_job("j-small", tier="gpu2", time_limit_s=90 * MINUTE))
    return "j-small"


def _preemption(world: World) -> str:
    world.node("n1")
    _running(world, a_job("j-one", tier="gpu8", preemptible=True, grace_s=30.0))
    world.now += 10 * MINUTE
    world.settle()
    world.submit(a_job("j-mine", tier="gpu2", priority=5))
    world.decide()
    return "j-mine"


def _gang(world: World) -> str:
    world.node("n1")
    world.node("n2")
    _running(world, a_job("j-one", tier="gpu2", time_limit_s=40 * MINUTE))
    _running(world, a_job("j-mine", tier="pair", time_limit_s=120 * MINUTE))
    return "j-mine"


def _predicted(world: World) -> str:
    world.node("n1")
    for number, minutes in enumerate((20, 30)):
        _running(world, a_job(f"j-past{number}", called="train", time_limit_s=180 * MINUTE))
        world.now += minutes * MINUTE
        world.end(f"j-past{number}", an_end())
        world.settle()
    _running(world, a_job("j-one", called="train", tier="gpu2", time_limit_s=180 * MINUTE))
    _running(world, a_job("j-mine", tier="gpu8", time_limit_s=120 * MINUTE))
    return "j-mine"


def _broke_off(world: World) -> str:
    world.node("n1")
    _running(world, a_job("j-mine", tier="gpu1"))
    world.end("j-mine", an_end("supervisor_lost"))
    world.decide()
    return "j-mine"


def _after_another(world: World) -> str:
    world.node("n1")
    _running(world, a_job("j-prepare"))
    world.now += 12 * MINUTE
    _running(world, a_job("j-mine", after=(m.Dependency(job="j-prepare"),)))
    return "j-mine"


def _too_early(world: World) -> str:
    world.node("n1")
    _running(world, a_job("j-mine", begin_at=AT + 90 * MINUTE))
    return "j-mine"


def _an_array(world: World) -> str:
    world.node("n1")
    _running(world, a_job("j-mine", tier="gpu1", array="0-999%4"))
    return "j-mine"


SCENES = (
    Scene("An array that has enough of its tasks at once", "j-mine is an array `0-999%4`.", _an_array),
    Scene("Another job", "j-mine is to run once j-prepare has succeeded.", _after_another),
    Scene("Its begin time", "j-mine was submitted with `--begin`.", _too_early),
    Scene("Its environment", "The packages of j-mine are being solved.", _environment),
    Scene("A hold", "j-mine was submitted with `--hold`.", _held),
    Scene("A paused queue", "An operator has paused the queue.", _paused),
    Scene("Running jobs of its queue", "The queue may run two jobs, and runs two.", _too_many_running),
    Scene("GPUs of its queue", "The queue may hold 4 GPUs. It holds 3, and j-mine asks for 2.", _too_many_gpus),
    Scene(
        "Behind one that waits for its queue",
        "The same queue: j-next asks for one GPU only, but j-mine came before it. Were smaller ones let past, it might "
        "wait for ever.",
        _behind_a_limit,
    ),
    Scene("No node is large enough", "j-mine asks for 8 GPUs of one node, and the largest has 4.", _too_large),
    Scene(
        "No node is what it asks for",
        "j-mine was submitted with `--on gpu=A100,H100`, and all machines have V100s.",
        _unsuited,
    ),
    Scene("Closed nodes", "The only node that is large enough is cordoned.", _closed),
    Scene("A broken GPU", "One of the 8 GPUs of the only node is [out of use](gpu-health.md).", _broken),
    Scene("Maintenance", "n1 will be closed in an hour, and j-mine may take two.", _maintenance),
    Scene(
        "Resources, with a reservation",
        "Two jobs hold 4 of the 8 GPUs of n1, and j-mine asks for all of them. It is the first that does not fit, so "
        "n1 is kept for it: what starts there until then must be over by then.",
        _resources,
    ),
    Scene("Several nodes at once", "j-mine asks for 8 GPUs on each of two nodes, and one is in use.", _gang),
    Scene(
        "Somebody whose job has run before",
        "j-one may take three hours, but its last two runs took 20 and 30 minutes: the reservation goes by the limit, "
        "what is expected by the runs.",
        _predicted,
    ),
    Scene(
        "Somebody without a time limit",
        "The same, but who holds n1 has no time limit: nobody can tell when n1 is free.",
        _no_limit_in_the_way,
    ),
    Scene(
        "It would delay another job",
        "j-small fits on n1 now. But it may take 90 minutes, and n1 is kept for j-mine before that.",
        _delay,
    ),
    Scene(
        "Room that is being made",
        "j-mine has a higher priority than j-one, which is preemptible and is being stopped for it.",
        _preemption,
    ),
    Scene("It broke off", "The node lost the attempt. Before it tries again it waits a little.", _broke_off),
)
