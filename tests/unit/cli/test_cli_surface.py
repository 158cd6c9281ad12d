"""What holds for every command: help, quick start, usage errors, alphabets, documentation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from headrace.cli.main import COMMANDS, headrace, main
from tests.support.terminal import REPOSITORY, Terminal

DOCUMENT = REPOSITORY / "docs" / "cli.md"
HEAVY = ("http", "ssl", "socket", "subprocess", "asyncio", "concurrent.futures", "rich", "headrace.client", "difflib")


def every_command() -> list[tuple[str, click.Command]]:
    context = click.Context(headrace)
    return [(name, command) for name in COMMANDS if (command := headrace.get_command(context, name)) is not None]


def test_help_imports_nothing_that_only_a_command_needs() -> None:
    program = "import sys; from headrace.cli.main import main; main(['--help'])"
    program += f"; print([name for name in {HEAVY} if name in sys.modules])"
    environment = {"PYTHONPATH": str(REPOSITORY / "sdk"), "PATH": "/usr/bin:/bin"}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_the_table_of_commands_says_what_the_commands_say_themselves() -> None:
    assert {name: command.short_help for name, command in every_command()} == {
        name: line for name, (_, line) in COMMANDS.items()
    }


def test_every_command_and_option_is_in_the_documentation() -> None:
    document = DOCUMENT.read_text()
    for name, command in every_command():
        assert f"### `headrace {name}" in document, f"docs/cli.md has no section `headrace {name}`"
        section = document.split(f"### `headrace {name}")[1].split("\n### ")[0]
        for parameter in command.params:
            for option in parameter.opts if isinstance(parameter, click.Option) else ():
                common = option in {"--state", "--json", "--no-color"} and f"`{option}" in document
                assert f"`{option}" in section or common, f"docs/cli.md: {name} does not mention {option}"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_that_fits_eighty_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Usage: headrace" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_mistyped_command_is_told_the_right_one(terminal: Terminal) -> None:
    assert (
        terminal.run("jbos") == "exit status 2\nstderr:\nerror: no command `jbos`\nhint: did you mean `headrace jobs`?"
    )


def test_a_mistyped_option_is_a_usage_error_with_a_hint(terminal: Terminal) -> None:
    assert terminal.run("run", "--teir", "gpu1", "--", "x").startswith("exit status 2\nstderr:\nerror: No such option")


def test_a_mistaken_duration_is_a_usage_error(terminal: Terminal) -> None:
    assert "write 90s, 45m, 2h or 1h30m" in terminal.run("run", "--time-limit", "3x", "--", "x")


def test_without_a_server_commands_say_how_to_get_one(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_URL")
    transcript = terminal.run("jobs")
    assert transcript.startswith("exit status 1\nstderr:\nerror: no server runs in ")
    assert "headrace up starts one" in transcript
    assert terminal.run("status").startswith("exit status 1\nstopped")
    assert terminal.run("down") == f"stderr:\nnothing runs in {terminal.folder / 'state'}"


def test_the_state_folder_is_taken_before_and_after_the_command(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HEADRACE_URL")
    for arguments in (["--state", str(tmp_path / "x"), "nodes"], ["nodes", "--state", str(tmp_path / "x")]):
        assert f"no server runs in {tmp_path / 'x'}" in terminal.run(*arguments)


def test_up_and_down_refuse_to_touch_a_server_that_the_environment_names(terminal: Terminal) -> None:
    for command in ("up", "down"):
        assert "HEADRACE_URL names a server" in terminal.run(command)


def test_without_the_server_package_up_says_what_to_install(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADRACE_URL")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "hint: pip install headrace[local]" in terminal.run("up")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(terminal: Terminal, shell: str) -> None:
    assert "_HEADRACE_COMPLETE" in terminal.run("completion", shell)


def test_the_version_is_one_line(terminal: Terminal) -> None:
    assert terminal.run("--version").startswith("headrace 0.")
