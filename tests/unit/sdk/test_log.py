"""`headrace.log` as a training script sees it, read back by the node's reader."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headrace
from headrace import metrics
from runtime import spool
from tests.support.spools import SDK, script, spool_into


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with spool_into(tmp_path):
        yield tmp_path


def logged(folder: Path) -> dict[tuple[str, ...], list[tuple[int, list[float]]]]:
    """What a reader finds when every writer is gone: names → (step, values), in order."""
    found: dict[tuple[str, ...], list[tuple[int, list[float]]]] = {}
    for name in sorted(spool.files(folder), key=lambda name: int(name.split("-")[3].split(".")[0])):
        file = spool.Spool(folder / name)
        rows = found.setdefault(file.layout.names, [])
        now = 0.0
        while file.look(now) or file.skip_hole(now, over=True):
            now += 1
            while (records := file.take(10_000, now)) is not None:
                rows += [(int(record["step"]), [float(value) for value in record["values"]]) for record in records]
    return found


def test_what_was_logged_is_read_back(folder: Path) -> None:
    headrace.log(step=3, loss=0.25, lr=1e-3)
    headrace.log({"eval/acc": 0.5}, step=4)
    headrace.log({"a": 1, "step": 2}, step=5, b=3)
    assert logged(folder) == {
        ("loss", "lr"): [(3, [0.25, 1e-3])],
        ("eval/acc",): [(4, [0.5])],
        ("a", "step", "b"): [(5, [1.0, 2.0, 3.0])],
    }


def test_without_a_step_it_counts_the_calls_with_these_names(folder: Path) -> None:
    for value in range(3):
        headrace.log(loss=value)
        headrace.log(acc=value)
    assert [step for step, _ in logged(folder)["loss",]] == [0, 1, 2]
    assert [step for step, _ in logged(folder)["acc",]] == [0, 1, 2]


def test_a_full_segment_is_followed_by_another(folder: Path) -> None:
    many = 3 * metrics.SEGMENT_BYTES[0] // 32 + metrics.SEGMENT_BYTES[1] // 32
    for value in range(many):
        headrace.log(loss=value)
    assert len(spool.files(folder)) == 3
    assert logged(folder)["loss",] == [(value, [float(value)]) for value in range(many)]


def test_numbers_of_all_kinds_are_taken(folder: Path) -> None:
    class Tensor:
        def __float__(self) -> float:
            return 1.5

    for value in (1, True, np.float32(1.5), np.int64(3), np.array(2.5), Tensor(), math.nan, math.inf, -0.0):
        headrace.log(step=np.int64(7), x=value)
    values = [value for _, (value,) in logged(folder)["x",]]
    assert values[:6] == [1.0, 1.0, 1.5, 3.0, 2.5, 1.5]
    assert math.isnan(values[6])
    assert values[7] == math.inf


class Broken:
    def __float__(self) -> float:
        raise RuntimeError("needs two GPUs")


@pytest.mark.parametrize("value", ["1.5", None, b"1", [1.0], np.array([1.0, 2.0]), 1j, Broken(), 10**400])
def test_what_is_no_number_is_refused_by_name(folder: Path, value: Any) -> None:
    headrace.log(fine=1, loss=0)
    with pytest.raises(TypeError, match=r"headrace\.log: 'loss' must be one number, not"):
        headrace.log(fine=1, loss=value)
    headrace.log(fine=1, loss=2)
    assert [values for _, values in logged(folder)["fine", "loss"]] == [[1.0, 0.0], [1.0, 2.0]]


@pytest.mark.parametrize(("step", "kind"), [("3", TypeError), (3.0, TypeError), (2**63, ValueError)])
def test_a_step_that_is_no_whole_number_is_refused(folder: Path, step: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"headrace\.log: step must be"):
        headrace.log(step=step, loss=1)
    assert logged(folder)["loss",] == []


@pytest.mark.parametrize("names", [[], [str(number) for number in range(65)], [""], ["x" * 257], ["a\nb"], ["\udc80"]])
def test_names_have_limits(folder: Path, names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"headrace\.log"):
        headrace.log(dict.fromkeys(names, 1.0))
    assert list(folder.iterdir()) == []


def test_what_is_no_dictionary_is_refused_with_an_example(folder: Path) -> None:
    with pytest.raises(TypeError, match=r"write log\(step=3, loss=0\.25\)"):
        headrace.log(0.25)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name of a metric is text"):
        headrace.log({3: 0.25})  # type: ignore[dict-item]


def test_threads_lose_and_mix_nothing(folder: Path) -> None:
    def work(thread: int) -> None:
        for number in range(4000):
            headrace.log(step=number, thread=thread, again=thread)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = logged(folder)["thread", "again"]
    assert sorted(rows) == sorted((number, [float(t), float(t)]) for t in range(4) for number in range(4000))


def test_a_forked_child_writes_files_of_its_own(folder: Path) -> None:
    code = """
import headrace, os
headrace.log(step=0, loss=1)
child = os.fork()
for step in range(1, 100):
    headrace.log(step=step, loss=2 if child else 3)
if child:
    os.waitpid(child, 0)
"""
    assert script(code, folder).wait() == 0
    assert len(spool.files(folder)) == 2
    values = [value for _, (value,) in logged(folder)["loss",]]
    assert (values.count(1.0), values.count(2.0), values.count(3.0)) == (1, 99, 99)


def test_a_kill_9_takes_nothing_back(folder: Path) -> None:
    code = "import headrace, os, signal\nfor step in range(1234): headrace.log(step=step, loss=step)\n"
    assert script(code + "os.kill(os.getpid(), signal.SIGKILL)", folder).wait() == -9
    assert logged(folder)["loss",] == [(step, [float(step)]) for step in range(1234)]


def test_a_full_disk_drops_and_warns_once_and_training_goes_on(tmp_path: Path) -> None:
    code = """
import headrace, os
from headrace import metrics
def full(*_): raise OSError(28, "No space left on device")
real, os.posix_fallocate = os.posix_fallocate, full
for step in range(100): headrace.log(step=step, loss=step)
assert metrics.dropped() == 100
os.posix_fallocate, metrics._state.retry_at = real, 0
headrace.log(step=100, loss=100)
"""
    process = script(code, tmp_path)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert stderr == "warning: headrace.log drops metrics: [Errno 28] No space left on device\n"
    assert logged(tmp_path)["loss",] == [(100, [100.0])]


def test_too_many_sets_of_names_are_dropped(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(metrics.SERIES_MAX + 5):
        headrace.log({f"loss/{number}": 1.0})
    assert len(spool.files(folder)) == metrics.SERIES_MAX
    assert metrics.dropped() == 5
    assert "different sets of names" in capfd.readouterr().err


def test_outside_of_a_job_spools_lie_below_the_working_folder(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "HEADRACE_SPOOL"} | {"PYTHONPATH": str(SDK)}
    code = "import headrace; headrace.log(loss=1)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, check=True)
    (run,) = (tmp_path / ".headrace").iterdir()
    assert logged(run) == {("loss",): [(0, [1.0])]}


def test_the_rank_is_what_torchrun_says_else_what_the_node_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_RANK", "3")
    headrace.log(a=1)
    monkeypatch.setenv("RANK", "11")
    headrace.log(b=1)
    monkeypatch.setenv("RANK", "none of your business")
    headrace.log(c=1)
    ranks = {layout.names: layout.rank for layout in (spool.Spool(folder / n).layout for n in spool.files(folder))}
    assert ranks == {("a",): 3, ("b",): 11, ("c",): 3}


def test_importing_it_is_quick_and_brings_nothing_along() -> None:
    code = """
import os, sys
before = set(sys.modules)
import headrace
print(*sorted(set(sys.modules) - before))
"""
    environ = os.environ | {"PYTHONPATH": str(SDK)}
    ran = subprocess.run([sys.executable, "-S", "-c", code], env=environ, capture_output=True, text=True, check=True)
    brought = {name for name in ran.stdout.split() if not name.startswith("headrace")}
    assert brought <= {"__future__", "_struct", "itertools", "mmap", "struct", "time"}


def test_a_call_takes_microseconds(folder: Path) -> None:
    headrace.log(step=0, loss=0.0)
    begun = time.perf_counter()
    for step in range(20_000):
        headrace.log(step=step, loss=0.5)
    assert (time.perf_counter() - begun) / 20_000 < 20e-6  # about 1 on a quiet machine; load_tests/ measure it
