"""One stream of output: from the attempt's pipe into an append-only file, up to a cap. Standard library only.

Nothing waits for the disk but the job itself: while a write fails, the stream is not read, the pipe fills, and the job
stands still in its own `write`. Past the cap one line says so and the rest is read and dropped: the job goes on.
"""

from __future__ import annotations

import os
from typing import Final

READ_BYTES: Final = 65536
"""What a pipe holds."""
READS_IN_A_ROW_MAX: Final = 16
"""Then the other stream, the signals and the deadlines get their turn."""
DRAIN_READS_MAX: Final = 1024
"""64 MiB: more than any pipe holds."""


class Stream:
    """The reader of one pipe. `paused` while the disk refuses; `over` when every writer has closed its end."""

    def __init__(self, path: str, *, bytes_max: int) -> None:
        """Raises OSError: no space, a name that is taken by something else."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self.pipe, self.writer = os.pipe()
        os.set_blocking(self.pipe, False)
        self._bytes_max = bytes_max
        self._pending = b""
        self.kept_bytes = 0
        self.cut = False
        self.over = False
        self.error = ""

    @property
    def paused(self) -> bool:
        return bool(self._pending)

    def pump(self, reads_max: int = READS_IN_A_ROW_MAX) -> None:
        """Take over what is in the pipe, until it is empty or `reads_max` is reached. Never blocks, never raises."""
        for _ in range(reads_max):
            if self._pending and not self._flush():
                return
            try:
                chunk = os.read(self.pipe, READ_BYTES)
            except BlockingIOError:
                return
            if not chunk:
                self.over = True
                return
            self._take(chunk)

    def drain(self) -> None:
        """Take over the rest when no writer of ours lives. A stranger who was handed the pipe does not hold us up."""
        self.pump(DRAIN_READS_MAX)

    def close(self) -> None:
        os.close(self.pipe)
        os.close(self._file)

    def _take(self, chunk: bytes) -> None:
        if self.cut:
            return
        room = self._bytes_max - self.kept_bytes
        if len(chunk) > room:
            self.cut = True
            chunk = chunk[:room] + f"\n[headrace: output cut at {self._bytes_max} bytes]\n".encode()
        self._pending = chunk
        self._flush()

    def _flush(self) -> bool:
        """Whether everything taken is written now."""
        try:
            while self._pending:
                written = os.write(self._file, self._pending)
                self.kept_bytes += written
                self._pending = self._pending[written:]
        except OSError as error:
            self.error = os.strerror(error.errno or 0)
            return False
        self.error = ""
        return True
