"""A real kube-apiserver and etcd, where `KUBEBUILDER_ASSETS` names the folder of both: for tests, on loopback.

Started as controller-runtime's envtest does (`pkg/internal/testing/controlplane`): no kubelet, no controllers, so
nobody makes a pod and nobody collects garbage. Its certificate is its own; who asks is told by a token. Roles count.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Final

import aiohttp
import yaml

from controlplane.embedded.plan import free_ports
from controlplane.pool.api import Api, ApiError, NotFound, Object, version_of
from tests.support.apiserver import write_kubeconfig

ASSETS: Final = Path(os.environ.get("KUBEBUILDER_ASSETS", "/nowhere"))
SHARED: Final = Path(__file__).resolve().parents[3] / "shared" / "data" / "kuberay" / "ray.io_rayclusters.yaml"
CRD: Final = Path(os.environ.get("HEADRACE_RAYCLUSTER_CRD", SHARED))
CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
READY_S: Final = 90.0
ADMIN, NOBODY = "admin-token", "pool-token"


def why_not() -> str:
    """Why there is no real API server here; empty: there is."""
    missing = [name for name in ("etcd", "kube-apiserver") if not (ASSETS / name).exists()]
    if missing:
        return f"no {' and no '.join(missing)}: set KUBEBUILDER_ASSETS to a folder that has them"
    return "" if CRD.exists() else f"no RayCluster CRD at {CRD}: set HEADRACE_RAYCLUSTER_CRD"


class RealServer:
    """One etcd and one API server, by their processes. What they keep outlives `stop`, so `start` is a restart."""

    def __init__(self, folder: Path, user: str) -> None:
        """`user` is whom the roles are for, such as `system:serviceaccount:ml:headrace-pool`."""
        self.folder, self.user = folder, user
        self.etcd_port, self._peer_port, self.port = free_ports(3)
        self._etcd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._has_crd = False
        self.admin: Api

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Both, until the API server is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._etcd is None:
            self._etcd = self._launch("etcd", *self._etcd_flags())
        self._server = self._launch("kube-apiserver", *self._server_flags())
        if not hasattr(self, "admin"):
            self.admin = await Api.connect(str(self.kubeconfig(ADMIN)))
        async with asyncio.timeout(READY_S):
            while not await self._is_ready():
                for process in (self._etcd, self._server):
                    if process.poll() is not None:
                        raise RuntimeError(f"{process.args} ended: see {self.folder}")
                await asyncio.sleep(0.1)

    async def stop(self, *, etcd: bool = False) -> None:
        """The API server at once, as if it were killed."""
        if self._server is not None:
            self._server.kill()
            await asyncio.to_thread(self._server.wait)
            self._server = None
        if etcd and self._etcd is not None:
            self._etcd.kill()
            await asyncio.to_thread(self._etcd.wait)
            self._etcd = None

    async def close(self) -> None:
        await self.stop(etcd=True)
        if hasattr(self, "admin"):
            await self.admin.close()

    async def compact(self) -> None:
        """What was, is kept no more: who goes on from before gets 410."""
        root = f"http://127.0.0.1:{self.etcd_port}/v3/kv"
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{root}/range", json={"key": "AA=="}) as answer:
                revision = (await answer.json(content_type=None))["header"]["revision"]
            async with session.post(f"{root}/compaction", json={"revision": revision, "physical": True}) as answer:
                answer.raise_for_status()

    def kubeconfig(self, token: str = NOBODY) -> Path:
        file = self.folder / f"kubeconfig-{token}"
        return write_kubeconfig(file, self.url, token=token, **{"insecure-skip-tls-verify": True})

    # -- as the administrator ----------------------------------------------------------------------------------------

    async def put(self, collection: str, thing: Object) -> Object:
        """Make it, or put it in the place of the one that is there; its status too."""
        name = thing["metadata"]["name"]
        path = f"{collection}/{name}"
        try:
            known = await self.admin.get(path)
            guard = {"metadata": thing["metadata"] | {"resourceVersion": version_of(known)}}
            made = await self.admin.replace(path, thing | guard)
        except NotFound:
            made = await self.admin.create(collection, thing)
        if "status" in thing and made.get("status") != thing["status"]:
            status = made | {"status": (made.get("status") or {}) | thing["status"]}
            made = await self.admin.replace(f"{path}/status", status)
        return made

    async def get(self, collection: str, name: str) -> Object | None:
        try:
            return await self.admin.get(f"{collection}/{name}")
        except NotFound:
            return None

    async def drop(self, collection: str, name: str) -> None:
        found = await self.admin.get(f"{collection}/{name}")
        await self.admin.delete(f"{collection}/{name}", uid=found["metadata"]["uid"])

    async def install_crd(self, without: str = "") -> None:
        """KubeRay's, as the API server takes it; `without` a field of a RayCluster's spec, it is an older one."""
        crd = yaml.load(CRD.read_text(), yaml.CSafeLoader)
        for version in crd["spec"]["versions"] if without else ():
            version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"].pop(without, None)
        await self.admin.create(CRDS, crd)
        async with asyncio.timeout(READY_S):
            while not await self._is_served(crd["metadata"]["name"]):  # noqa: ASYNC110  another process
                await asyncio.sleep(0.1)
        self._has_crd = True

    async def _is_served(self, name: str) -> bool:
        found = await self.admin.get(f"{CRDS}/{name}")
        conditions = {one["type"]: one["status"] for one in found.get("status", {}).get("conditions") or []}
        try:
            await self.admin.list("/apis/ray.io/v1/rayclusters", {})
        except ApiError:
            return False
        return conditions.get("Established") == "True"

    async def _is_ready(self) -> bool:
        try:
            await self.admin.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin")
            await self.admin.get("/api/v1/namespaces/default")
            if self._has_crd:  # served a moment later, with 503 until then
                await self.admin.list("/apis/ray.io/v1/rayclusters", {})
        except ApiError:
            return False
        return True

    # -- processes ---------------------------------------------------------------------------------------------------

    def _launch(self, program: str, *flags: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{program}.log").open("ab") as log:
            return subprocess.Popen([str(ASSETS / program), *flags], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _etcd_flags(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.etcd_port, self._peer_port))
        return [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ]

    def _server_flags(self) -> list[str]:
        tokens, key = self.folder / "tokens.csv", self.folder / "accounts.key"
        groups = "system:serviceaccounts"
        tokens.write_text(f'{ADMIN},admin,0,"system:masters"\n{NOBODY},{self.user},1,"{groups}"\n')
        if not key.exists():
            subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        return [
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--cert-dir={self.folder / 'certificates'}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://127.0.0.1/",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            # no controller is there that would make service accounts, and no kubelet that says that a node is ready
            "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
        ]
