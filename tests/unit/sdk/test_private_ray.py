"""What `ray start` is told for an order."""

from __future__ import annotations

import json

import pytest

from headrace.private_ray import order
from headrace.private_ray.order import Order

GIB = 1024**3
ONE = Order(cpus=4, memory_bytes=16 * GIB, gpus=2, host="10.0.0.7")


def told(wanted: Order) -> list[str]:
    return order.arguments(wanted, temporary="/t/ray", object_store=2 * GIB)


def test_the_head_has_what_the_allocation_has_and_every_port_is_one_that_is_free() -> None:
    found = told(ONE)
    assert found[:2] == ["start", "--head"]
    assert {"--num-cpus=4", "--num-gpus=2", f"--memory={14 * GIB}", "--temp-dir=/t/ray"} < set(found)
    ports = {name: value for name, _, value in (each.partition("=") for each in found) if name.endswith("port")}
    assert set(ports.values()) == {"0"}
    assert not [each for each in found if "client" in each], "refused by a Ray without its client"


def test_of_a_gang_the_head_is_where_its_parts_meet_and_the_others_join_it() -> None:
    gang = ONE._replace(size=3, head="10.0.0.7:20001")
    assert "--port=20001" in told(gang)
    second = told(gang._replace(rank=1, host="10.0.0.8"))
    assert second[:2] == ["start", "--address=10.0.0.7:20001"]
    assert "--node-ip-address=10.0.0.8" in second
    assert not {each for each in second if each.startswith(("--port", "--head", "--include-dashboard", "--no-monitor"))}


@pytest.mark.parametrize(("cpus", "said"), [(0.5, 1), (1, 1), (2.9, 2)])
def test_a_part_of_a_cpu_counts_as_none_but_for_the_first(cpus: float, said: int) -> None:
    assert f"--num-cpus={said}" in told(ONE._replace(cpus=cpus))


@pytest.mark.parametrize(
    ("memory_bytes", "free_bytes", "store_bytes"),
    [
        (10 * GIB, 100 * GIB, 3 * GIB),
        (10 * GIB, 2 * GIB, int(1.8 * GIB)),
        (10 * GIB, 64 * 1024**2, order.OBJECT_STORE_BYTES_MIN),
        (100 * 1024**2, 100 * GIB, order.OBJECT_STORE_BYTES_MIN),
        (2000 * GIB, 2000 * GIB, order.OBJECT_STORE_BYTES_MAX),
        (0, 100 * GIB, GIB),
    ],
)
def test_shared_memory_is_a_share_of_the_allocation_and_no_more_than_there_is(
    memory_bytes: int, free_bytes: int, store_bytes: int
) -> None:
    found = order.object_store_bytes(ONE._replace(memory_bytes=memory_bytes), free_bytes)
    assert found == pytest.approx(store_bytes, abs=1)


def test_the_token_of_a_gang_is_not_handed_on() -> None:
    found = order.environment({order.TOKEN: "secret", "A": "b"}, "/t/ray/token")
    assert "secret" not in found.values()
    assert (found["A"], found["RAY_AUTH_MODE"], found["RAY_AUTH_TOKEN_PATH"]) == ("b", "token", "/t/ray/token")


def test_an_order_is_read_as_it_is_written() -> None:
    assert order.read(json.dumps(ONE._asdict())) == ONE
