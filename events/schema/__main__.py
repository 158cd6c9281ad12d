"""`python -m events.schema`: write the generated files beside this one, and remove what is no longer generated."""

from __future__ import annotations

import sys
from pathlib import Path

from events.schema.documents import documents

FOLDER = Path(__file__).parent


def main() -> None:
    files = documents()
    for name, text in files.items():
        (FOLDER / name).write_text(text)
    for old in (*FOLDER.glob("*.json"), *FOLDER.glob("*.yaml")):
        if old.name not in files:
            old.unlink()
    print(f"{len(files)} files in {FOLDER}", file=sys.stderr)


if __name__ == "__main__":
    main()
