"""The program of every job: it notes for itself what it does, in files that only grow. Standard library and `headrace`.

    witness.py FOLDER SECONDS EXIT

One file a job below FOLDER: `start|line|end|overlap attempt …` with wall and monotonic time in nanoseconds. While it
runs it holds a lock for its job and for each of its GPUs: the kernel itself says whether another one lives.
"""

import fcntl
import os
import sys
import time

import headrace

folder, seconds, code = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
job, attempt, node = (os.environ[f"HEADRACE_{name}"] for name in ("JOB", "ATTEMPT", "NODE"))
gpus = [index for index in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if index]
record = os.open(f"{folder}/record-{job}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(*words: object) -> None:
    os.write(record, (" ".join(map(str, (*words, time.time_ns(), time.monotonic_ns()))) + "\n").encode())


locks = []
for name in (f"job-{job}", *(f"gpu-{node}-{index}" for index in gpus)):
    locks.append(os.open(f"{folder}/lock-{name}", os.O_RDWR | os.O_CREAT))
    try:
        fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("overlap", attempt, name)
note("start", attempt, node, os.getpid(), ",".join(gpus) or "-")
end = time.monotonic() + seconds
count = 0
while time.monotonic() < end:
    note("line", attempt, count)
    print(f"line {attempt} {count}", flush=True)
    headrace.log(step=count, value=float(count))
    count += 1
    time.sleep(0.1)
note("end", attempt, count)
sys.exit(code)
