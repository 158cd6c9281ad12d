"""What a node may say of itself at all. Pure.

A number that JSON can hold may still be one that nothing here can: infinitely many CPUs, 10^12
GPUs, memory that no snapshot can keep. One node that lies so would end the leader; it is refused instead.
"""

from __future__ import annotations

from typing import Final

from events import messages as m

CPUS_MAX: Final = 100_000
GPUS_MAX: Final = 1024
BYTES_MAX: Final = 2**60
ATTEMPTS_MAX: Final = 10_000
ATTEMPT_MAX: Final = 1_000_000
ITEMS_MAX: Final = 256
LINES_MAX: Final = 16
PORT_MAX: Final = 65_535
NAME_CHARACTERS_MAX: Final = 256
MESSAGE_CHARACTERS_MAX: Final = 10_000
MOMENT_MAX: Final = 2**36
"""Seconds since the epoch: some two thousand years."""
EXIT_CODE_MAX: Final = 2**31


def problem(exchange: m.Exchange) -> str:
    """The first thing in a node's report that cannot be, with its path; empty if all of it can."""
    capacity = exchange.capacity
    ranges: list[tuple[str, float, float]] = [
        ("$.capacity.cpus", capacity.cpus, CPUS_MAX),
        ("$.capacity.memory_bytes", capacity.memory_bytes, BYTES_MAX),
        ("$.capacity.gpus", capacity.gpus, GPUS_MAX),
        ("$.capacity.pythons", len(capacity.pythons), ITEMS_MAX),
        ("$.capacity.labels", len(capacity.labels), ITEMS_MAX),
        ("$.attempts", len(exchange.attempts), ATTEMPTS_MAX),
        ("$.capacity.cannot_start", len(capacity.cannot_start), NAME_CHARACTERS_MAX),
        ("$.gpu_health.faults", len(exchange.gpu_health.faults) if exchange.gpu_health else 0, ITEMS_MAX),
        ("$.boot", len(exchange.boot), NAME_CHARACTERS_MAX),
        ("$.runner", len(exchange.runner), NAME_CHARACTERS_MAX),
    ]
    for index, live in enumerate(exchange.attempts[:ATTEMPTS_MAX]):
        path = f"$.attempts[{index}]"
        ranges += [(f"{path}.ref.attempt", live.ref.attempt, ATTEMPT_MAX)]
        ranges += [(f"{path}.started_at", live.started_at or 0, MOMENT_MAX)]
        ranges += _end(f"{path}.end", live.end) if live.end is not None else []
        ranges += _meeting(f"{path}.meeting", live.meeting) if live.meeting is not None else []
    for index, fault in enumerate(exchange.gpu_health.faults[:ITEMS_MAX] if exchange.gpu_health is not None else ()):
        ranges += _fault(f"$.gpu_health.faults[{index}]", fault)
    found = next((each for each in ranges if not 0 <= each[1] <= each[2]), None)
    return f"{found[0]}: {found[1]:g} is out of range: from 0 to {found[2]:g}" if found else ""


def _meeting(path: str, meeting: m.Meeting) -> list[tuple[str, float, float]]:
    return [
        (f"{path}.address", len(meeting.address), NAME_CHARACTERS_MAX),
        (f"{path}.port", meeting.port, PORT_MAX),
        (f"{path}.token", len(meeting.token), NAME_CHARACTERS_MAX),
    ]


def _fault(path: str, fault: m.GpuFault) -> list[tuple[str, float, float]]:
    return [
        (f"{path}.gpu", fault.gpu, GPUS_MAX),
        (f"{path}.sign", len(fault.sign), NAME_CHARACTERS_MAX),
        (f"{path}.why", len(fault.why), NAME_CHARACTERS_MAX),
        (f"{path}.since_at", fault.since_at, MOMENT_MAX),
        (f"{path}.boot", len(fault.boot), NAME_CHARACTERS_MAX),
    ]


def _end(path: str, end: m.AttemptEnd) -> list[tuple[str, float, float]]:
    return [
        (f"{path}.ended_at", end.ended_at, MOMENT_MAX),
        (f"{path}.started_at", end.started_at or 0, MOMENT_MAX),
        (f"{path}.exited_at", end.exited_at or 0, MOMENT_MAX),
        (f"{path}.last_lines", len(end.last_lines), LINES_MAX),
        *((f"{path}.last_lines", len(line), MESSAGE_CHARACTERS_MAX // LINES_MAX) for line in end.last_lines),
        (f"{path}.exit_code", abs(end.exit_code or 0), EXIT_CODE_MAX),
        (f"{path}.signal", end.signal or 0, ITEMS_MAX),
        (f"{path}.message", len(end.message), MESSAGE_CHARACTERS_MAX),
        (f"{path}.usage.cpu_s", end.usage.cpu_s, MOMENT_MAX),
        (f"{path}.usage.memory_bytes_max", end.usage.memory_bytes_max, BYTES_MAX),
        (f"{path}.output_bytes", len(end.output_bytes), ITEMS_MAX),
        (f"{path}.gpu_errors", len(end.gpu_errors), LINES_MAX),
        *((f"{path}.gpu_errors", len(error.why), NAME_CHARACTERS_MAX) for error in end.gpu_errors),
        *((f"{path}.gpu_errors", error.gpu, GPUS_MAX) for error in end.gpu_errors),
        *((f"{path}.gpu_errors", error.at, MOMENT_MAX) for error in end.gpu_errors),
        *((f"{path}.output_bytes", size, BYTES_MAX) for size in end.output_bytes.values()),
    ]
