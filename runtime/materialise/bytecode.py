"""Compiles an environment, each package once on this node. Run by the environment's own interpreter; stdlib only.

    python -I -S bytecode.py <environment> <uv's archives>

Equivalent to `uv pip sync --compile-bytecode`, which compiles each environment anew. It differs in where: uv keeps each
wheel unpacked in its cache and hard-links it into environments, so what is compiled there comes with every later
environment by itself. Which archive a package came from is told by its METADATA being the very same file; what was
copied instead of linked, and what the archive keeps in another place, is compiled in the environment.

The bytecode is unchecked: an environment is never edited, and a copied source would have another time than its origin.
"""

from __future__ import annotations

import os
import py_compile
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import cache_from_source
from pathlib import Path

WORKERS_MAX = 8
FILES_A_TASK = 32


def main() -> None:
    environment, archives = Path(sys.argv[1]), Path(sys.argv[2])
    (site,) = environment.glob("lib/python*/site-packages")
    pairs = [(place, origin) for archive in origins(site, archives) for place, origin in twins(site, archive)]
    compile_all([origin for _, origin in pairs if not os.path.exists(cache_from_source(origin))])
    for place, origin in pairs:
        adopt(place, origin)
    compile_all(list(uncompiled(site)))


def origins(site: Path, archives: Path) -> Iterator[Path]:
    """The archives that this environment's packages were linked from."""
    wanted = {}
    for metadata in site.glob("*.dist-info/METADATA"):
        status = metadata.stat()
        wanted[metadata.parent.name] = (status.st_dev, status.st_ino)
    for metadata in archives.glob("*/*.dist-info/METADATA"):
        status = metadata.stat()
        if wanted.get(metadata.parent.name) == (status.st_dev, status.st_ino):
            yield metadata.parents[1]


def twins(site: Path, archive: Path) -> Iterator[tuple[str, str]]:
    """Modules without bytecode in the environment, each with the same file in the archive."""
    for origin in modules(archive):
        place = os.path.join(site, os.path.relpath(origin, archive))
        if not os.path.exists(cache_from_source(place)) and os.path.exists(place) and os.path.samefile(place, origin):
            yield place, origin


def adopt(place: str, origin: str) -> None:
    """Link the bytecode of a module in an archive into the environment."""
    target = cache_from_source(place)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(cache_from_source(origin), target)
    except FileNotFoundError:  # not valid Python for this interpreter: a template, or a test of a syntax error
        return


def modules(folder: Path) -> Iterator[str]:
    for here, _, names in os.walk(folder):
        yield from (os.path.join(here, name) for name in names if name.endswith(".py"))


def uncompiled(folder: Path) -> Iterator[str]:
    return (path for path in modules(folder) if not os.path.exists(cache_from_source(path)))


def compile_all(paths: list[str]) -> None:
    tasks = [paths[at : at + FILES_A_TASK] for at in range(0, len(paths), FILES_A_TASK)]
    workers = min(WORKERS_MAX, len(os.sched_getaffinity(0)), len(tasks))
    if workers < 2:
        for task in tasks:
            compile_some(task)
        return
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(compile_some, tasks))


def compile_some(paths: list[str]) -> None:
    """Compile some modules; what is not valid Python stays as it is, and fails when it is imported, if ever."""
    for path in paths:
        try:
            py_compile.compile(path, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        except (py_compile.PyCompileError, UnicodeError, RecursionError):
            continue


if __name__ == "__main__":
    main()
