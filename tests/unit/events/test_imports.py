"""What the contract brings into a process that uses it."""

from __future__ import annotations

import subprocess
import sys


def test_the_bus_brings_no_http_client_and_hides_none() -> None:
    program = "import sys, events.bus; print('aiohttp' in sys.modules); import aiohttp"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
