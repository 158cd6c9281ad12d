"""What a process does before it becomes another user."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

IN_A_USER_NAMESPACE = """
import ctypes, os, sys
from runtime import credentials
CLONE_NEWUSER = 0x10000000
if ctypes.CDLL(None).unshare(CLONE_NEWUSER) != 0:
    sys.exit("no user namespace")
before = os.listdir("/proc")
print(credentials.hide_others(), "self" in before and "self" in os.listdir("/proc"))
"""
"""There one has CAP_SYS_ADMIN and may unshare, and /proc may not be mounted: its processes are another namespace's."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hides processes")
def test_where_mount_is_refused_nothing_is_hidden_and_nothing_fails() -> None:
    ran = subprocess.run([sys.executable, "-c", IN_A_USER_NAMESPACE], capture_output=True, text=True, timeout=30)
    if "no user namespace" in ran.stderr:
        pytest.skip("this kernel gives no user namespace")
    assert ran.stdout.split() == ["False", "True"], ran.stderr
