"""What Ray says of a failure reaches the operator."""

from __future__ import annotations

import socket

import pytest
from ray._private.utils import check_version_info

from controlplane.capacity import fleet
from controlplane.capacity.fleet import Fleet, FleetError, NoHead


def test_of_another_version_both_are_told() -> None:
    theirs = {"ray_version": "2.1.0", "python_version": "3.9.1"}
    with pytest.raises(FleetError, match=r"^no: .*Ray: 2\.1\.0 Python: 3\.9\.1 .* Ray: 2\."), fleet._asking("no"):
        check_version_info(theirs, "the client")


def test_nobody_listens_or_the_name_can_be_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    for host in ("127.0.0.1", "a..b", "x" * 70):
        with pytest.raises(NoHead, match=f"^no head of Ray at ray://{host}:{port}: "):
            Fleet(f"ray://{host}:{port}")
