"""The configuration: three origins, and mistakes that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.config import ConfigurationError, endpoint, load
from controlplane.main import main


def test_later_origin_wins(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text("replicas = 1\nlease_s = 10.0\nheartbeat_s = 1\n")
    config = load(file, {"HEADRACE_REPLICAS": "3", "HEADRACE_LEASE_S": "20"}, {"lease_s": "30"})
    assert (config.replicas, config.lease_s, config.heartbeat_s) == (3, 30.0, 1.0)


def test_names_of_the_laptop_are_not_settings() -> None:
    assert load(None, {"HEADRACE_STATE": "/x", "HEADRACE_URL": "http://x", "HEADRACE_TOKEN": "t"}, {}).state == ""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("replica = 3", ["replica"]),
        ("replicas = 'three'", ["replicas", "int"]),
        ("default_tier = 'gpu9'", ["default_tier", "gpu9", "gpu8"]),
        ("[teams.a]\nqueues = []", ["teams.a.queues"]),
        (
            "[[tiers]]\nname = 'cpu'\non = [{ gpu = [] }]\n[tiers.resources]\ncpus = 1\nmemory_bytes = 1",
            ["tiers.cpu.on", "A100"],
        ),
        (
            "[[tiers]]\nname = 'cpu'\n[tiers.resources]\ncpus = 1\nmemory_bytes = 1\ngpus = 2\ngpu_milli = 500",
            ["tiers.cpu.resources.gpu_milli", "one GPU"],
        ),
        ("[teams.a]\ntiers = ['x']", ["teams.a.tiers", "x"]),
        ("[tokens.abcdefghij]\nteam = 'b'\nuser = 'u'", ["tokens.abcdefgh", "b"]),
        (
            "[tokens.abcdefghij]\nteam = 'default'\nuser = 'u'\noperator = true\nscrapes = true",
            ["tokens.abcdefgh", "scrapes"],
        ),
        ("suspect_s = 1.0", ["suspect_s", "heartbeat_s"]),
        ("ray_address = 'auto'", ["ray_address", "'auto'", "ray://<host>:<port>"]),
        ("teams = [", ["headrace.toml"]),
    ],
)
def test_mistake_in_the_file_names_the_key(tmp_path: Path, text: str, names: list[str]) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        load(file, {}, {})
    assert all(name in str(error.value) for name in names), str(error.value)


def test_mistake_in_the_environment_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match="HEADRACE_LEASE_S: lease_s"):
        load(None, {"HEADRACE_LEASE_S": "long"}, {})


def test_unknown_flag_lists_what_there_is() -> None:
    with pytest.raises(ConfigurationError, match=r"--set leas_s: no such key; there are .*lease_s"):
        load(None, {}, {"leas_s": "1"})


def test_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "none.toml", {}, {})


@pytest.mark.parametrize("service", ["all", "capacity"])
def test_capacity_without_the_head_of_ray_is_a_mistake(
    service: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADRACE_RAY_ADDRESS", raising=False)
    assert main([service]) == 2
    assert capsys.readouterr().err.startswith("error: ray_address: ")


def test_the_head_is_found_by_either_of_its_addresses() -> None:
    assert endpoint("ray://head-svc.ml.svc:10001") == ("head-svc.ml.svc", 10001)
    assert endpoint("127.0.0.1:6379") == ("127.0.0.1", 6379)
    assert endpoint("ray://[::1]:10001") == ("::1", 10001)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "auto",
        "local",
        "head",
        "ray://head",
        "head:",
        "head:ray",
        "head:0",
        "head:65536",
        ":10001",
        "://head:1",
        "http://head:8265",
        "ray://head:10001/",
        "ray://head:10001?a",
        "ray://[::1:10001",
        "ray://ada:pw@head:1",
        "head:1 ",
        "he ad:1",
    ],
)
def test_what_is_no_address_is_said_with_one(address: str) -> None:
    with pytest.raises(ValueError, match=r"ray://<host>:<port>"):
        endpoint(address)
