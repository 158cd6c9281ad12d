"""Makes the virtual environment that everything in this repository runs in: `python3 scripts/make_venv.py [FOLDER]`.

Standard library only, so that it runs on a machine with nothing but Python 3.11 or newer, also where the system's own
Python refuses `pip install` (PEP 668) or lacks `ensurepip`. Does nothing when the folder is up to date.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_MIN = (3, 11)
WANTED = ("-e", f"{ROOT}/sdk", "-e", f"{ROOT}[test]", "-r", f"{ROOT}/examples/requirements.txt")
READ = ("pyproject.toml", "sdk/pyproject.toml", "constraints.txt", "examples/requirements.txt", "scripts/make_venv.py")


def main() -> int:
    if sys.version_info < PYTHON_MIN:
        print(f"error: Python 3.11 or newer is needed, this is {sys.version.split()[0]}", file=sys.stderr)
        return 1
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / ".venv").absolute()
    python = folder / "bin" / "python"
    mark = folder / ".made-from"
    state = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in READ) + sys.version.encode()).hexdigest()
    if mark.exists() and mark.read_text() == state:
        return 0
    print(f"making {folder} (a minute or two the first time)", file=sys.stderr)
    uv = _uv(folder, python)
    command = [*uv, "pip", "install", "--quiet", "--system-certs", "--python", str(python), "--compile-bytecode"]
    if subprocess.run([*command, "--constraints", f"{ROOT}/constraints.txt", *WANTED], check=False).returncode:
        print("error: the packages could not be installed, see above", file=sys.stderr)
        return 1
    mark.write_text(state)
    return 0


def _uv(folder: Path, python: Path) -> list[str]:
    """Make the environment, and give the command that runs uv."""
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().split() if line.startswith("uv=="))
    try:
        venv.create(folder, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError:  # a Debian Python without python3-venv
        return _uv_beside(folder, pinned)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", pinned], check=True)
    return [str(python), "-m", "uv"]


def _uv_beside(folder: Path, pinned: str) -> list[str]:
    venv.create(folder, with_pip=False, symlinks=True, clear=True)
    beside = folder / "bootstrap"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(beside), pinned]
    if subprocess.run(pip, check=False).returncode:
        print("error: this Python has neither ensurepip nor pip", file=sys.stderr)
        print("hint: install one of them, on Debian: apt-get install python3-venv", file=sys.stderr)
        raise SystemExit(1)
    return [str(beside / "bin" / "uv")]


if __name__ == "__main__":
    sys.exit(main())
