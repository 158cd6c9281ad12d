"""Monitoring gives memory back that one large batch had needed."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

BATCH = """
import ctypes, os, sys
from pathlib import Path
from controlplane import main

if sys.argv[1] == "monitoring":
    main._give_memory_back()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

libc.free(libc.malloc(30 * 1024**2))  # from now on glibc would keep 60 MiB
before = resident()
blocks = [0] * 300  # nothing of Python's own may come to lie behind them
for number in range(300):
    blocks[number] = libc.malloc(100 * 1024)
    ctypes.memset(blocks[number], 1, 100 * 1024)
for block in blocks:
    libc.free(block)
print((resident() - before) // 1024**2)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_what_a_batch_had_needed_goes_back_to_the_system() -> None:
    assert kept_mib("monitoring") <= 2
    assert kept_mib("any process") >= 20  # else this test shows nothing


def kept_mib(kind: str) -> int:
    found = subprocess.run([sys.executable, "-c", BATCH, kind], check=True, capture_output=True, text=True, timeout=60)
    return int(found.stdout)
