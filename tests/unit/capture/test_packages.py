"""Which packages an entrypoint needs, and where that is read from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from events.messages import EnvironmentRequest
from headrace.capture import Captured, CaptureError, environment
from headrace.capture import entrypoint as e


@pytest.fixture(scope="session")
def bare_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("venv") / "v"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(folder)], check=True)
    return folder


class Laptop:
    """A project folder, and an interpreter on the PATH with packages that are only their metadata."""

    def __init__(self, folder: Path, venv: Path) -> None:
        self.project = folder / "project"
        self.project.mkdir()
        self._cache = folder / "cache"
        self.bin = folder / "v" / "bin"
        subprocess.run(["cp", "-a", str(venv), str(folder / "v")], check=True)
        self.site = next((folder / "v" / "lib").glob("python*/site-packages"))

    def install(
        self, name: str, version: str, *modules: str, origin: dict[str, object] | None = None, scripts: str = ""
    ) -> None:
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in modules))
        if origin:
            (info / "direct_url.json").write_text(json.dumps(origin))
        if scripts:
            (info / "entry_points.txt").write_text(f"[console_scripts]\n{scripts}\n")
            for line in scripts.splitlines():
                (self.bin / line.split()[0]).write_text("#!/bin/sh\n")
                (self.bin / line.split()[0]).chmod(0o755)

    def write(self, **files: str) -> None:
        self.files({name + ".py": text for name, text in files.items()})

    def files(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.project / name).parent.mkdir(parents=True, exist_ok=True)
            (self.project / name).write_text(text)

    def capture(self, *command: str, **options: object) -> Captured:
        return environment(command or ("python", "train.py"), self.project, cache=self._cache, **options)  # type: ignore[arg-type]

    def roots(self, *command: str) -> tuple[str, ...]:
        return self.capture(*command).packages


@pytest.fixture
def laptop(tmp_path: Path, bare_venv: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    made = Laptop(tmp_path, bare_venv)
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/bin:/bin")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    made.install("numpy", "2.1.0", "numpy/__init__.py")
    made.install("torch", "2.5.1+cpu", "torch/__init__.py", "torch/utils/tensorboard/__init__.py")
    made.install("tensorboard", "2.18.0", "tensorboard/__init__.py")
    made.install("PyYAML", "6.0.2", "yaml/__init__.py", "_yaml/__init__.py")
    made.install("click", "8.1.7", "click/__init__.py")
    return made


# -- from imports ------------------------------------------------------------------------------------------------------


def test_imports_become_pinned_roots_and_all_that_is_installed_preferences(laptop: Laptop) -> None:
    laptop.write(train="import os, numpy as np\nimport headrace\nfrom torch import nn\n")
    captured = laptop.capture()
    assert captured.how == "imports"
    assert captured.packages == ("numpy==2.1.0", "torch==2.5.1")
    request = msgspec.convert(captured.request, EnvironmentRequest)
    assert request.python == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert request.preferences == (
        "PyYAML==6.0.2",
        "click==8.1.7",
        "numpy==2.1.0",
        "tensorboard==2.18.0",
        "torch==2.5.1",
    )
    assert captured.warnings == ()


def test_the_request_has_exactly_the_fields_of_the_contract(laptop: Laptop) -> None:
    laptop.write(train="import numpy\n")
    request = laptop.capture(python="3.12").request
    assert request is not None
    assert request.keys() == {field.name for field in msgspec.structs.fields(EnvironmentRequest)}
    assert request["python"] == "3.12"


def test_imports_are_followed_through_the_users_own_modules(laptop: Laptop) -> None:
    laptop.files(
        {
            "train.py": "from models.vit import Vit\nimport helper\n",
            "models/__init__.py": "",
            "models/vit.py": "from . import layers\nfrom ..nothing import x\n",
            "models/layers.py": "import torch\n",
            "helper.py": "def f():\n    import click\n",
            "unrelated.py": "import yaml\n",
        }
    )
    assert laptop.roots() == ("click==8.1.7", "torch==2.5.1")


def test_a_module_of_the_user_hides_an_installed_one_of_its_name(laptop: Laptop) -> None:
    laptop.files({"train.py": "import click\n", "click.py": "import numpy\n"})
    assert laptop.roots() == ("numpy==2.1.0",)


def test_a_folder_without_code_does_not_hide_an_installed_package(laptop: Laptop) -> None:
    laptop.files({"train.py": "import torch\n", "torch/weights.txt": ""})
    assert laptop.roots() == ("torch==2.5.1",)


def test_what_only_looks_like_an_import_is_none(laptop: Laptop) -> None:
    laptop.write(
        train='"""\nimport numpy\n"""\n# import torch\nx = "import click"\ny = \'\'\'\nfrom yaml import y\'\'\'\n'
    )
    assert laptop.roots() == ()


@pytest.mark.parametrize(
    "text",
    [
        "from numpy import (\n    array,  # a\n    zeros,\n)\n",
        "import os; import numpy\n",
        "try: import numpy\nexcept ImportError: pass\n",
        "import os, \\\n    numpy\n",
        "import numpy.linalg as la\n",
        "if True:\n\tfrom numpy import array\n",
        "name = 'numpy.random.Generator'\n",
        "name = 'numpy.random:Generator'\n",
        "import importlib\nimportlib.import_module('numpy')\n",
        "__import__('numpy')\n",
    ],
)
def test_every_way_to_ask_for_a_package_counts(laptop: Laptop, text: str) -> None:
    laptop.write(train=text)
    assert laptop.roots() == ("numpy==2.1.0",)


def test_modules_beside_a_computed_import_count(laptop: Laptop) -> None:
    laptop.files(
        {
            "train.py": "import importlib\nimport sys\nimportlib.import_module(f'zoo.{sys.argv[1]}')\n",
            "zoo/__init__.py": "",
            "zoo/a.py": "import torch\n",
            "zoo/b.py": "import click\n",
            "other.py": "import yaml\n",
        }
    )
    assert laptop.roots() == ("click==8.1.7", "torch==2.5.1")


def test_classes_named_in_configuration_files_count(laptop: Laptop) -> None:
    laptop.files(
        {"train.py": "import yaml\n", "conf/model.yaml": "model:\n  _target_: torch.nn.Linear\n  n: 3  # click.x.y\n"}
    )
    assert laptop.roots() == ("PyYAML==6.0.2", "torch==2.5.1")


def test_a_package_that_another_one_imports_on_demand_counts(laptop: Laptop) -> None:
    laptop.write(train="from torch.utils.tensorboard import SummaryWriter\n")
    assert laptop.roots() == ("tensorboard==2.18.0", "torch==2.5.1")


def test_a_script_that_is_started_by_its_name_counts(laptop: Laptop) -> None:
    laptop.write(train="import subprocess\nsubprocess.run(['python', 'worker.py'])\n", worker="import numpy\n")
    assert laptop.roots() == ("numpy==2.1.0",)


def test_of_a_shared_namespace_only_the_distribution_of_that_very_module_counts(laptop: Laptop) -> None:
    laptop.install("google-cloud-storage", "1.0", "google/cloud/storage/__init__.py")
    laptop.install("protobuf", "5.0", "google/protobuf/__init__.py", "google/protobuf/json_format.py")
    laptop.write(train="from google.cloud import storage\n")
    assert laptop.roots() == ("google-cloud-storage==1.0",)
    laptop.write(train="import google\nfrom google.protobuf import json_format\n")
    captured = laptop.capture()
    assert captured.packages == ("protobuf==5.0",)
    assert captured.warnings == ()


def test_a_module_that_nothing_provides_is_warned_of_once_and_optional_ones_are_not(laptop: Laptop) -> None:
    laptop.write(train="import nonsense.a\nimport nonsense.b\ntry:\n    import maybe\nexcept ImportError:\n    pass\n")
    [warning] = laptop.capture().warnings
    assert "train.py imports nonsense" in warning.message
    assert "requirements.txt" in warning.hint


def test_an_editable_install_inside_the_source_is_source(laptop: Laptop) -> None:
    laptop.files({"scripts/train.py": "import mine\n", "src/mine/__init__.py": "import numpy\n"})
    origin = {"url": laptop.project.as_uri(), "dir_info": {"editable": True}}
    laptop.install("mine", "0.1", "__editable___mine.py", origin=origin)
    captured = laptop.capture("python", "scripts/train.py")
    assert captured.packages == ("numpy==2.1.0",)
    assert captured.warnings == ()


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        ({"url": "file:///elsewhere/lib", "dir_info": {"editable": True}}, "/elsewhere/lib, outside the source"),
        ({"url": "https://git.example.com/lib", "vcs_info": {"vcs": "git"}}, "was installed from https://git.example"),
    ],
)
def test_an_install_that_no_index_has_is_never_a_root_but_a_warning(
    laptop: Laptop, origin: dict[str, object], words: str
) -> None:
    laptop.install("lib", "1.0", "lib/__init__.py", origin=origin)
    laptop.write(train="import lib\n")
    captured = laptop.capture()
    assert captured.packages == ()
    assert words in captured.warnings[0].message
    assert captured.request is not None
    assert "lib==1.0" not in captured.request["preferences"]


def test_a_new_package_is_seen_although_the_answer_of_last_time_is_kept(laptop: Laptop) -> None:
    laptop.write(train="import later\n")
    assert laptop.roots() == ()
    laptop.install("later", "1.0", "later.py")
    assert laptop.roots() == ("later==1.0",)


def test_a_version_that_no_resolver_can_read_pins_nothing(laptop: Laptop) -> None:
    laptop.install("odd", "2004d", "odd.py")
    laptop.write(train="import odd\n")
    captured = laptop.capture()
    assert captured.packages == ("odd",)
    assert captured.request is not None
    assert not any("odd" in preference for preference in captured.request["preferences"])


# -- entrypoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "python train.py --lr 0.1",
        "python -u -X dev train.py",
        "python3 train.py",
        "env A=1 python train.py",
        "python -m train",
        "python -m pkg.sub",
        "python -m torch.distributed.run --nproc_per_node 2 train.py",
        "torchrun --nproc_per_node=2 train.py --x",
        "bash run.sh",
        "./run.sh",
        "bash -c 'cd . && python train.py'",
        "sh -ec 'set -u; exec python train.py'",
        "python -c 'import numpy'",
        "./tool.py",
        "mine --fast",
        "uv run train.py",
    ],
)
def test_every_form_of_entrypoint_reaches_its_code(laptop: Laptop, command: str) -> None:
    import shlex

    laptop.files(
        {
            "train.py": "import numpy\n",
            "tool.py": "#!/usr/bin/env python\nimport numpy\n",
            "pkg/__init__.py": "",
            "pkg/sub.py": "import numpy\n",
            "run.sh": "#!/bin/bash\n# comment 'here\nif true; then\n  A=1 python \\\n    train.py | tee out\nfi\n",
        }
    )
    laptop.install("launch", "1.0", "launch.py", scripts="mine = launch:main")
    laptop.install("numpy-user", "1.0", "train2.py")
    roots = laptop.roots(*shlex.split(command))
    wanted = "launch==1.0" if command.startswith("mine") else "numpy==2.1.0"
    assert wanted in roots


def test_an_entrypoint_without_python_has_no_environment(laptop: Laptop) -> None:
    laptop.files({"run.sh": "#!/bin/sh\necho hello\n"})
    for command in (("ls", "-l"), ("bash", "run.sh"), ("./run.sh",)):
        captured = laptop.capture(*command)
        assert captured.request is None
        assert captured.how == "none"


def test_an_interpreter_by_its_path_is_asked_itself_and_warned_of(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    laptop.write(train="import numpy\n")
    captured = laptop.capture(str(laptop.bin / "python"), "train.py")
    assert captured.packages == ("numpy==2.1.0",)
    assert "interpreter of this machine" in captured.warnings[0].message


def test_no_interpreter_on_the_path_is_a_clear_error(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    laptop.write(train="import numpy\n")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CaptureError, match="no `python` on the PATH"):
        laptop.capture()


def test_a_shell_line_that_cannot_be_split_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("echo 'open\npython train.py\n'\n$PY x.py\n")
    targets = e.read(("bash", "run.sh"), tmp_path).targets
    assert e.Target("file", "train.py") in targets


# -- declared ----------------------------------------------------------------------------------------------------------


def test_a_requirements_file_wins_over_imports_and_the_laptops_versions_are_preferences(laptop: Laptop) -> None:
    laptop.files(
        {
            "train.py": "import torch\n",
            "requirements.txt": "numpy >= 2  # why\n--extra-index-url https://x.example/simple\n-r more.txt\n-e .\n\n"
            "click[x]==8.1.7 ; python_version > '3' \\\n  --hash=sha256:00\nlib @ https://x.example/lib.whl\nheadrace\n",
            "more.txt": "-c pins.txt\nsix\n",
            "pins.txt": "numpy==2.0.5\n",
        }
    )
    captured = laptop.capture()
    assert captured.how == "requirements.txt"
    assert captured.packages == ("click[x]==8.1.7 ; python_version > '3'", "numpy>=2", "six")
    assert captured.request is not None
    preferences = captured.request["preferences"]
    assert "numpy==2.0.5" in preferences
    assert "numpy==2.1.0" not in preferences
    assert "torch==2.5.1" in preferences
    assert [warning.message.split(":")[0] for warning in captured.warnings] == ["requirements.txt"] * 2


def test_requirements_files_that_include_each_other_end(laptop: Laptop) -> None:
    laptop.files({"train.py": "", "requirements.txt": "-r requirements.txt\n"})
    with pytest.raises(CaptureError, match="include each other"):
        laptop.capture()


def test_a_file_that_is_named_wins_over_all(laptop: Laptop) -> None:
    laptop.files({"train.py": "", "requirements.txt": "numpy\n", "other.txt": "six\n"})
    captured = laptop.capture(requirements=laptop.project / "other.txt")
    assert captured.packages == ("six",)
    with pytest.raises(CaptureError, match="no such file"):
        laptop.capture(requirements=laptop.project / "nowhere.txt")


def test_the_header_of_the_script_wins_over_files(laptop: Laptop) -> None:
    header = '# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#   "six<2",\n# ]\n# ///\nimport six\n'
    laptop.files({"train.py": header, "requirements.txt": "numpy\n"})
    captured = laptop.capture()
    assert (captured.how, captured.packages) == ("inline", ("six<2",))


def test_the_file_nearest_to_the_script_wins(laptop: Laptop) -> None:
    laptop.files({"a/b/train.py": "", "requirements.txt": "numpy\n", "a/requirements.txt": "six\n"})
    subprocess.run(["git", "init", "-q", str(laptop.project)], check=True)
    assert laptop.roots("python", "a/b/train.py") == ("six",)


PYPROJECT = '[project]\nname = "mine"\nversion = "0"\ndependencies = ["click >=8", "six"]\n'
UV_LOCK = """
version = 1
[[package]]
name = "click"
version = "8.1.0"
source = { registry = "https://x.example/simple" }
[[package]]
name = "six"
version = "1.16.0"
source = { registry = "https://x.example/simple" }
[[package]]
name = "colorama"
version = "0.4.6"
source = { registry = "https://x.example/simple" }
[[package]]
name = "mine"
version = "0"
source = { editable = "." }
dependencies = [{ name = "click" }, { name = "six" }]
[package.metadata]
requires-dist = [{ name = "click", specifier = ">=8" }, { name = "six" }]
"""


def test_a_current_uv_lock_wins_with_all_its_versions(laptop: Laptop) -> None:
    laptop.files(
        {"train.py": "import numpy\n", "pyproject.toml": PYPROJECT, "uv.lock": UV_LOCK, "requirements.txt": "x"}
    )
    captured = laptop.capture()
    assert (captured.how, captured.packages) == ("uv.lock", ("click==8.1.0", "six==1.16.0"))
    assert captured.request is not None
    assert captured.request["preferences"] == ["click==8.1.0", "colorama==0.4.6", "six==1.16.0"]


def test_a_lock_that_no_longer_fits_is_passed_over_with_a_warning(laptop: Laptop) -> None:
    changed = PYPROJECT.replace('"six"', '"six", "numpy"')
    laptop.files({"train.py": "import numpy\n", "pyproject.toml": changed, "uv.lock": UV_LOCK})
    captured = laptop.capture()
    assert (captured.how, captured.packages) == ("imports", ("numpy==2.1.0",))
    assert "uv.lock does not fit" in captured.warnings[0].message
    assert captured.warnings[0].hint == "run `uv lock`"


def test_a_pylock_pins_everything_with_its_markers(laptop: Laptop) -> None:
    lock = (
        'lock-version = "1.0"\n[[packages]]\nname = "six"\nversion = "1.16.0"\nmarker = "python_version > \'3\'"\n'
        '[[packages]]\nname = "lib"\nversion = "1"\n[packages.vcs]\ntype = "git"\n'
    )
    laptop.files({"train.py": "", "pylock.toml": lock})
    captured = laptop.capture()
    assert (captured.how, captured.packages) == ("pylock.toml", ("six==1.16.0 ; python_version > '3'",))
    assert "lib is not from a package index" in captured.warnings[0].message


def test_a_current_poetry_lock_wins(laptop: Laptop) -> None:
    project = '[tool.poetry.dependencies]\npython = "^3.11"\nsix = "^1.0"\n'
    lock = '[[package]]\nname = "six"\nversion = "1.16.0"\n[[package]]\nname = "attrs"\nversion = "24.1.0"\n'
    laptop.files({"train.py": "", "pyproject.toml": project, "poetry.lock": lock})
    captured = laptop.capture()
    assert (captured.how, captured.packages) == ("poetry.lock", ("six==1.16.0",))
    assert captured.request is not None
    assert captured.request["preferences"] == ["attrs==24.1.0", "six==1.16.0"]


def test_a_broken_file_is_named(laptop: Laptop) -> None:
    laptop.files({"train.py": "", "pyproject.toml": PYPROJECT, "uv.lock": "not = = toml"})
    with pytest.raises(CaptureError, match=r"uv\.lock: not TOML"):
        laptop.capture()


def test_listed_packages_need_no_interpreter(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    laptop.files({"train.py": "", "requirements.txt": "six\n"})
    monkeypatch.setenv("PATH", "")
    captured = laptop.capture()
    assert captured.packages == ("six",)
    assert captured.request is not None
    assert captured.request["preferences"] == []
