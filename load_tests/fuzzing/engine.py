"""Two engines for one parser: atheris, guided by coverage, where it is installed; else random mutation of examples."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from load_tests.fuzzing.parsers import Parser, parsers
from load_tests.stack import rss_mib

BYTES_MAX: Final = 16_384
RSS_MIB_MAX: Final = 2048
GROWTH_MIB_MAX: Final = 64.0
INPUT_S_MAX: Final = 20
"""For one input: what takes longer hangs, and is a finding."""
SPARE_S: Final = 120.0
"""For the start of a process that imports everything, instrumented."""
_TOKENS: Final = (b"\x00", b"\xff", b'"', b"{", b"[", b"}", b"]", b"-1", b"1e999", b"9" * 20, b"null", b"\n", b"../")


_STATISTICS: Final = (r"stat::number_of_executed_units: (\d+)", r"rss: (\d+)Mb", r"stat::peak_rss_mb: +(\d+)")


class Fuzzed(NamedTuple):
    """What came of one target."""

    executions: int
    seconds: float
    findings: list[str]
    paths: int = 0
    """Features of the code that were reached; 0: nobody looked."""
    growth_mib: float = 0.0
    engine: str = ""


def fuzz(name: str, seconds: float) -> Fuzzed:
    """One parser for so long; ends at its first finding."""
    return _by_coverage(name, seconds) if find_spec("atheris") else _by_mutation(parsers()[name], seconds)


def _by_mutation(parser: Parser, seconds: float) -> Fuzzed:
    chance = random.Random(7)
    began, executions, settled = time.monotonic(), 0, 0.0
    while time.monotonic() - began < seconds:
        data = mutated(chance, chance.choice(parser.seeds))
        try:
            parser.read(data)
        except Exception:  # noqa: BLE001  whatever it lets out is a finding
            story = f"{data!r}\n{traceback.format_exc()}"
            return Fuzzed(executions, time.monotonic() - began, [story], engine="mutation")
        executions += 1
        if not settled and time.monotonic() - began > seconds / 4:
            settled = rss_mib(os.getpid())
    growth = max(0.0, rss_mib(os.getpid()) - settled)
    findings = [f"memory grew by {growth:.0f} MiB"] if growth > GROWTH_MIB_MAX else []
    return Fuzzed(executions, time.monotonic() - began, findings, growth_mib=round(growth, 1), engine="mutation")


def mutated(chance: random.Random, seed: bytes) -> bytes:
    """A good example with some bytes changed, put in, cut out or repeated."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 8)):
        at = chance.randint(0, len(data))
        what = chance.randint(0, 4)
        if what == 0:
            data[at : at + 1] = chance.randbytes(1)
        elif what == 1:
            data[at:at] = chance.choice(_TOKENS)
        elif what == 2:
            del data[at : at + chance.randint(1, 32)]
        elif what == 3:
            data[at:at] = data[at : at + chance.randint(1, 64)]
        else:
            data[at : at + 4] = chance.randbytes(4)
    return bytes(data[:BYTES_MAX])


# -- atheris: it owns its process, and ends it -------------------------------------------------------------------------


def _by_coverage(name: str, seconds: float) -> Fuzzed:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(parsers()[name].seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
        command = [sys.executable, "-m", "load_tests.fuzzing.guided", name, str(corpus)]
        command += [f"-max_total_time={max(1, int(seconds))}", f"-max_len={BYTES_MAX}", f"-rss_limit_mb={RSS_MIB_MAX}"]
        command += ["-print_final_stats=1", f"-timeout={INPUT_S_MAX}", f"-artifact_prefix={folder}/"]
        done = subprocess.run(command, capture_output=True, timeout=seconds + SPARE_S, check=False)
        said = done.stderr.decode(errors="replace")
        crashes = [file.read_bytes() for file in Path(folder).iterdir() if file.is_file()]
    executions, first, peak = (_number(pattern, said) for pattern in _STATISTICS)
    story = (done.stdout.decode(errors="replace") + said)[-6000:]
    findings = [f"{crashes[0][:2000]!r}\n{story}"] if crashes else [story] if done.returncode or not executions else []
    return Fuzzed(
        executions,
        time.monotonic() - began,
        findings,
        paths=_number(r".* ft: (\d+)", said),
        growth_mib=float(peak - first),
        engine="atheris",
    )


def _number(pattern: str, said: str) -> int:
    found = re.search(pattern, said, re.DOTALL)
    return int(found[1]) if found else 0
