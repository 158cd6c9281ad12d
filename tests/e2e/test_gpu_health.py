"""GPUs that break under jobs of the embedded stack, as users read it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from load_tests.stack import running
from tests.e2e.conftest import ROOT, Headrace, Said
from tests.support.fake_nvml import FakeNvml

WAIT_S_MAX = 60
FAILS = ("run", "--no-source", "--no-environment", "--tier", "gpu1")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Headrace, FakeNvml]]:
    """A stack of its own, on a machine with two GPUs."""
    nvml = FakeNvml(tmp_path_factory.mktemp("fake") / "nvml", gpus=2)
    config = (ROOT / "tests" / "e2e" / "headrace.toml").read_text()
    state = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in nvml.env.items():
            patch.setenv(name, value)
        with running("--gpus", "2", state=state, config=config):
            yield Headrace(state), nvml


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


def run_beside(headrace: Headrace, code: str, meanwhile: Callable[[], None], *, name: str) -> Said:
    """Run a job, and do something while it runs."""
    said: list[Said] = []

    def run() -> None:
        said.append(headrace(*FAILS, "--name", name, "--", "python3", "-c", code))

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: "running" in headrace("jobs").out)
    meanwhile()
    thread.join(WAIT_S_MAX)
    return said[0]


def test_who_did_it_himself_reads_what_he_did(machine: tuple[Headrace, FakeNvml], tmp_path: Path) -> None:
    headrace, nvml = machine

    def page_fault() -> None:
        nvml.xid(0, 31)
        (tmp_path / "fail").touch()

    code = (
        f"import os, time\nwhile not os.path.exists({str(tmp_path / 'fail')!r}): time.sleep(0.05)\nraise SystemExit(1)"
    )
    said = run_beside(headrace, code, page_fault, name="faulty")
    assert said.status == 1
    assert "exit code 1; GPU 0 reported Xid 31 (memory page fault of the program)" in re.sub(r"\s+", " ", said.err)
    assert "out of use" not in headrace("nodes").err


def test_who_met_a_broken_one_runs_again_on_another_and_all_see_why(
    machine: tuple[Headrace, FakeNvml], tmp_path: Path
) -> None:
    headrace, nvml = machine
    code = "import os, time\nprint('on', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
    code += "time.sleep(0 if os.environ['HEADRACE_ATTEMPT'] == '2' else 60)"
    said = run_beside(headrace, code, lambda: nvml.xid(0, 79), name="unlucky")
    assert (said.status, said.out) == (0, "on 0\non 1\n")
    why = "GPU 0 of node [^ ]+ is out of use: Xid 79 \\(the GPU has fallen off the bus\\)"
    told = re.sub(r"\s+", " ", said.err)
    assert re.search(f"stopping {why}", told)
    assert re.search(f"again: {why}", told)
    assert re.search(f"stop_requested +{why}\n.*requeued +{why}\n", headrace("show", "unlucky").out)
    nodes = headrace("nodes")
    assert "1 of 2, 1 out" in nodes.out
    assert re.search(f"warning: {why.replace('node ', '')}, (now|.* ago); met by j-[a-z0-9]+ of ", nodes.err)
    node = nodes.out.splitlines()[1].split()[0]
    assert headrace("nodes", "repair", node, "--gpu", "0").status == 0
    until(lambda: "2 of 2" in headrace("nodes").out)
