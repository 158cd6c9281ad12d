"""Every message of Headrace, in one file: what goes over the bus and over HTTP, as JSON.

Read from top to bottom it follows a job: the words that messages share, what a client may ask for, the facts that
become the truth about it, what nodes and the leader tell each other, and the questions anyone may ask.

Rules of the contract (`docs/concepts/contract.md`):

* Structs are frozen; fields are only ever added, each with a default. A reader ignores fields that it does not know.
* A struct that travels alone, or as one of several on a subject, carries its tag in the field `type`.
* Moments end in `_at` and are seconds since the epoch (UTC); durations end in `_s`; sizes end in `_bytes`.
* Digests are written `sha256:<64 hex digits>`.

One file although it is long: a programmer in another language reads exactly this one to know what may be said.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

# --------------------------------------------------------------------------------------------------------------------
# The words that messages share
# --------------------------------------------------------------------------------------------------------------------


GPU_MILLI: Final = 1000
"""Thousandths of a whole GPU."""


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Part of a message; never sent alone."""


class Resources(Value, frozen=True, kw_only=True):
    """What one node must have free for one attempt (of each node, for a gang)."""

    cpus: float
    memory_bytes: int
    gpus: int = 0
    nodes: int = 1
    gpu_milli: int = GPU_MILLI
    """Thousandths of its GPU that an attempt has; fewer than all of them only with one GPU of one node."""


Constraint = dict[str, tuple[str, ...]]
"""Of nodes: for each of these labels, the values that will do; `!value` is one that will not (`events.labels`)."""


class Tier(Value, frozen=True, kw_only=True):
    """The only resource choice that a user makes: a named bundle that the operator defines."""

    name: str
    resources: Resources
    note: str = ""
    on: tuple[Constraint, ...] = ()
    """Which nodes will do, in order of preference: the first alternative that has room. Empty: any node."""


class Allocation(Value, frozen=True, kw_only=True):
    """What an attempt holds of one node. `gpus` are device indices on that node, ascending."""

    node: str
    cpus: float
    memory_bytes: int
    gpus: tuple[int, ...] = ()
    gpu_milli: int = GPU_MILLI
    """Thousandths of each of these."""


class Capacity(Value, frozen=True, kw_only=True):
    """What a node has for attempts, and which environments it can build."""

    cpus: float
    memory_bytes: int
    gpus: int = 0
    gpu_model: str = ""
    pythons: tuple[str, ...] = ()
    """Full versions of the interpreters that the node can make environments from, such as `3.11.7`."""
    platform: str = ""
    """uv's name of the platform, such as `x86_64-manylinux_2_28`."""
    labels: dict[str, str] = {}
    bounds: str = ""
    """What keeps attempts within their allocation: `cgroup2`, `cgroup1`, or `rlimits` where no control group can be
    made. Empty: a node of an earlier release."""
    cannot_start: str = ""
    """Why no attempt can be started there for now, such as a full disk. Empty: it can."""


class Problem(Value, frozen=True, kw_only=True):
    """One thing that is wrong with a request: the path of the field (`$.tier`), what is wrong, and what to do."""

    path: str
    message: str
    hint: str = ""


class EnvironmentRequest(Value, frozen=True, kw_only=True):
    """Which packages a job wants: roots that must be there, and preferences that should be kept where they can be.

    `roots` are requirements (PEP 508), `preferences` exact pins of everything the laptop has (`name==version`), which
    the resolver keeps where the target allows and gives up where it does not. `python` is `3.11` or `3.11.7`.
    An empty `platform` means: that of the nodes.
    """

    python: str
    roots: tuple[str, ...] = ()
    preferences: tuple[str, ...] = ()
    platform: str = ""


class AttemptRef(Value, frozen=True, kw_only=True):
    """Which attempt: the fencing token of everything that a node reports."""

    team: str
    job: str
    attempt: int


class Usage(Value, frozen=True, kw_only=True):
    """What an attempt used, as its supervisor measured it over the whole process group."""

    cpu_s: float = 0.0
    memory_bytes_max: int = 0


class Dependency(Value, frozen=True, kw_only=True):
    """Another job of the team whose end a job waits for, and how that has to end."""

    job: str
    on: Literal["ok", "notok", "any"] = "ok"
    """`ok`: it succeeded; `notok`: it failed or was cancelled; `any`: it is over. Slurm's `afterok`, `afternotok`,
    `afterany`."""
    ended: Literal["", "succeeded", "failed", "cancelled"] = ""
    """The state in which it had ended when the job was accepted. Empty: it had not, and the ledger tells. Submission
    sets it; a client leaves it out."""


class Task(Value, frozen=True, kw_only=True):
    """Which task of which array. Its id is `identity.task_id` of the two."""

    array: str
    """Id of the array's own job."""
    index: int
    size: int = 0
    """How many tasks the array has."""


class GpuFault(Value, frozen=True, kw_only=True):
    """Why nothing is placed on a GPU of a node. A GPU may have several, each with a `sign` of its own."""

    gpu: int
    """Its index."""
    sign: str
    """What it is known by, such as `Xid 79` or `lost`."""
    why: str
    """One line for a person."""
    since_at: float
    """By the node's clock: when it was seen first, or, of an event as the node tells it, last."""
    stands: bool = False
    """The node sees it whenever it looks, and says when it is gone. False: it happened, and a person has to say that
    the GPU is fit again, unless the machine was restarted since and finds nothing."""
    ends: bool = True
    """Who holds the GPU is stopped, and waits again. False: he runs on, and nobody comes after him."""
    boot: str = ""
    """Of the node, when it was seen."""
    jobs: tuple[AttemptRef, ...] = ()
    """Who held the GPU then. Only in the ledger."""


class GpuHealth(Value, frozen=True, kw_only=True):
    """What a node's watch over its GPUs has found: the whole of it, after a look at every one."""

    faults: tuple[GpuFault, ...] = ()


class GpuError(Value, frozen=True, kw_only=True):
    """What the driver said of a GPU while an attempt held it."""

    gpu: int
    why: str
    """One line for a person: `Xid 31 (memory page fault of the program)`."""
    at: float
    hardware: bool = False
    """It was the machine's fault, and not the program's."""


JobKind = Literal["plain", "ray"]
"""What the entrypoint runs in. `plain`: its node or nodes, with nothing around it. `ray`: a private Ray cluster."""

EndCause = Literal[
    "exited",  # by itself, with an exit code
    "signalled",  # by a signal that nobody here sent
    "time_limit",
    "stopped",  # because it was not wanted any more: cancelled, preempted, drained
    "start_failed",  # the entrypoint could not be executed
    "source_failed",  # the source could not be laid out on the node
    "environment_failed",  # the environment could not be built on the node
    "meeting_failed",  # of a gang: the port at which its parts meet is not free any more
    "out_of_memory",
    "output_failed",  # the node could not keep its output (disk full)
    "fenced",  # the node was cut off from the ledger for longer than its lease
    "supervisor_lost",  # the supervisor vanished without an exit record (the node was rebooted, or it was killed)
]


class AttemptEnd(Value, frozen=True, kw_only=True):
    """How an attempt ended, as the node saw it. Exactly one of `exit_code` and `signal` is set once it ran."""

    cause: EndCause
    ended_at: float
    started_at: float | None = None
    """None: the entrypoint never ran."""
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    """A sentence for a person, empty when `cause` says all."""
    usage: Usage = Usage()
    output_bytes: dict[str, int] = {}
    """Bytes kept of each stream (`stdout`, `stderr`): a reader of the log knows when it has all."""
    exited_at: float | None = None
    """When the entrypoint itself ended: what it left running may have lived on for a while, until `ended_at`."""
    last_lines: tuple[str, ...] = ()
    """Of a part of a gang that failed: what it wrote last."""
    gpu_errors: tuple[GpuError, ...] = ()
    """Of GPUs that it held."""


# --------------------------------------------------------------------------------------------------------------------
# Requests: what somebody wants. Published on REQUESTS; may be refused, always answered
# --------------------------------------------------------------------------------------------------------------------


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Who asks is told by the subject (and, there, by the connection), never by the body."""


class Submit(Request, frozen=True, kw_only=True, tag="submit"):
    """Run this. `entrypoint` is an argument vector, not a shell line. Everything else has a default."""

    entrypoint: tuple[str, ...]
    id: str = ""
    """The client's id: a submit that repeats it is the same job. Else `ce-id` counts, then its place."""
    name: str = ""
    queue: str = ""
    tier: str = ""
    env: dict[str, str] = {}
    source: str = ""
    """Digest of the source's manifest in the blob store; empty: the job folder is the working folder."""
    folder: str = ""
    """Where in the source the entrypoint runs, relative to its root."""
    environment: EnvironmentRequest | None = None
    """None: the node's own interpreter, without packages."""
    time_limit_s: float | None = None
    grace_s: float | None = None
    """Between SIGTERM and SIGKILL."""
    priority: int = 0
    attempts_max: int | None = None
    """Tries, where lost nodes and failed starts end them. Those that the program itself ended are no such tries."""
    hold: bool = False
    labels: dict[str, str] = {}
    preemptible: bool | None = None
    """Whether an attempt may be stopped, and the job requeued, for what goes before it. None: as its queue says."""
    after: tuple[Dependency, ...] = ()
    """It waits until each of these has ended so. If one ends otherwise, the job ends as cancelled."""
    begin_at: float | None = None
    """It does not start before."""
    deadline_at: float | None = None
    """It must have ended by then: it fails if its time limit does not let it, or when it still runs then."""
    retries: int = 0
    """Tries after the program itself failed, by an exit code or a signal."""
    array: str = ""
    """Run it once for each of these indices: `0-999`, `0-15:4`, `1,3,7-9`; with `%50`, at most 50 at once. Empty: once.
    """
    on: Constraint = {}
    """Only on nodes with these labels, of those that its tier may be on: `{"gpu": ["A100", "H100"], "node": ["!n7"]}`.
    """
    nodes: int | None = None
    """Run it on so many nodes, each with what the tier brings, together or not at all: a gang. None: as the tier says.
    """
    kind: JobKind = "plain"
    """`ray`: within a private Ray cluster of the job's own Ray, which has all that it holds, and ends with it."""


class Cancel(Request, frozen=True, kw_only=True, tag="cancel"):
    why: str = ""
    tasks: str = ""
    """Of an array: only the tasks of these indices (`5`, `7-9`), placed or not; at most 1,000. Empty: all of it."""


class Hold(Request, frozen=True, kw_only=True, tag="hold"):
    why: str = ""


class Release(Request, frozen=True, kw_only=True, tag="release"):
    pass


class Reprioritise(Request, frozen=True, kw_only=True, tag="reprioritise"):
    priority: int


class Move(Request, frozen=True, kw_only=True, tag="move"):
    """Change the place in the queue: before one job of the same queue, after one, or to the front (neither given)."""

    before: str = ""
    after: str = ""


Control = Cancel | Hold | Release | Reprioritise | Move


Policy = Literal["slowdown", "fcfs", "sjf", "saf", "wfp3"]


class QueueSettings(Request, frozen=True, kw_only=True):
    """Fields of `QueueSet`, of which a request names some. For what they mean and their defaults look there."""

    weight: float | UnsetType = UNSET
    running_max: int | UnsetType | None = UNSET
    gpus_max: int | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET
    policy: Policy | UnsetType = UNSET
    guard: float | UnsetType | None = UNSET
    draining: bool | UnsetType = UNSET
    guaranteed_gpus: int | UnsetType = UNSET
    guaranteed_cpus: float | UnsetType = UNSET
    user_running_max: int | UnsetType | None = UNSET
    user_gpus_max: int | UnsetType | None = UNSET
    tiers: tuple[str, ...] | UnsetType = UNSET
    time_limit_s_default: float | UnsetType | None = UNSET
    time_limit_s_max: float | UnsetType | None = UNSET
    priority_default: int | UnsetType = UNSET
    priority_max: int | UnsetType | None = UNSET
    preemptible: bool | UnsetType = UNSET
    predictions: bool | UnsetType = UNSET


class CreateQueue(QueueSettings, frozen=True, kw_only=True, tag="create_queue"):
    """What it does not name has its default. Refused if the queue is there already with other settings."""

    replace: bool = False
    """If the queue is there already, its whole configuration becomes this."""


class SetQueue(QueueSettings, frozen=True, kw_only=True, tag="set_queue"):
    """Change what it names and leave the rest as it is. Refused if there is no such queue."""


class DeleteQueue(Request, frozen=True, kw_only=True, tag="delete_queue"):
    """Refused while a job of it waits or runs, and if it is the last one of its team."""


class SetTeam(Request, frozen=True, kw_only=True, tag="set_team"):
    """Change what it names of a team's `TeamSet`."""

    weight: float | UnsetType = UNSET
    guaranteed_gpus: int | UnsetType = UNSET
    guaranteed_cpus: float | UnsetType = UNSET
    running_max: int | UnsetType | None = UNSET
    gpus_max: int | UnsetType | None = UNSET
    replace: bool = False
    """What it does not name gets its default, instead of staying as it is."""


Change = CreateQueue | SetQueue | DeleteQueue | SetTeam
"""Of queues and teams: for operators alone."""


class CordonNode(Request, frozen=True, kw_only=True, tag="cordon_node"):
    """Place nothing more there; what runs there runs on."""

    why: str = ""


class UncordonNode(Request, frozen=True, kw_only=True, tag="uncordon_node"):
    """Place jobs there again: ends a cordon and a drain."""


class DrainNode(Request, frozen=True, kw_only=True, tag="drain_node"):
    """Place nothing more there until it is empty."""

    why: str = ""
    stop: bool = False
    """Stop what runs there after its grace; it waits again, which is no try of it. False: it runs on."""


class MaintainNode(Request, frozen=True, kw_only=True, tag="maintain_node"):
    """Nothing may run there from `begins_at` to before `ends_at`; what runs there already runs on.

    Replaces what was said before; without a span there is no maintenance any more.
    """

    begins_at: float = 0.0
    ends_at: float = 0.0
    why: str = ""


class GiveUpNode(Request, frozen=True, kw_only=True, tag="give_up_node"):
    """The machine will not come back: what runs there is lost, at once, and waits again. Only for one whose processes
    cannot live any more: else two attempts of a job may run at the same time for a while.
    """

    why: str = ""


class RepairNode(Request, frozen=True, kw_only=True, tag="repair_node"):
    """GPUs are fit again: place jobs on them. Refused for one of which the node says that its fault still stands."""

    gpus: tuple[int, ...] = ()
    """Their indices; empty: all that are out of use."""
    why: str = ""


NodeChange = CordonNode | UncordonNode | DrainNode | MaintainNode | GiveUpNode | RepairNode
"""Of a machine: for operators alone."""


Verdict = Literal["accepted", "rejected", "repeated", "applied", "refused"]


class Answer(Value, frozen=True, kw_only=True):
    """What became of a request. `repeated` means: this job exists already, nothing was done twice."""

    verdict: Verdict
    job: str = ""
    sequence: int = 0
    """Of the fact in the ledger; 0 if none was written."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    settings: QueueSet | TeamSet | None = None
    """Of the queue or the team that was changed, all of them, as they are now."""


# --------------------------------------------------------------------------------------------------------------------
# Facts: what happened. Each stands in LEDGER on the subject of its entity, written under a guard, never undone
# --------------------------------------------------------------------------------------------------------------------


class Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """What happened. When is told by the ledger's own timestamp."""


# -- about a job: hr.v1.job.<team>.<job> --------------------------------------------------------------- submission --


class Specification(Value, frozen=True, kw_only=True):
    """What a job is, after every default was filled in. Immutable."""

    job: str
    team: str
    user: str
    name: str
    queue: str
    tier: str
    resources: Resources
    """Of the tier as it stood at the submit: a later change of the tier does not change the job."""
    entrypoint: tuple[str, ...]
    env: dict[str, str] = {}
    source: str = ""
    folder: str = ""
    environment: str = ""
    """Digest of the environment request; empty: the node's own interpreter."""
    time_limit_s: float | None = None
    grace_s: float = 30.0
    priority: int = 0
    attempts_max: int = 3
    labels: dict[str, str] = {}
    submitted_at: float = 0.0
    preemptible: bool = False
    """Whether an attempt may be stopped, and the job requeued, for what goes before it."""
    after: tuple[Dependency, ...] = ()
    begin_at: float | None = None
    deadline_at: float | None = None
    retries: int = 0
    array: str = ""
    """Indices of its tasks, as `events.arrays` reads them, without `%`; empty: it is no array."""
    array_at_once: int = 0
    """How many of its tasks may hold resources at once. 0: any number."""
    on: tuple[Constraint, ...] = ()
    """Which nodes will do, in order of preference: what its tier and the submit say together. Empty: any node."""
    kind: JobKind = "plain"


class Accepted(Fact, frozen=True, kw_only=True, tag="accepted"):
    specification: Specification
    held: bool = False
    warnings: tuple[Problem, ...] = ()


class Rejected(Fact, frozen=True, kw_only=True, tag="rejected"):
    user: str
    name: str = ""
    problems: tuple[Problem, ...]


class CancelRequested(Fact, frozen=True, kw_only=True, tag="cancel_requested"):
    by: str
    why: str = ""
    task: Task | None = None
    """Set where this is the first fact about a task: it will never be placed."""


class Held(Fact, frozen=True, kw_only=True, tag="held"):
    by: str
    why: str = ""


class Released(Fact, frozen=True, kw_only=True, tag="released"):
    by: str


class Reprioritised(Fact, frozen=True, kw_only=True, tag="reprioritised"):
    by: str
    priority: int


class Moved(Fact, frozen=True, kw_only=True, tag="moved"):
    by: str
    before: str = ""
    after: str = ""


# -- about a job --------------------------------------------------------------------------------------- scheduling --


class Unfolded(Fact, frozen=True, kw_only=True, tag="unfolded"):
    """The array has begun: its first task is placed. From here on it is over when its last task is."""

    term: int


class Placed(Fact, frozen=True, kw_only=True, tag="placed"):
    """The attempt holds its allocations from here on."""

    term: int
    attempt: int
    allocations: tuple[Allocation, ...]
    why: str = ""
    """Why this job, now, there: one line for a person."""
    task: Task | None = None
    """Set where this is the first fact about a task of an array: its specification is that of the array."""


class Started(Fact, frozen=True, kw_only=True, tag="started"):
    term: int
    attempt: int
    started_at: float


class Preemptor(Value, frozen=True, kw_only=True):
    """The job for which attempts are asked to end, and the nodes that it will get: what it needs of them is kept."""

    team: str
    job: str
    nodes: tuple[str, ...]


class StopRequested(Fact, frozen=True, kw_only=True, tag="stop_requested"):
    """The attempt is asked to end: SIGTERM, and SIGKILL after its grace. Then the job waits again."""

    term: int
    attempt: int
    why: str
    preemptor: Preemptor | None = None
    """Set: it is preempted, which is none of the job's tries."""
    final: bool = False
    """The job is over when its attempt is. Otherwise it is queued again."""


class Requeued(Fact, frozen=True, kw_only=True, tag="requeued"):
    """The attempt ended and the job waits again, with its age kept."""

    term: int
    attempt: int
    why: str
    end: AttemptEnd | None = None
    failures: int = 0
    """How often the program itself has failed by now, this time among them. 0: it was not the program's fault."""


class Lost(Fact, frozen=True, kw_only=True, tag="lost"):
    """The node of the attempt is gone and so is the attempt; the job waits again."""

    term: int
    attempt: int
    node: str
    why: str


Outcome = Literal["succeeded", "failed", "cancelled"]


class Finished(Fact, frozen=True, kw_only=True, tag="finished"):
    """The one end of a job that was placed at least once, or that could never be placed (then `attempt` is 0)."""

    term: int
    attempt: int
    outcome: Outcome
    reason: str
    """A sentence that a person understands: `exit code 1`, `killed by SIGSEGV`, `over its time limit of 2 h`."""
    end: AttemptEnd | None = None
    tasks: dict[str, int] = {}
    """Of an array: how many of its tasks ended in which state. The others never ran."""


JobFact = (
    Accepted
    | Rejected
    | CancelRequested
    | Held
    | Released
    | Reprioritised
    | Moved
    | Unfolded
    | Placed
    | Started
    | StopRequested
    | Requeued
    | Lost
    | Finished
)


# -- about the archive: the job's own subject, and hr.v1.archive -------------------------------------- monitoring --


class Archived(Fact, frozen=True, kw_only=True, tag="archived"):
    """All that the ledger knew of a job that is over is in the archive now; this stands in its place, for a while.

    It replaced every earlier fact on the job's subject: whoever reads it may have missed any of them.
    """

    state: Literal["succeeded", "failed", "cancelled", "rejected"]
    attempt: int = 0
    archive: str = ""
    """Name of the part of the archive that it is in."""


class ArchiveWritten(Fact, frozen=True, kw_only=True, tag="archive_written"):
    """A part of the archive: a Parquet blob with all that the ledger knew of some jobs. Kept for good.

    Its ids are what a submit that comes again is known by when the ledger has forgotten the job.
    """

    name: str
    """Of the blob."""
    digest: str
    size_bytes: int
    jobs: bytes
    """Base64 in JSON: the ids of its jobs, ascending, 8 bytes each: the 60 bits that the characters behind `j-` stand
    for, big-endian."""
    rejected: bytes = b""
    """Of these the ones that were rejected, the same way."""
    ended_from_at: float = 0.0
    ended_to_at: float = 0.0


ArchiveFact = Archived | ArchiveWritten


# -- about an environment request: hr.v1.environment.<request digest> -------------------- submission · environments --


class EnvironmentWanted(Fact, frozen=True, kw_only=True, tag="environment_wanted"):
    request: EnvironmentRequest
    by: str = ""


class EnvironmentBuilding(Fact, frozen=True, kw_only=True, tag="environment_building"):
    builder: str


class EnvironmentReady(Fact, frozen=True, kw_only=True, tag="environment_ready"):
    """Solved. `lock` is the digest of the canonical lock: the environment's identity, and a blob."""

    lock: str
    python: str
    platform: str
    packages: int
    took_s: float = 0.0
    log: str = ""
    """Digest of the build log in the blob store."""


class EnvironmentFailed(Fact, frozen=True, kw_only=True, tag="environment_failed"):
    reason: str
    log: str = ""
    """Digest of the build log in the blob store."""


EnvironmentFact = EnvironmentWanted | EnvironmentBuilding | EnvironmentReady | EnvironmentFailed


# -- about a queue: hr.v1.queue.<team>.<queue> ----------------------------------------------------------- submission --


class QueueSet(Fact, frozen=True, kw_only=True, tag="queue_set"):
    """The queue's whole configuration as of now. Limits: None is unlimited."""

    by: str
    weight: float = 1.0
    running_max: int | None = None
    gpus_max: int | None = None
    paused: bool = False
    policy: Policy = "slowdown"
    """What decides between its jobs of one priority."""
    guard: float | None = 1.2
    """With `slowdown`: a job that has waited for longer than so many times what all the work takes that there is now is
    served next. None: never."""
    draining: bool = False
    """It takes no new jobs; those that are there run on. (`paused`: it takes jobs, and starts none.)"""
    guaranteed_gpus: int = 0
    """Always obtainable, by reclaiming what other queues borrowed of it. Part of the team's own, if that has one."""
    guaranteed_cpus: float = 0.0
    user_running_max: int | None = None
    """Jobs of one user that may run at once."""
    user_gpus_max: int | None = None
    tiers: tuple[str, ...] = ()
    """That its jobs may ask for; empty: those of the team."""
    time_limit_s_default: float | None = None
    """Of a job that gives none; None: the installation's."""
    time_limit_s_max: float | None = None
    """None: the installation's."""
    priority_default: int = 0
    priority_max: int | None = None
    """The highest that a user may give a job."""
    preemptible: bool = False
    """What its jobs are that do not say."""
    predictions: bool = True
    """What comes in from now on is ordered by how long its last two runs took, where that is known; else by limits."""


class QueueRemoved(Fact, frozen=True, kw_only=True, tag="queue_removed"):
    """The queue is not there any more. A job that came in just then runs under the defaults of a queue."""

    by: str


QueueFact = QueueSet | QueueRemoved


# -- about a team: hr.v1.team.<team> ------------------------------------------------------------------ submission --


class TeamSet(Fact, frozen=True, kw_only=True, tag="team_set"):
    """The team's whole configuration as of now, as one level above its queues. Limits: None is unlimited."""

    by: str
    weight: float = 1.0
    """Its share beside the other teams."""
    guaranteed_gpus: int = 0
    """For all of its queues together. 0: what its queues are guaranteed, each for itself."""
    guaranteed_cpus: float = 0.0
    running_max: int | None = None
    gpus_max: int | None = None


TeamFact = TeamSet


# -- about both: hr.v1.configuration ------------------------------------------------------------------- submission --


class Configured(Fact, frozen=True, kw_only=True, tag="configured"):
    """Somebody changed a queue or a team. In one round with the fact that says what, and behind it: a change is checked
    against all of them, so this puts all changes into one order. Only the newest one is kept."""

    by: str
    subject: str
    """On which the other fact stands."""


# -- about a node: hr.v1.node.<node> ----------------------------------------------------------- scheduling, capacity --


class NodeJoined(Fact, frozen=True, kw_only=True, tag="node_joined"):
    """Seen for the first time, or with another boot id or capacity than before."""

    boot: str
    capacity: Capacity
    term: int = 0


class NodeSuspected(Fact, frozen=True, kw_only=True, tag="node_suspected"):
    """Silent for `suspect_s`: no new placements until it is cleared."""

    term: int
    since_at: float


class NodeCleared(Fact, frozen=True, kw_only=True, tag="node_cleared"):
    term: int


class NodeCordoned(Fact, frozen=True, kw_only=True, tag="node_cordoned"):
    by: str
    why: str = ""


class NodeUncordoned(Fact, frozen=True, kw_only=True, tag="node_uncordoned"):
    by: str


class NodeDraining(Fact, frozen=True, kw_only=True, tag="node_draining"):
    by: str
    why: str = ""
    stop: bool = False
    """Its attempts are stopped after their grace and wait again, which is no try of theirs. False: they run on."""


class NodeMaintenance(Fact, frozen=True, kw_only=True, tag="node_maintenance"):
    """Nothing is placed on it that could still run between these moments. The newest one counts; without a span
    (`ends_at` is not behind `begins_at`) there is no maintenance any more.
    """

    by: str
    begins_at: float = 0.0
    ends_at: float = 0.0
    why: str = ""


class NodeGone(Fact, frozen=True, kw_only=True, tag="node_gone"):
    """Its attempts cannot live any more. It may join again."""

    why: str
    term: int = 0
    by: str = ""
    """Whose word it is; empty: the leader found it out."""


class NodeGpus(Fact, frozen=True, kw_only=True, tag="node_gpus"):
    """The GPUs on which nothing is placed, all of them as of now. Without a fault: every one is fit."""

    term: int
    faults: tuple[GpuFault, ...] = ()


class NodeGpusRepaired(Fact, frozen=True, kw_only=True, tag="node_gpus_repaired"):
    """Somebody says that these are fit again; what had happened to them until now does not count any more."""

    by: str
    gpus: tuple[int, ...]
    why: str = ""


NodeFact = (
    NodeJoined
    | NodeSuspected
    | NodeCleared
    | NodeCordoned
    | NodeUncordoned
    | NodeDraining
    | NodeMaintenance
    | NodeGone
    | NodeGpus
    | NodeGpusRepaired
)


# -- about leadership: hr.v1.term ----------------------------------------------------------------------- scheduling --


class Led(Fact, frozen=True, kw_only=True, tag="led"):
    """A term begins; its number is the ledger sequence of this very fact."""

    leader: str


class Renewed(Fact, frozen=True, kw_only=True, tag="renewed"):
    """The term goes on. First message of every round: its guard is what stops a deposed leader."""

    term: int


TermFact = Led | Renewed

AnyFact = (
    Accepted
    | Rejected
    | CancelRequested
    | Held
    | Released
    | Reprioritised
    | Moved
    | Unfolded
    | Placed
    | Started
    | StopRequested
    | Requeued
    | Lost
    | Finished
    | EnvironmentWanted
    | EnvironmentBuilding
    | EnvironmentReady
    | EnvironmentFailed
    | QueueSet
    | QueueRemoved
    | TeamSet
    | Configured
    | NodeJoined
    | NodeSuspected
    | NodeCleared
    | NodeCordoned
    | NodeUncordoned
    | NodeDraining
    | NodeMaintenance
    | NodeGone
    | NodeGpus
    | NodeGpusRepaired
    | Led
    | Renewed
    | Archived
    | ArchiveWritten
)
"""The union of all facts: what a reader of the whole ledger decodes."""


# --------------------------------------------------------------------------------------------------------------------
# Nodes and the leader: core NATS, no stream, level-triggered
# --------------------------------------------------------------------------------------------------------------------


class Meeting(Value, frozen=True, kw_only=True):
    """Where the parts of a gang find each other: a port on the node of rank 0, proven free there."""

    address: str
    port: int
    token: str = ""
    """Of `kind: ray`: what its parts have in common and nobody else knows. In no fact: rank 0's runner draws it."""


class LiveAttempt(Value, frozen=True, kw_only=True):
    """`starting`: laid out or about to run; `ready`: laid out, it waits for the other parts of its gang; `running`: the
    entrypoint runs; `ended`: `end` waits for the ledger.
    """

    ref: AttemptRef
    state: Literal["starting", "ready", "running", "ended"]
    started_at: float | None = None
    end: AttemptEnd | None = None
    checkpoint_at: float | None = None
    """When it last said that it had saved its work (`headrace.checkpointed()`); None: never."""
    meeting: Meeting | None = None
    """Of a part of a gang. While it is `ready`: what rank 0 offers. From then on: what it was started with."""


class Exchange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="exchange"):
    """What a node has: the whole of it, each time."""

    node: str
    boot: str
    """The kernel's boot id: another one is proof that every process of before is gone."""
    runner: str
    """Id of this life of the runner."""
    capacity: Capacity
    attempts: tuple[LiveAttempt, ...] = ()
    gpu_health: GpuHealth | None = None
    """None: nobody watches its GPUs, or has not looked at all of them yet. Nothing follows from that."""


class GangPart(Value, frozen=True, kw_only=True):
    """Which part of a gang, one a node. `meeting` is the word to start: it comes when every part is ready."""

    rank: int
    size: int
    """How many parts there are."""
    meeting: Meeting | None = None


class Launch(Value, frozen=True, kw_only=True):
    """All that a node needs to start one attempt."""

    ref: AttemptRef
    user: str
    name: str
    allocation: Allocation
    entrypoint: tuple[str, ...]
    env: dict[str, str] = {}
    source: str = ""
    folder: str = ""
    lock: str = ""
    """Digest of the environment's lock; empty: the node's own interpreter."""
    python: str = ""
    time_limit_s: float | None = None
    grace_s: float = 30.0
    traceparent: str = ""
    placed_at: float = 0.0
    task: Task | None = None
    gang: GangPart | None = None
    """Set: it is laid out at once, and started only with a `meeting`."""
    kind: JobKind = "plain"


class Desired(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="desired"):
    """What should live on a node: the whole of it. Answers an exchange; sent to `hr.v1.to.<node>` on a change."""

    term: int
    node: str
    attempts: tuple[Launch, ...] = ()
    recorded: tuple[AttemptRef, ...] = ()
    """Ends reported by the node that are in the ledger now: it may forget them."""
    heartbeat_s: float = 5.0
    revision: int = 0
    """Grows within a term with each Desired for this node: a message may overtake an answer. 0: not counted."""


# --------------------------------------------------------------------------------------------------------------------
# Questions: request-reply on hr.v1.ask.<service>.<question>
# --------------------------------------------------------------------------------------------------------------------


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="refusal"):
    """The answer to a question that cannot be answered. `status` follows HTTP (400, 404, 503)."""

    status: int
    message: str
    hint: str = ""
    retry_after_s: float = 0.0
    """When the same question may be answered; 0: not said."""


class AskJob(Value, frozen=True, kw_only=True):
    """`hr.v1.ask.scheduling.why`."""

    team: str
    job: str
    forecast_wait_s: float | None = None
    """Have a new forecast made of when it starts, and wait so long if there is none. None: what there is will do."""


class Holder(Value, frozen=True, kw_only=True):
    """A job that holds what another one waits for."""

    job: str
    team: str
    nodes: tuple[str, ...] = ()
    gpus: int = 0
    until_at: float | None = None
    """When its time limit ends it, at the latest; None: it has none."""
    expected_at: float | None = None
    """When it will probably end, by its last runs; None: nobody can tell."""


class Hindrance(Value, frozen=True, kw_only=True):
    """One thing that a waiting job waits for, or that is in order: a refusal as data.

    `reservation`: a place is kept for it. `delay`: there is room for it now, but it would delay who has a reservation.
    `preemption`: room is being made for it.
    """

    ok: bool
    kind: Literal[
        "environment",
        "hold",
        "queue",
        "resources",
        "node",
        "order",
        "leader",
        "reservation",
        "delay",
        "preemption",
        "dependency",
        "time",
    ]
    message: str
    asked: float | None = None
    free: float | None = None
    held_by: tuple[str, ...] = ()
    """Ids of `holders`, or of the jobs that may not be delayed."""
    nodes: tuple[str, ...] = ()
    """Where it is, or will be."""
    at: float | None = None
    """When it is over at the latest; None: nobody can tell."""
    holders: tuple[Holder, ...] = ()
    """Who holds what it waits for: the first to end first."""


class Sooner(Value, frozen=True, kw_only=True):
    """What would let a waiting job start now, as things stand."""

    kind: str
    """`time_limit`, `tier`, or `on`: without its own constraint on nodes, where its tier may be."""
    message: str
    nodes: tuple[str, ...] = ()
    """Where it would start."""
    time_limit_s: float | None = None
    """With `time_limit`: it would have to be this or less."""
    tier: str = ""


class Why(Value, frozen=True, kw_only=True):
    job: str
    state: str
    position: int = 0
    """Place in its queue from 1; 0 when it does not wait."""
    of: int = 0
    hindrances: tuple[Hindrance, ...] = ()
    summary: str = ""
    sooner: tuple[Sooner, ...] = ()
    expected_at: float | None = None
    """When it will probably start, by a forward simulation; None: nobody can tell."""
    earliest_at: float | None = None
    """The spread: the earliest start of several simulations, and the latest."""
    latest_at: float | None = None


class AskQueue(Value, frozen=True, kw_only=True):
    """`hr.v1.ask.scheduling.queue`: the jobs of a team that wait, in the order in which they would start."""

    team: str
    queue: str = ""
    """Empty: one queue after the other."""
    limit: int = 50
    after: int = 0
    """Leave out so many."""


class QueuedView(Value, frozen=True, kw_only=True):
    """A job that waits."""

    place: int
    """In its queue, from 1."""
    queue: str
    job: str
    name: str
    user: str
    tier: str
    queued_at: float
    priority: int = 0
    time_limit_s: float | None = None
    kind: str = ""
    """Of what it waits for first, as `Hindrance` has it."""
    why: str = ""
    expected_at: float | None = None
    """As `Why` has it, and the next two."""
    earliest_at: float | None = None
    latest_at: float | None = None


class QueuePage(Value, frozen=True, kw_only=True):
    jobs: tuple[QueuedView, ...] = ()
    waiting: int = 0
    """How many wait in all."""
    next: int = 0
    """Give it as `after` for more; 0: there is no more."""
    forecast_at: float | None = None
    """Of when the expected starts are; None: there is no forecast yet."""


class AskEnvironment(Value, frozen=True, kw_only=True):
    """`hr.v1.ask.environments.log` (answered with the text of the build log) and `….view` (`EnvironmentView`)."""

    environment: str
    """Digest of the environment request."""


class EnvironmentView(Value, frozen=True, kw_only=True):
    environment: str
    state: Literal["wanted", "building", "ready", "failed"]
    lock: str = ""
    python: str = ""
    platform: str = ""
    packages: int = 0
    took_s: float = 0.0
    reason: str = ""
    """Why it failed, or what it waits for."""
    log: str = ""


class Span(Value, frozen=True, kw_only=True):
    """A time in which a node is closed: nothing runs there from `begins_at` to before `ends_at`."""

    begins_at: float
    ends_at: float
    by: str = ""
    why: str = ""


class NodeView(Value, frozen=True, kw_only=True):
    """`hr.v1.ask.scheduling.nodes` answers `NodesView`."""

    node: str
    state: Literal["ready", "suspected", "cordoned", "draining", "drained", "gone"]
    capacity: Capacity
    free: Allocation
    attempts: tuple[AttemptRef, ...] = ()
    seen_at: float = 0.0
    by: str = ""
    """Who drains it, or else who cordoned it."""
    why: str = ""
    """What they said, or why it is gone."""
    maintenance: Span | None = None
    shared: dict[int, int] = {}
    """Of GPUs of which somebody has a part: how many thousandths are free. They are not in `free`."""
    faults: tuple[GpuFault, ...] = ()
    """Why GPUs are out of use: these are neither in `free` nor in `shared`."""
    cordoned_by: str = ""
    """Who cordoned it, also while it is drained by another."""
    cordoned_why: str = ""
    draining_by: str = ""
    draining_why: str = ""


class NodesView(Value, frozen=True, kw_only=True):
    term: int
    nodes: tuple[NodeView, ...] = ()


class QueueView(Value, frozen=True, kw_only=True):
    """What a queue holds, and its settings, which mean what they do in `QueueSet`."""

    team: str
    queue: str
    weight: float = 1.0
    waiting: int = 0
    running: int = 0
    gpus: float = 0.0
    running_max: int | None = None
    gpus_max: int | None = None
    paused: bool = False
    cpus: float = 0.0
    policy: Policy = "slowdown"
    guard: float | None = 1.2
    draining: bool = False
    guaranteed_gpus: int = 0
    guaranteed_cpus: float = 0.0
    user_running_max: int | None = None
    user_gpus_max: int | None = None
    tiers: tuple[str, ...] = ()
    time_limit_s_default: float | None = None
    time_limit_s_max: float | None = None
    priority_default: int = 0
    priority_max: int | None = None
    preemptible: bool = False
    predictions: bool = True
    by: str = ""
    """Who set it last; `configuration`: nobody has since the installation began."""
    removed: bool = False
    """It was deleted, and is here for the jobs that it still has."""


class QueuesView(Value, frozen=True, kw_only=True):
    """`hr.v1.ask.scheduling.queues`."""

    queues: tuple[QueueView, ...] = ()
    sequence: int = 0
    """Of the last fact that it goes by."""


class TeamView(Value, frozen=True, kw_only=True):
    """What the queues of a team hold together, and the settings of the team, as in `TeamSet`."""

    team: str
    queues: int = 0
    waiting: int = 0
    running: int = 0
    gpus: float = 0.0
    cpus: float = 0.0
    weight: float = 1.0
    guaranteed_gpus: int = 0
    guaranteed_cpus: float = 0.0
    running_max: int | None = None
    gpus_max: int | None = None
    by: str = ""
    """Who set it last; empty: nobody has."""


class TeamsView(Value, frozen=True, kw_only=True):
    """`hr.v1.ask.scheduling.teams`."""

    teams: tuple[TeamView, ...] = ()
    sequence: int = 0
    """Of the last fact that it goes by."""


class AskSeries(Value, frozen=True, kw_only=True):
    """`hr.v1.ask.monitoring.series`: points of a job's series between two steps, at most `buckets` of them.

    Where there are more, each bucket gives its lowest, highest and last point, so no peak is lost.
    """

    team: str
    job: str
    names: tuple[str, ...] = ()
    step_from: int | None = None
    step_to: int | None = None
    buckets: int = 500


class Series(Value, frozen=True, kw_only=True):
    """Columns of one series, ascending by step. A point is the bucket's last; `low` and `high` bound the bucket."""

    name: str
    rank: int = 0
    attempt: int = 1
    count: int = 0
    """Points before down-sampling."""
    steps: tuple[int, ...] = ()
    values: tuple[float | None, ...] = ()
    """None: not a number, or infinite (JSON has neither); `low` and `high` leave these out."""
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    at: tuple[float, ...] = ()


class SeriesAnswer(Value, frozen=True, kw_only=True):
    series: tuple[Series, ...] = ()
    complete: bool = False
    """True once the job is over and every point that its nodes reported is stored."""
    matched: int = 0
    """How many series there are for this question; more than the answer holds: ask for some by name."""


class AskLatest(Value, frozen=True, kw_only=True):
    """`hr.v1.ask.monitoring.latest`: the newest value of every series of some jobs."""

    team: str
    jobs: tuple[str, ...]


class Latest(Value, frozen=True, kw_only=True):
    job: str
    name: str
    attempt: int
    step: int
    value: float | None
    at: float
    count: int = 0
    rank: int = 0


class LatestAnswer(Value, frozen=True, kw_only=True):
    latest: tuple[Latest, ...] = ()


class AskLog(Value, frozen=True, kw_only=True):
    """`hr.v1.ask.monitoring.log`: bytes of one stream from an offset on. A negative offset counts from the end."""

    team: str
    job: str
    attempt: int = 0
    """0: the newest that has output."""
    stream: Literal["stdout", "stderr"] = "stdout"
    offset: int = 0
    bytes_max: int = 262_144
    rank: int = 0
    """Of a gang: of which of its nodes."""


class LogAnswer(Value, frozen=True, kw_only=True):
    attempt: int
    stream: str
    offset: int
    data: bytes
    """Base64 in JSON."""
    size_bytes: int
    """Of the stream as far as it is stored."""
    complete: bool = False
    """True when nothing will be added: a follower may stop at `size_bytes`."""


class DeadLetter(Value, frozen=True, kw_only=True):
    """A message in DEAD, as `GET /v1/admin/dead` lists it."""

    sequence: int
    """In DEAD: what it is called by."""
    at: float
    subject: str
    """On which the message came; a replay publishes it there again."""
    reason: str = ""
    tries: int = 0
    stream: str = ""
    job: str = ""
    """As its subject says; empty where it names none."""
    id: str = ""
    """Its own `ce-id`, else its place in its stream: a replay has the same, and counts once."""
    size_bytes: int = 0


class AskArchived(Value, frozen=True, kw_only=True):
    """`hr.v1.ask.monitoring.archived`: jobs of the archive, the newest submit first."""

    team: str
    find: str = ""
    """Only the job that this means: by its id, a name (its newest job), or the beginning of its id."""
    states: tuple[str, ...] = ()
    """Only those that ended so; empty: all."""
    user: str = ""
    since_at: float = 0.0
    """Only those that were submitted since."""
    limit: int = 50
    after: str = ""
    """Only those behind this job."""
    after_at: float = 0.0
    """When that job was submitted: with it, the archive need not hold the job. 0: look it up."""


class ArchivedFact(Value, frozen=True, kw_only=True):
    """A fact as it stood in the ledger."""

    sequence: int
    at: float
    fact: msgspec.Raw
    """Any fact about a job."""


class ArchivedJob(Value, frozen=True, kw_only=True):
    team: str
    job: str
    facts: tuple[ArchivedFact, ...]
    latest: tuple[Latest, ...] = ()
    """Newest value of each of its series, when it was archived."""


class ArchivedAnswer(Value, frozen=True, kw_only=True):
    jobs: tuple[ArchivedJob, ...] = ()
    next: str = ""
    """Give it as `after` for more; empty: there is no more."""
    next_at: float = 0.0
    """Give it as `after_at`."""
    ambiguous: tuple[str, ...] = ()
    """Several jobs begin so: some of their ids."""


class Changed(Value, frozen=True, kw_only=True):
    """`hr.v1.live.<team>.<job>`, in no stream: something new is stored of a job. Sent after it was."""

    job: str
    metrics: bool = False
    logs: tuple[str, ...] = ()
    """Streams with new output."""
    complete: bool = False
    """Nothing more will come."""
