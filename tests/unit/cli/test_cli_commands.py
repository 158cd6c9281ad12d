"""The commands that look and steer, as a person sees them at 80 columns, and as a program does."""

from __future__ import annotations

import json
import time
from textwrap import dedent
from typing import Any

import pytest

from headrace.cli import text
from tests.support.fake_gateway import ENVIRONMENT, JOB, PLACED, WHY, FakeGateway, a_view
from tests.support.terminal import Terminal

OTHER = "j-0000000000zz"
CAPACITY = {"cpus": 64, "memory_bytes": 512 * 2**30, "gpus": 8, "pythons": ["3.11.7", "3.9.1"]}
FREE = {"cpus": 32, "memory_bytes": 2**38, "gpus": [4, 5, 6, 7]}


@pytest.fixture
def now(gateway: FakeGateway) -> float:
    now = time.time()
    latest = {"loss": {"step": 97_340, "value": 0.6039}, "val/acc": {"step": 97_340, "value": 0.8413}}
    since = {
        "submitted_at": now - 12_612,
        "queued_at": now - 12_612,
        "placed_at": now - 12_240,
        "started_at": now - 12_240,
    }
    said = {"state": "running", "latest": latest, "environment": ENVIRONMENT, "labels": {"sweep": "lr"}}
    gateway.views[JOB] = a_view(**PLACED | since | said)
    gateway.views[OTHER] = a_view(
        job=OTHER, name="clip-l\x1b[2J", user="eve", tier="gpu2", submitted_at=now - 30, queued_at=now - 30
    )
    return now


def test_jobs_fit_eighty_columns(terminal: Terminal, now: float) -> None:
    assert terminal.run("jobs") == dedent("""\
        JOB         ID          STATE      TIER  USER   WAIT    RAN  METRIC
        vit-l-384   j-7f3a91c2  ▶ running  gpu4  ana   6m12s  3h24m  val/acc 0.8413
        clip-l?[2J  j-00000000  ○ queued   gpu2  eve     30s      –""")


def test_an_array_is_one_line_with_its_tasks_counted(terminal: Terminal, gateway: FakeGateway, now: float) -> None:
    tasks = {"running": 10, "placed": 2, "succeeded": 38, "queued": 950}
    gateway.views.clear()
    gateway.views[JOB] = a_view(
        name="sweep", state="unfolding", array="0-999", array_at_once=12, tasks=tasks, queued_at=now - 30, tier="cpu"
    )
    assert terminal.run("jobs") == dedent("""\
        JOB    ID          STATE    TIER  USER  WAIT  RAN  METRIC
        sweep  j-7f3a91c2  ▶ array  cpu   ana    30s    –  12 run, 38 done, 950 wait""")
    assert "array        0-999, 12 at once\n  tasks        12 running, 38 done, 950 queued" in terminal.run(
        "show", "sweep"
    )


def test_the_tasks_of_an_array_are_listed_by_their_index(terminal: Terminal, gateway: FakeGateway, now: float) -> None:
    task = {"array": OTHER, "index": 7, "size": 1000}
    gateway.views[JOB] |= {"name": "sweep", "task": task, "latest": {}}
    gateway.views[OTHER] |= {"name": "sweep", "tasks": {"queued": 999, "running": 1}, "array": "0-999"}
    transcript = terminal.run("jobs", OTHER, "--limit", "1")
    assert transcript == dedent("""\
        JOB       ID          STATE      TIER  USER   WAIT    RAN  METRIC
        sweep[7]  j-7f3a91c2  ▶ running  gpu4  ana   6m12s  3h24m
        stderr:
        sweep  j-0000000000zz  1 running, 999 queued
        the first 1   headrace jobs --all j-0000000000zz""")
    assert any("array=j-0000000000zz" in path for _, path, _ in gateway.asked)


def test_jobs_are_read_page_by_page(terminal: Terminal, now: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.cli.jobs.PAGE", 1)
    assert len(terminal.run("jobs", "--all", "--json").splitlines()) == 2


def test_a_page_that_is_full_says_how_to_see_more(terminal: Terminal, now: float) -> None:
    assert terminal.run("jobs", "--limit", "1").endswith("stderr:\nthe newest 1   headrace jobs --all")


def test_each_job_is_one_line_of_json_with_rfc_3339(terminal: Terminal, now: float) -> None:
    first = json.loads(terminal.run("--json", "jobs").splitlines()[0])
    assert first["job"] == JOB
    assert first["started_at"].endswith("Z")


def test_show_tells_all_of_one_job(terminal: Terminal, now: float) -> None:
    assert terminal.run("show", "vit-l-384") == dedent("""\
        vit-l-384  j-7f3a91c2m4xq  ▶ running
          command      python train.py
          team, user   vision, ana
          queue, tier  vision, gpu4, priority 0
          environment  e3b0c442, ready, 86 packages
          where        gpu-a03 GPUs 0–3
          attempt      1 of 3
          waited, ran  6m12s, 3h24m
          labels       sweep=lr
          loss         0.6039 at step 97,340
          val/acc      0.8413 at step 97,340""")


def test_show_names_the_kind_of_a_job_that_is_not_plain(terminal: Terminal, gateway: FakeGateway, now: float) -> None:
    gateway.views[JOB] |= {"kind": "plain"}
    assert "kind" not in terminal.run("show", "vit-l-384")
    gateway.views[JOB] |= {"kind": "ray"}
    assert "  command      python train.py\n  kind         ray\n" in terminal.run("show", "vit-l-384")


def test_why_names_what_is_missing_before_what_is_in_order(terminal: Terminal, now: float) -> None:
    assert terminal.run("why", "vit-l-384") == dedent("""\
        vit-l-384 is place 2 of 11: waits for 4 GPUs of one node
          ✕ 4 GPUs of one node are not free
          ✓ environment e3b0c442 is ready""")
    assert json.loads(terminal.run("why", "vit-l-384", "--json")) == WHY


def test_why_names_who_holds_it_until_when_and_what_would_help(
    terminal: Terminal, gateway: FakeGateway, now: float
) -> None:
    until = now + 3_600
    gateway.pages["/v1/jobs/vit-l-384/why"] = {
        "job": JOB,
        "state": "queued",
        "position": 1,
        "of": 3,
        "summary": "node gpu-a03 is kept for it",
        "hindrances": [
            {
                "ok": False,
                "kind": "reservation",
                "message": "node gpu-a03 is kept for it",
                "at": until,
                "held_by": ["j-aaaaaaaaaaaa", "j-bbbbbbbbbbbb"],
                "holders": [
                    {"job": "j-aaaaaaaaaaaa", "team": "vision", "node": "gpu-a03", "gpus": 2, "until_at": until},
                    {"job": "j-bbbbbbbbbbbb", "team": "vision", "node": "gpu-a03"},
                ],
            },
        ],
        "expected_at": until - 1800,
        "earliest_at": until - 3000,
        "latest_at": until,
        "sooner": [{"kind": "tier", "message": "as tier gpu1 it could start now on node gpu-a04", "tier": "gpu1"}],
    }
    at = text.hour(until, now)
    assert terminal.run("why", "vit-l-384") == dedent(f"""\
        vit-l-384 is place 1 of 3
          ✕ node gpu-a03 is kept for it, by {at} at the latest
              j-aaaaaaaa 2 GPUs until {at}, j-bbbbbbbb without a time limit
          · expected to start {text.hour(until - 1800, now)} ({text.hour(until - 3000, now)} – {at})
          → as tier gpu1 it could start now on node gpu-a04""")


def test_the_queue_is_a_table_of_who_waits_for_what(terminal: Terminal, gateway: FakeGateway, now: float) -> None:
    waits = {"queue": "vision", "user": "ana", "tier": "gpu4", "queued_at": now - 372}
    first = waits | {"place": 1, "job": JOB, "name": "vit-l-384", "kind": "resources", "why": "4 GPUs are not free"}
    first |= {"time_limit_s": 7200.0, "expected_at": now + 60, "earliest_at": now + 30, "latest_at": now + 90}
    held = waits | {"place": 2, "job": OTHER, "name": "clip-l\x1b[2J", "kind": "hold", "why": "it is held"}
    gateway.pages["/v1/queue"] = {"jobs": [first, held], "waiting": 2, "forecast_at": now}
    starts = text.hour(now + 60, now)
    assert [line.split() for line in terminal.run("queue").splitlines()] == [
        ["#", "JOB", "ID", "USER", "TIER", "LIMIT", "WAITS", "STARTS", "FOR"],
        ["1", "vit-l-384", text.short(JOB), "ana", "gpu4", "2h", "6m", *starts.split(), "resources"],
        ["2", "clip-l?[2J", text.short(OTHER), "ana", "gpu4", "–", "6m", "–", "hold"],
    ]
    assert all(len(line) <= 80 for line in terminal.run("queue").splitlines())
    assert json.loads(terminal.run("queue", "--json").splitlines()[0])["place"] == 1
    gateway.pages["/v1/queue"] = {"jobs": []}
    assert terminal.run("queue") == "stderr:\nno jobs wait"


def test_a_job_that_is_not_there_is_an_error_with_a_hint(terminal: Terminal) -> None:
    assert terminal.run("show", "nope") == "exit status 1\nstderr:\nerror: no job nope\nhint: headrace jobs --all"


def test_logs_go_where_they_were_written(terminal: Terminal, gateway: FakeGateway, now: float) -> None:
    gateway.logs = {"stdout": b"".join(b"line %d\n" % i for i in range(30_000)), "stderr": b"oops\n"}
    assert terminal.run("logs", JOB, "--tail", "2") == "line 29998\nline 29999\nstderr:\noops"
    assert terminal.run("logs", JOB, "--stdout").count("\n") == 29_999
    assert terminal.run("logs", JOB, "--stderr") == "stderr:\noops"


def test_logs_of_another_rank_can_be_asked_for(terminal: Terminal, gateway: FakeGateway, now: float) -> None:
    gateway.logs = {"stdout": b"zero\n", "stdout-3": b"three\n"}
    assert terminal.run("logs", JOB, "--stdout") == "zero"
    assert terminal.run("logs", JOB, "--stdout", "--rank", "3") == "three"


def test_logs_can_be_followed_from_their_last_lines_on(terminal: Terminal, gateway: FakeGateway, now: float) -> None:
    gateway.prints(b"one\ntwo\n")
    gateway.prints(b"three\n")
    gateway.ends()
    assert terminal.run("logs", "-f", JOB) == "one\ntwo\nthree"
    assert terminal.run("logs", "-f", "--tail", "1", JOB) == "three"


def test_metrics_are_a_table_or_a_plot(terminal: Terminal, gateway: FakeGateway, now: float) -> None:
    steps = list(range(0, 100_000, 2_500))
    values = [3.26 * 0.93**i + 0.19 for i in range(len(steps))]
    gateway.series = [{"name": "loss", "count": 1_000_412, "steps": steps, "values": values}]
    assert terminal.run("metrics", JOB) == dedent("""\
        METRIC    LAST    STEP  LOWEST  HIGHEST     POINTS  RUN
        loss    0.3823  97,500  0.3823    3.450  1,000,412  █▆▅▃▃▂▁▁▁▁""")
    plot = terminal.run("metrics", JOB, "--plot", "loss").splitlines()
    assert plot[0] == "loss  0.3823 at step 97,500   1,000,412 points, min and max kept"
    assert plot[1].startswith("3.45 ┤")
    assert plot[-1].split() == ["0", "32k", "65k", "98k"]
    assert max(map(len, plot)) <= 80
    assert "has no metric 'acc'" in terminal.run("metrics", JOB, "--plot", "acc")


def test_metrics_can_be_followed(terminal: Terminal, gateway: FakeGateway, now: float) -> None:
    for step in (1, 2):
        gateway.tell("metrics", "latest", [{"name": "loss", "step": step, "value": 1 / step}])
    gateway.ends()
    assert terminal.run("metrics", JOB, "--follow") == "step 1   loss 1\nstep 2   loss 0.5000"


@pytest.mark.parametrize(
    ("arguments", "verb", "body", "said"),
    [
        (["cancel", JOB, "--why", "too slow"], "cancel", {"why": "too slow"}, "cancelled"),
        (["hold", JOB], "hold", {}, "held"),
        (["release", JOB], "release", {}, "released"),
        (["reprioritise", JOB, "7"], "reprioritise", {"priority": 7}, "reprioritised"),
        (["move", JOB, "--before", OTHER], "move", {"before": OTHER}, "moved"),
        (["move", JOB, "--front"], "move", {}, "moved"),
    ],
)
def test_a_control_is_one_request(
    terminal: Terminal, gateway: FakeGateway, now: float, arguments: list[str], verb: str, body: Any, said: str
) -> None:
    assert terminal.run(*arguments) == f"stderr:\n{JOB}: {said}"
    method, path, content = gateway.asked[-1]
    assert (method, path, json.loads(content)) == ("POST", f"/v1/jobs/{JOB}/{verb}", body)


def test_one_job_that_is_not_there_keeps_the_others_from_nothing(terminal: Terminal, now: float) -> None:
    transcript = terminal.run("cancel", "nope", JOB)
    assert transcript.startswith("exit status 1")
    assert f"{JOB}: cancelled" in transcript


def test_move_wants_exactly_one_place(terminal: Terminal, now: float) -> None:
    assert terminal.run("move", JOB, "--front", "--after", OTHER).startswith("exit status 2")


def test_nodes_tiers_and_queues_are_tables(terminal: Terminal, gateway: FakeGateway) -> None:
    node = {"node": "gpu-a03", "state": "ready", "capacity": CAPACITY, "free": FREE, "attempts": [1, 2]}
    tier = {
        "name": "gpu4",
        "resources": {"cpus": 32, "memory_bytes": 2**37, "gpus": 4},
        "fits": 1,
        "note": "half a node",
    }
    queue = {"team": "vision", "queue": "default", "waiting": 11, "running": 3, "gpus": 22, "gpus_max": 22}
    gateway.pages |= {"/v1/nodes": {"nodes": [node]}, "/v1/tiers": {"tiers": [tier]}, "/v1/queues": {"queues": [queue]}}
    assert terminal.run("nodes") == dedent("""\
        NODE     STATE    GPUS      CPUS              MEMORY  JOBS  PYTHON     SEEN
        gpu-a03  ready  4 of 8  32 of 64  256 GiB of 512 GiB     2  3.9, 3.11     –""")
    assert terminal.run("tiers") == dedent("""\
        TIER  GPUS  CPUS   MEMORY  NODES  FREE  NOTE
        gpu4     4    32  128 GiB      1     1  half a node""")
    assert terminal.run("queues") == dedent("""\
        QUEUE    TEAM    WAITING  RUNNING      GPUS  WEIGHT  STATE
        default  vision       11        3  22 of 22       1  open""")
    assert json.loads(terminal.run("nodes", "--json"))["node"] == "gpu-a03"


def test_nodes_that_can_start_nothing_say_why(terminal: Terminal, gateway: FakeGateway) -> None:
    full = CAPACITY | {"cannot_start": "its disk is full: less than 16 MiB are free"}
    gateway.pages["/v1/nodes"] = {"nodes": [{"node": "n1", "state": "ready", "capacity": full, "free": FREE}]}
    shown = terminal.run("nodes")
    assert "  cannot start  " in shown
    assert "warning: node n1 gets no jobs: its disk is full: less than 16 MiB are free" in shown


def test_nodes_say_what_bounds_their_attempts_where_it_fits(terminal: Terminal, gateway: FakeGateway) -> None:
    node = {"node": "n1", "state": "ready", "capacity": CAPACITY | {"gpus": 0, "bounds": "cgroup2"}, "free": FREE}
    gateway.pages["/v1/nodes"] = {"nodes": [node]}
    assert terminal.run("nodes").splitlines()[1].endswith("  cgroup2")
    gateway.pages["/v1/nodes"] = {"nodes": [node | {"node": "a-name-that-takes-the-room"}]}
    assert "cgroup2" not in terminal.run("nodes")
    assert json.loads(terminal.run("nodes", "--json"))["capacity"]["bounds"] == "cgroup2"


def test_config_shows_both_sides(terminal: Terminal, gateway: FakeGateway) -> None:
    gateway.pages["/v1/config"] = {"heartbeat_s": 5.0, "teams": {"default": {"queues": ["default"]}}}
    assert terminal.run("config").splitlines()[1:] == [
        'server = "http://[ADDRESS]"',
        'server_from = "HEADRACE_URL"',
        "server.heartbeat_s = 5.0",
        'server.teams.default.queues = ["default"]',
    ]


def test_status_says_up_or_not(terminal: Terminal, gateway: FakeGateway) -> None:
    services = {
        "submission": {"answers": True, "applied": 12, "stale": 0, "repeated": 1},
        "monitoring": {"answers": False, "error": "no answer in 2 s"},
    }
    gateway.pages["/v1/status"] = {"version": "0.1.0", "services": services}
    assert terminal.run("status") == dedent("""\
        up  http://[ADDRESS], version 0.1.0
        SERVICE     STATE    COUNTERS
        monitoring  silent   no answer in 2 s
        submission  answers  applied 12, repeated 1""")
    many = dict.fromkeys(("applied", "repeated", "stale", "forbidden", "rounds", "jobs", "nodes", "term"), 1234567)
    gateway.pages["/v1/status"] = {"version": "0.1.0", "services": {"environments": many, "gateway": {"dead": 2}}}
    assert terminal.run("status") == dedent("""\
        up  http://[ADDRESS], version 0.1.0
        SERVICE       STATE    COUNTERS
        environments  answers  applied 1,234,567, repeated 1,234,567, stale 1,234,567,
                               forbidden 1,234,567, rounds 1,234,567, jobs 1,234,567,
                               nodes 1,234,567, term 1,234,567
        gateway       answers  dead 2""")
    why = (
        "other pods ask for 60 of 96 CPUs, 10.0 of 700.0 GiB and 0 of 8 GPUs: it joins when at least half of it is free"
    )
    told = {"gpu-1": why} | {f"gpu-{number}": "\x1b[2Jcannot be read" for number in range(2, 13)}
    gateway.pages["/v1/status"] = {"version": "0.1.0", "services": {"pool": {"machines": 12, "problems": told}}}
    assert terminal.run("status").splitlines()[1:6] == [
        "SERVICE  STATE    COUNTERS",
        "pool     answers  machines 12",
        "         problem  gpu-1: other pods ask for 60 of 96 CPUs, 10.0 of 700.0",
        "                  GiB and 0 of 8 GPUs: it joins when at least half of it is",
        "                  free",
    ]
    assert terminal.run("status").splitlines()[-1].strip() == "and 2 more: headrace status --json"
    gateway.stop()
    assert terminal.run("status").startswith("exit status 1\nunreachable  http://[ADDRESS] cannot be reached")


def test_a_wrong_token_is_said_so(terminal: Terminal, gateway: FakeGateway) -> None:
    terminal.use(gateway.url, "another")
    assert terminal.run("jobs") == dedent("""\
        exit status 1
        stderr:
        error: this token is unknown
        hint: check HEADRACE_TOKEN, or the token in stack.json""")
