"""What Python an argument vector runs: files, modules, code, installed commands, also from inside a shell script."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

SCRIPT_BYTES_MAX: Final = 1024 * 1024
DEPTH_MAX: Final = 4
"""Shell scripts that call shell scripts."""

_PYTHON: Final = re.compile(r"python(?:w|\d(?:\.\d+)?)?(?:\.exe)?")
_SHELLS: Final = frozenset({"bash", "sh", "zsh", "dash"})
_PREFIXES: Final = frozenset({"env", "exec", "nohup", "time", "nice", "stdbuf", "ionice", "setsid", "command", "srun"})
_TAKES_VALUE: Final = frozenset({"-W", "-X", "--check-hash-based-pycs"})
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_LAUNCHER_MODULES: Final = frozenset(
    {"torch.distributed.run", "torch.distributed.launch", "accelerate.commands.launch"}
)


class Target(NamedTuple):
    """One piece of Python that is run."""

    kind: Literal["file", "module", "code", "command"]
    value: str


@dataclass
class Run:
    """All Python that an entrypoint runs."""

    python: str = ""
    """The first interpreter that is named, as it is written."""
    targets: list[Target] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    """Arguments of the programs: some name configuration files."""


def read(entrypoint: Sequence[str], folder: Path) -> Run:
    """What an entrypoint runs when it is started in `folder`."""
    run = Run()
    _command(list(entrypoint), folder, run, depth=0)
    return run


def _command(words: list[str], folder: Path, run: Run, *, depth: int) -> None:
    words = _without_prefixes(words)
    if not words or depth > DEPTH_MAX:
        return
    name = Path(words[0]).name
    if _PYTHON.fullmatch(name):
        run.python = run.python or words[0]
        _python(words[1:], run)
    elif name in _SHELLS:
        _shell(words[1:], folder, run, depth=depth)
    elif name == "uv" and "run" in words:
        _command(_behind_uv_run(words), folder, run, depth=depth)
    elif (file := folder / words[0]).is_file() and ("/" in words[0] or os.sep in words[0]):
        if words[0].endswith(".py") or b"python" in _first_line(file):
            run.targets.append(Target("file", words[0]))
            run.words.extend(words[1:])
        elif b"sh" in _first_line(file):
            _lines(_text(file), folder, run, depth=depth + 1)
    else:
        run.targets.append(Target("command", name))
        _launched(words[1:], run)


def _without_prefixes(words: list[str]) -> list[str]:
    """The words from the program on: without `A=b`, `env`, `nohup` and the like, and their options."""
    at = 0
    while at < len(words) and (_ASSIGNMENT.fullmatch(words[at]) or words[at] in _PREFIXES):
        prefix = words[at] in _PREFIXES
        at += 1
        while prefix and at < len(words) and words[at].startswith("-"):
            at += 2 if words[at] in {"-n", "-u", "-c"} else 1
    return words[at:]


def _python(words: list[str], run: Run) -> None:
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        option = words[at]
        if option in {"-m", "-c"} and at + 1 < len(words):
            value, rest = words[at + 1], words[at + 2 :]
            if option == "-c":
                run.targets.append(Target("code", value))
            else:
                run.targets.append(Target("module", value))
            if value in _LAUNCHER_MODULES:
                _launched(rest, run)
            else:
                run.words.extend(rest)
            return
        at += 2 if option in _TAKES_VALUE else 1
    if at < len(words) and words[at] != "-":
        run.targets.append(Target("file", words[at]))
        run.words.extend(words[at + 1 :])


def _launched(words: list[str], run: Run) -> None:
    """What a launcher (`torchrun`, `accelerate launch`) starts: the first file of Python, or the module behind `-m`."""
    for at, word in enumerate(words):
        if word in {"-m", "--module"} and at + 1 < len(words):
            run.targets.append(Target("module", words[at + 1]))
            run.words.extend(words[at + 2 :])
            return
        if word.endswith(".py"):
            run.targets.append(Target("file", word))
            run.words.extend(words[at + 1 :])
            return
    run.words.extend(words)


def _shell(words: list[str], folder: Path, run: Run, *, depth: int) -> None:
    for at, word in enumerate(words):
        if word.startswith("-") and not word.startswith("--") and "c" in word:
            _lines(words[at + 1] if at + 1 < len(words) else "", folder, run, depth=depth + 1)
            return
        if not word.startswith("-"):
            _lines(_text(folder / word), folder, run, depth=depth + 1)
            return


def _lines(text: str, folder: Path, run: Run, *, depth: int) -> None:
    """Each simple command of a shell script. Variables stay unexpanded: `$SCRIPT` is a file that nobody finds."""
    for words in _simple_commands(text.replace("\\\n", " ").splitlines()):
        words = _without_prefixes(words)
        if not words:
            continue
        name = Path(words[0]).name
        runs_python = _PYTHON.fullmatch(name) or name in _SHELLS or name == "uv" or words[0].endswith((".py", ".sh"))
        if runs_python or any(word.endswith(".py") for word in words):
            _command(words, folder, run, depth=depth)


def _simple_commands(lines: Iterable[str]) -> Iterator[list[str]]:
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        try:
            tokens = list(lexer)
        except ValueError:
            tokens = line.split()  # a quote that another line closes
        words: list[str] = []
        for token in tokens:
            if set(token) <= set("();<>|&") or token in {"then", "do", "else", "if", "while", "!", "{", "}"}:
                yield words
                words = []
            else:
                words.append(token)
        yield words


def _behind_uv_run(words: list[str]) -> list[str]:
    rest = words[words.index("run") + 1 :]
    at = 0
    while at < len(rest) and rest[at].startswith("-"):
        at += 2 if rest[at] in {"--with", "--extra", "--group", "--python", "-p", "--package", "--project"} else 1
    rest = rest[at:]
    return ["python", *rest] if rest and rest[0].endswith(".py") else rest


def _first_line(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            line = opened.readline(256)
    except OSError:
        return b""
    return line if line.startswith(b"#!") else b""


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(SCRIPT_BYTES_MAX).decode(errors="replace")
    except OSError:
        return ""
