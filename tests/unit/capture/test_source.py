"""A tree on the laptop becomes a source: what is in it, what is not, and that everybody gets the same."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.capture import CaptureError, Source, SourceChanged, TreeTooLarge, packs, snapshot, source, stat_cache

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _git_without_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    for name, value in {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CEILING_DIRECTORIES": "/"}.items():
        monkeypatch.setenv(name, value)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "a")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "a@example.com")
        monkeypatch.setenv(f"GIT_{who}_DATE", "2026-01-01T00:00:00Z")


def a_tree(root: Path, files: dict[str, str | bytes]) -> Path:
    for path, content in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)


def a_repository(root: Path, files: dict[str, str | bytes]) -> Path:
    a_tree(root, files)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "x")
    return root


def capture(folder: Path, *, bytes_max: int = 500 * MIB, cache: Path | None = None) -> Source:
    return source(folder, cache=cache or folder.parent / f".cache-{folder.name}", bytes_max=bytes_max)


def manifest(captured: Source) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(captured.manifest)
    return content


def paths(captured: Source) -> list[str]:
    return [file["path"] for file in manifest(captured)["files"]]


def laid_out(captured: Source) -> dict[str, bytes]:
    """The files again, made from the chunks alone, each checked against its digest."""
    chunks = {name: captured.read(name) for name in captured.chunks}
    files = {}
    for file in manifest(captured)["files"]:
        content = b"".join(chunks[name][offset : offset + length] for name, offset, length in file["parts"])
        assert len(content) == file["size"]
        assert "sha256:" + hashlib.sha256(content).hexdigest() == file["digest"]
        files[file["path"]] = content
    return files


def test_a_plain_folder_comes_back_from_its_chunks(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"a.py": "print(1)\n", "empty": "", "deep/er/b.bin": bytes(range(256)) * 1000}
    captured = capture(a_tree(tmp_path / "t", files))
    assert laid_out(captured) == {path: c.encode() if isinstance(c, str) else c for path, c in files.items()}
    assert captured.digest == "sha256:" + hashlib.sha256(captured.manifest).hexdigest()
    assert captured.summary.commit == ""


def test_a_large_file_is_cut_and_one_that_grew_shares_all_but_its_last_chunk(tmp_path: Path) -> None:
    content = os.urandom(packs.CHUNK_BYTES_MAX + 5)
    root = a_tree(tmp_path / "t", {"data.bin": content})
    before = capture(root)
    assert laid_out(before) == {"data.bin": content}
    (root / "data.bin").write_bytes(content + b"more")
    after = capture(root)
    assert len(set(after.chunks) - set(before.chunks)) == 1


def test_an_edit_sends_one_pack_again(tmp_path: Path) -> None:
    root = a_tree(tmp_path / "t", {f"m{number}.py": f"x = {number}\n" * 50 for number in range(300)})
    before = capture(root)
    assert 5 < len(before.chunks) < 60
    (root / "m7.py").write_text("x = 'edited, and longer than before' * 1000\n")
    assert len(set(capture(root).chunks) - set(before.chunks)) == 1


def test_usual_by_products_and_ignored_files_of_a_plain_folder_stay_behind(tmp_path: Path) -> None:
    root = a_tree(
        tmp_path / "t",
        {
            "a.py": "",
            ".gitignore": "*.log\n/out/\n!keep.log\n",
            ".headraceignore": "data/*.npy\n",
            "x.log": "",
            "keep.log": "",
            "out/x": "",
            "sub/out/x": "",
            "data/x.npy": "",
            "data/x.csv": "",
            ".venv/lib/x.py": "",
            "odd-env/pyvenv.cfg": "",
            "odd-env/lib/x.py": "",
            "__pycache__/a.pyc": "",
            "node_modules/x/y.js": "",
            ".headrace/run/spool": "",
            ".git/config": "",
        },
    )
    shutil.rmtree(root / ".git")
    found = [".gitignore", ".headraceignore", "a.py", "data/x.csv", "keep.log", "sub/out/x"]
    assert paths(capture(root)) == found


def test_a_repository_is_taken_whole_from_any_of_its_folders(tmp_path: Path) -> None:
    root = a_repository(tmp_path / "r", {"a.py": "", "sub/dir/b.py": ""})
    captured = capture(root / "sub" / "dir")
    assert captured.root == root
    assert captured.folder == "sub/dir"
    assert paths(captured) == ["a.py", "sub/dir/b.py"]


def test_of_a_repository_go_changed_and_new_files_but_no_ignored_or_deleted_ones(tmp_path: Path) -> None:
    root = a_repository(tmp_path / "r", {"a.py": "1\n2\n3\n", "gone.py": "", ".gitignore": "*.ckpt\n"})
    a_tree(root, {"a.py": "1\nchanged\n3\n", "new.py": "", "big.ckpt": "", "venv/pyvenv.cfg": "", "e/pyvenv.cfg": ""})
    a_tree(root, {"e/lib/x.py": ""})
    (root / "gone.py").unlink()
    captured = capture(root)
    assert paths(captured) == [".gitignore", "a.py", "new.py"]
    assert laid_out(captured)["a.py"] == b"1\nchanged\n3\n"
    summary = captured.summary
    assert (len(summary.commit), summary.branch, summary.changed_lines, summary.new_files) == (40, "main", 2, 1)


def test_headraceignore_takes_tracked_files_away(tmp_path: Path) -> None:
    root = a_repository(tmp_path / "r", {"a.py": "", "data/x.bin": "", ".headraceignore": "data/\n"})
    assert paths(capture(root)) == [".headraceignore", "a.py"]


def test_a_repository_without_a_commit_is_captured(tmp_path: Path) -> None:
    root = a_tree(tmp_path / "r", {"a.py": ""})
    git(root, "init", "-q")
    captured = capture(root)
    assert paths(captured) == ["a.py"]
    assert captured.summary.commit == ""


def test_a_project_in_an_ignored_folder_of_a_repository_is_its_own_source(tmp_path: Path) -> None:
    root = a_repository(tmp_path / "r", {"a.py": "", ".gitignore": "build/\n"})
    a_tree(root, {"build/mine/train.py": ""})
    captured = capture(root / "build" / "mine")
    assert captured.root == root / "build" / "mine"
    assert paths(captured) == ["train.py"]


def test_submodules_and_clones_inside_come_along(tmp_path: Path) -> None:
    inner = a_repository(tmp_path / "inner", {"lib.py": "x"})
    root = a_repository(tmp_path / "r", {"a.py": ""})
    git(root, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), "mod")
    shutil.copytree(inner, root / "clone")
    captured = capture(root)
    assert paths(captured) == [".gitmodules", "a.py", "clone/lib.py", "mod/lib.py"]
    git(root, "submodule", "deinit", "-q", "-f", "mod")
    captured = capture(root)
    assert "mod/lib.py" not in paths(captured)
    assert any("submodule mod is not checked out" in warning.message for warning in captured.warnings)


def test_git_lfs_pointers_are_warned_of(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    root = a_tree(tmp_path / "t", {".gitattributes": "*.bin filter=lfs\n", "w.bin": pointer, "a.py": "x" * 60})
    [warning] = capture(root).warnings
    assert "w.bin" in warning.message
    assert "git lfs pull" in warning.hint


def test_without_git_a_repository_is_a_folder_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = a_repository(tmp_path / "r", {"a.py": ""})
    monkeypatch.setenv("PATH", "")
    captured = capture(root)
    assert paths(captured) == ["a.py"]
    assert "without git" in captured.warnings[0].message


def test_links_inside_the_tree_are_kept_and_others_refused(tmp_path: Path) -> None:
    root = a_tree(tmp_path / "t", {"a.py": "", "d/b.py": ""})
    a_tree(tmp_path, {"outside": ""})
    for name, target in {
        "ok": "a.py",
        "d/up": "../a.py",
        "folder": "d",
        "out": "../outside",
        "absolute": "/etc/passwd",
        "dangling": "nothing",
        "sly": "folder/../../outside",
    }.items():
        (root / name).symlink_to(target)
    captured = capture(root)
    kept = {link["path"]: link["target"] for link in manifest(captured)["links"]}
    assert kept == {"ok": "a.py", "d/up": "../a.py", "folder": "d", "dangling": "nothing"}
    assert "points out of the tree" in captured.warnings[0].message


def test_a_folder_that_became_a_link_is_a_link_and_nothing_behind_it_is_taken(tmp_path: Path) -> None:
    root = a_repository(tmp_path / "r", {"d/b.py": "old", "e/b.py": "new"})
    shutil.rmtree(root / "d")
    (root / "d").symlink_to("e")
    captured = capture(root)
    assert paths(captured) == ["e/b.py"]
    assert manifest(captured)["links"] == [{"path": "d", "target": "e"}]


def test_a_tree_over_the_limit_names_the_largest_files_and_the_way_out(tmp_path: Path) -> None:
    root = a_tree(tmp_path / "t", {"small": "x", "data/big.npy": b"x" * MIB, "model.ckpt": b"x" * (2 * MIB)})
    with pytest.raises(TreeTooLarge) as error:
        capture(root, bytes_max=MIB)
    assert "model.ckpt (2.0 MiB), data/big.npy (1.0 MiB)" in str(error.value)
    assert ".headraceignore" in error.value.hint


def test_executable_files_stay_executable_and_other_bits_play_no_part(tmp_path: Path) -> None:
    root = a_tree(tmp_path / "t", {"run.sh": "", "a.py": ""})
    (root / "run.sh").chmod(0o700)
    (root / "a.py").chmod(0o664)
    assert [file["mode"] for file in manifest(capture(root))["files"]] == [0o644, 0o755]


def test_sockets_and_names_outside_utf8_are_left_out_with_a_warning(tmp_path: Path) -> None:
    root = a_tree(tmp_path / "t", {"a.py": ""})
    os.mkfifo(root / "pipe")
    (Path(os.fsdecode(os.fsencode(root) + b"/\xff.txt"))).write_text("")
    captured = capture(root)
    assert paths(captured) == ["a.py"]
    assert len(captured.warnings) == 2


def test_an_edit_of_the_same_length_and_time_within_the_clocks_tick_is_seen(tmp_path: Path) -> None:
    root = a_tree(tmp_path / "t", {"a.py": "one"})
    before = capture(root)
    times = (root / "a.py").stat()
    (root / "a.py").write_text("two")
    os.utime(root / "a.py", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert capture(root).digest != before.digest


def test_what_did_not_change_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = os.urandom(packs.CHUNK_BYTES_MAX + 1)
    root = a_tree(tmp_path / "t", {"a.py": "one", "b.py": "two", "big.bin": big})
    monkeypatch.setattr(stat_cache, "RACY_NS", -(10**12))
    before = capture(root)

    def refuse(*_: object) -> bytes:
        raise AssertionError("a file was read")

    monkeypatch.setattr(snapshot, "_exactly", refuse)
    assert capture(root).manifest == before.manifest


def test_a_damaged_cache_costs_nothing_but_time(tmp_path: Path) -> None:
    root = a_tree(tmp_path / "t", {"a.py": "one"})
    before = capture(root)
    for file in (tmp_path / ".cache-t" / "sources").iterdir():
        file.write_text('{"version": 1, "files": {"a.py": 7}, "packs"')
    assert capture(root).digest == before.digest


def test_a_file_that_changes_after_its_capture_is_not_sent_as_something_else(tmp_path: Path) -> None:
    root = a_tree(tmp_path / "t", {"a.py": "one", "log.txt": "line\n"})
    captured = capture(root)
    (root / "log.txt").write_text("line\nanother\n")
    assert laid_out(captured)["log.txt"] == b"line\n"  # it only grew
    (root / "a.py").write_text("two")
    with pytest.raises(SourceChanged):
        laid_out(captured)


def test_a_file_that_shrinks_while_it_is_read_is_listed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = a_tree(tmp_path / "t", {"a.py": "a long text"})
    whole = snapshot._whole
    tries = []

    def shrinking(file: Any) -> bytes:
        if not tries:
            (root / "a.py").write_text("short")
        tries.append(file)
        return whole(file)

    monkeypatch.setattr(snapshot, "_whole", shrinking)
    assert laid_out(capture(root)) == {"a.py": b"short"}
    assert len(tries) == 2


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="is not a folder"):
        capture(tmp_path / "nowhere")


NAMES = st.text(st.sampled_from("ab.é-_ Z"), min_size=1, max_size=5).filter(lambda name: name.strip(". ") == name)
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join),
    st.binary(max_size=400),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=TREES, with_git=st.booleans(), times=st.integers(1, 2**31 - 1), data=st.data())
def test_the_same_tree_has_the_same_digest_wherever_whenever_and_in_whatever_order_it_was_made(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], with_git: bool, times: int, data: Any
) -> None:
    files = {path: c for path, c in files.items() if not any(other.startswith(path + "/") for other in files)}
    digests = []
    for number in range(2):
        root = tmp_path_factory.mktemp("tree") / f"t{number}"
        order = data.draw(st.permutations(sorted(files)))
        a_tree(root, {path: files[path] for path in order})
        if with_git:
            git(root, "init", "-q", "-b", "main")
            git(root, "add", "-A")
            git(root, "commit", "-q", "-m", "x")
        for path in files if number else ():
            os.utime(root / path, (times, times))
        captured = capture(root)
        assert laid_out(captured) == files
        assert capture(root).digest == captured.digest
        digests.append(captured.digest)
    assert digests[0] == digests[1]
