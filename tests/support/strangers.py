"""What a test needs whose attempts run as users of their own: root, a folder and an interpreter that they reach."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.users import NEEDED, closed

FIRST = 300_000 + 1000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Each test process has users of its own: when an attempt ends, everything goes that its user has on this machine."""
UIDS = f"{FIRST}-{FIRST + 63}"
OTHERS = f"{FIRST + 500}-{FIRST + 563}"
"""For a second node."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start attempts as other users")


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """An empty folder that everybody may pass: those of pytest are their owner's alone."""
    folder = Path(tempfile.mkdtemp(prefix="hr-users-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reachable_python(folder: Path) -> tuple[str, str]:
    """This interpreter, where everybody may start it, and the PYTHONPATH on which it finds what we find."""
    path = os.pathsep.join(found for found in sys.path if found and not found.startswith(sys.base_prefix))
    if not closed(Path(sys.executable)):
        return sys.executable, path
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    copy, original = folder / "python", Path(sys.base_prefix)
    (copy / "bin").mkdir(parents=True)
    shutil.copy2(original / "bin" / version, copy / "bin" / version)
    _find_libraries_beside(copy / "bin" / version, original / "lib")
    leave_out = shutil.ignore_patterns("test", "site-packages", "config-*", "idlelib", "tkinter")
    shutil.copytree(original / "lib" / version, copy / "lib" / version, ignore=leave_out)
    for library in (original / "lib").glob("libpython*.so*"):
        shutil.copy2(library, copy / "lib" / library.name)
    return str(copy / "bin" / version), path


def _find_libraries_beside(program: Path, before: Path) -> None:
    """Have it look for its libraries in the copy: who cannot pass to the original is given the system's, which may be
    another release. In place, for the new path is the shorter one.
    """
    old, new = os.fsencode(before) + b"\0", b"$ORIGIN/../lib\0"
    if len(new) <= len(old):
        program.write_bytes(program.read_bytes().replace(old, new.ljust(len(old), b"\0")))


def reachable_venv(folder: Path) -> tuple[str, str]:
    """Like `reachable_python`, but it finds our packages without a PYTHONPATH as well, as an environment does."""
    python, path = reachable_python(folder)
    if python == sys.executable:
        return python, path
    venv.create(folder / "venv", symlinks=False, with_pip=False)
    placed = folder / "venv" / "bin" / "python"
    placed.unlink()
    placed.symlink_to(python)
    (folder / "venv" / "pyvenv.cfg").write_text(f"home = {Path(python).parent}\n")
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "ours.pth").write_text(path.replace(os.pathsep, "\n"))
    return str(placed), path


def as_in_the_pod(*without: str, no_new_privs: bool = True) -> tuple[str, ...]:
    """What starts a program as root with the capabilities that the node's pod has, and no other."""
    names = ",".join(f"+{name.lower()}" for name in NEEDED.values() if name not in without)
    more = ("--no-new-privs",) if no_new_privs else ()
    return ("setpriv", f"--bounding-set=-all,{names}", "--inh-caps=-all", "--clear-groups", *more)
