"""A small API server, by HTTP: objects with versions, lists in pages, watches from a version on, guarded writes.

Of server-side apply it knows what one manager sees: maps are merged, lists replaced, a `resourceVersion` is a guard,
and what changes nothing writes nothing. A trial (`dryRun`) tells what would be. Fields that a CRD does not know are
dropped. It may forget old events (410), end and begin again.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

Object = dict[str, Any]


def write_kubeconfig(file: Path, url: str, *, token: str = "t", **cluster: Any) -> Path:
    """How to reach a server there, as whoever has this token."""
    config = {
        "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file.write_text(json.dumps(config))
    return file


class ApiServer:
    def __init__(self) -> None:
        self.version = 100
        self.objects: dict[tuple[str, str], Object] = {}
        """(collection's path, name) → object."""
        self.events: list[tuple[int, str, str, Object]] = []
        """(version, collection's path, type, object)."""
        self.oldest = 0
        self.changed = asyncio.Condition()
        self.requests: Counter[str] = Counter()
        """By verb and collection."""
        self.refuse: dict[str, tuple[int, str]] = {}
        """By verb and resource, or verb and collection: the status and message that such a request gets. As for roles,
        an apply that makes an object is a `create` too."""
        self.unknown: set[str] = set()
        """Fields of a RayCluster's spec that its CRD does not know: dropped without a word."""
        self.drops_in_trials = True
        """Whether a trial (`dryRun=All`) tells of it."""
        self.trials = 0
        self.times: dict[str, list[float]] = {}
        """When each verb and resource was asked for."""
        self.page = 0
        """As an HTML page, if not 0: the status."""
        self.instead: tuple[int, bytes, str] | None = None
        """What every request gets: status, body and its type."""
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._uids = itertools.count(1)
        self._watches: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Every connection ends, watches too."""
        assert self._runner is not None
        for task in list(self._watches):
            task.cancel()
        await self._runner.cleanup()

    # -- for tests ---------------------------------------------------------------------------------------------------

    async def put(self, collection: str, thing: Object) -> Object:
        """As whoever else writes there."""
        name = thing["metadata"]["name"]
        known = self.objects.get((collection, name))
        self.version += 1
        thing = copy.deepcopy(thing)
        metadata = thing["metadata"]
        metadata["uid"] = known["metadata"]["uid"] if known else f"uid-{next(self._uids)}"
        same = known is not None and known.get("spec") == thing.get("spec")
        generation = known["metadata"]["generation"] if known else 0
        metadata["generation"] = generation if same else generation + 1
        metadata["resourceVersion"] = str(self.version)
        self.objects[collection, name] = thing
        await self._tell(collection, "MODIFIED" if known else "ADDED", thing)
        return thing

    async def drop(self, collection: str, name: str) -> None:
        thing = self.objects.pop((collection, name))
        self.version += 1
        thing["metadata"]["resourceVersion"] = str(self.version)
        await self._tell(collection, "DELETED", thing)

    def forget(self) -> None:
        """All events so far: whoever goes on from before gets 410."""
        self.oldest = self.version

    async def _tell(self, collection: str, what: str, thing: Object) -> None:
        self.events.append((self.version, collection, what, copy.deepcopy(thing)))
        async with self.changed:
            self.changed.notify_all()

    # -- HTTP --------------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        collection, name = self._split(path)
        verb = self._verb(request, name)
        asked = f"{verb} {collection.rpartition('/')[2]}"
        self.requests[asked] += 1
        self.times.setdefault(asked, []).append(time.monotonic())
        if self.instead is not None:
            status, text, kind = self.instead
            return web.Response(status=status, body=text, content_type=kind)
        if self.page:
            return web.Response(
                status=self.page, text="<html><body>Bad gateway</body></html>", content_type="text/html"
            )
        verbs = [verb, "create"] if verb == "patch" and (collection, name) not in self.objects else [verb]
        for place in (collection.rpartition("/")[2], collection):
            for each in verbs:
                if f"{each} {place}" in self.refuse:
                    return _status(*self.refuse[f"{each} {place}"])
        if verb == "watch":
            return await self._watch(request, collection)
        if verb == "list":
            return self._list(request, collection)
        if verb == "get":
            found = self.objects.get((collection, name))
            return web.json_response(found) if found else _status(404, f"{name} not found")
        body = json.loads(await request.read())
        if verb == "delete":
            return await self._delete(collection, name, body["preconditions"]["uid"])
        if verb == "create":
            name = body["metadata"]["name"]
            if (collection, name) in self.objects:
                return _status(409, f"{name} already exists")
            return web.json_response(await self.put(collection, body), status=201)
        return await self._change(collection, name, verb, body, is_trial=request.query.get("dryRun") == "All")

    async def _delete(self, collection: str, name: str, uid: str) -> web.Response:
        known = self.objects.get((collection, name))
        if known is None:
            return _status(404, f"{name} not found")
        if known["metadata"]["uid"] != uid:
            return _status(409, "Precondition failed: UID in precondition is not that of the object")
        await self.drop(collection, name)
        return web.json_response(known)

    async def _change(
        self, collection: str, name: str, verb: str, body: Object, *, is_trial: bool = False
    ) -> web.Response:
        known = self.objects.get((collection, name))
        guard = body["metadata"].get("resourceVersion")
        if guard and (known is None or guard != known["metadata"]["resourceVersion"]):
            return _status(409, "the object has been modified; please apply your changes to the latest version")
        after = _merged(known or {}, body) if verb == "patch" else body
        if collection.endswith("/rayclusters") and (self.drops_in_trials or not is_trial):
            spec = {field: value for field, value in after["spec"].items() if field not in self.unknown}
            after = after | {"spec": spec}
        if is_trial:
            self.trials += 1
            return web.json_response(after)
        if known is not None and _same(known, after):
            return web.json_response(known)
        return web.json_response(await self.put(collection, after))

    def _verb(self, request: web.Request, name: str) -> str:
        if request.method == "GET":
            return "get" if name else "watch" if "watch" in request.query else "list"
        return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[request.method]

    def _split(self, path: str) -> tuple[str, str]:
        """Collection and name. A collection has an odd place below its group or namespace."""
        parts = path.strip("/").split("/")
        base = 2 if parts[0] == "api" else 3
        if len(parts) > base and parts[base] == "namespaces" and len(parts) > base + 2:
            base += 2
        return "/" + "/".join(parts[: base + 1]), "/".join(parts[base + 1 :])

    def _matching(self, request: web.Request, collection: str) -> list[Object]:
        kind = collection.rpartition("/")[2]
        everywhere = "/namespaces/" not in collection and kind != "nodes"
        return [
            thing
            for (place, _), thing in sorted(self.objects.items())
            if (place == collection or (everywhere and place.endswith("/" + kind))) and _fits(thing, request)
        ]

    def _list(self, request: web.Request, collection: str) -> web.Response:
        found, limit = self._matching(request, collection), int(request.query.get("limit", 0)) or 10**9
        begin = int(request.query.get("continue", 0))
        more = str(begin + limit) if begin + limit < len(found) else ""
        metadata = {"resourceVersion": str(self.version), "continue": more}
        return web.json_response({"metadata": metadata, "items": found[begin : begin + limit]})

    async def _watch(self, request: web.Request, collection: str) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            if since < self.oldest:
                gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
                await answer.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                return answer
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", 300))):
                while True:
                    for version, place, what, thing in [one for one in self.events if one[0] > since]:
                        since = version
                        if place == collection:
                            seen = _as_seen(what, thing, request)
                            if seen:
                                await answer.write(json.dumps({"type": seen, "object": thing}).encode() + b"\n")
                    async with self.changed:
                        if self.version <= since or not any(one[0] > since for one in self.events):
                            await self.changed.wait()
        except TimeoutError:
            return answer
        finally:
            self._watches.discard(task)


def _as_seen(what: str, thing: Object, request: web.Request) -> str:
    """An object that does not match a selector any more is deleted, for who watches by it."""
    if _fits(thing, request):
        return what
    return "DELETED" if what == "MODIFIED" else ""


def _fits(thing: Object, request: web.Request) -> bool:
    labels = thing["metadata"].get("labels") or {}
    for selector in filter(None, request.query.get("labelSelector", "").split(",")):
        key, _, value = selector.partition("=")
        if labels.get(key) != value:
            return False
    field = request.query.get("fieldSelector", "")
    if field == "spec.nodeName!=":
        return bool(thing.get("spec", {}).get("nodeName"))
    if field.startswith("metadata.name="):
        return bool(thing["metadata"]["name"] == field.partition("=")[2])
    return True


def _merged(known: Any, body: Any) -> Any:
    if isinstance(known, dict) and isinstance(body, dict):
        return {**known, **{key: _merged(known.get(key), value) for key, value in body.items()}}
    return copy.deepcopy(body)


def _same(known: Object, after: Object) -> bool:
    def said(thing: Object) -> Object:
        metadata = {k: v for k, v in thing["metadata"].items() if k not in {"resourceVersion", "uid", "generation"}}
        return {**thing, "metadata": metadata}

    return said(known) == said(after)


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "code": code, "message": message}, status=code)
