"""The wrapper over Kubernetes' official client: objects as plain data, and its failures in our words.

No models of the client: they cost twice the CPU an event, and drop what they do not know.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
from kubernetes.aio.client import ApiClient
from kubernetes.aio.client import Configuration as ClientConfiguration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

CALL_S_MAX: Final = 30.0
PAGE: Final = 500
"""Objects in one answer to a list, as the API's own documentation suggests."""
PAGES_MAX: Final = 1000
ANSWER_BYTES_MAX: Final = 64 * 1024**2
"""Of one page."""
EVENT_BYTES_MAX: Final = 8 * 1024**2
"""Of one event of a watch: five times the most that etcd takes of one object."""
TEXT_CHARACTERS_MAX: Final = 300
SAID_CHARACTERS_MAX: Final = 1000
"""Of Kubernetes' own words: it names each field of a refused object."""

Object = dict[str, Any]


# ApiError                      Kubernetes did not do what was asked
# ├── Unreachable               no answer, or it was cut off: try again
# ├── Malformed                 an answer that is none of Kubernetes: a proxy's page, or one that is too large
# │   └── TooLarge              an event of a watch: it would come again and again, a list can be taken
# ├── Forbidden                 401, 403: credentials or roles
# ├── NotFound                  404
# ├── Conflict                  409: somebody else has written
# ├── Expired                   410: what a watch was to go on from is not kept any more
# └── Silent                    a watch in which nothing comes, not even a bookmark
class ApiError(Exception):
    """Kubernetes did not do what was asked. The message says what, and why not."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(ApiError):
    pass


class Malformed(ApiError):
    pass


class TooLarge(Malformed):
    pass


class Forbidden(ApiError):
    pass


class NotFound(ApiError):
    pass


class Conflict(ApiError):
    pass


class Expired(ApiError):
    pass


class Silent(ApiError):
    pass


_BY_STATUS: Final = {401: Forbidden, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Expired}
_UNREACHABLE: Final = (aiohttp.ClientError, TimeoutError, ConnectionError, ssl.SSLError)


class Listed(NamedTuple):
    """All objects of a list, and the version from which a watch goes on."""

    items: list[Object]
    version: str


class Event(NamedTuple):
    """`ADDED`, `MODIFIED`, `DELETED` or `BOOKMARK`; before them, `OPENED`: the server took the question."""

    type: str
    object: Object


class _Status(msgspec.Struct):
    """Kubernetes' own answer to what it does not do."""

    message: str = ""
    code: int = 0


class _RawEvent(msgspec.Struct):
    type: str
    object: Object


class Api:
    """One connection pool to the API server. Every method raises ApiError."""

    def __init__(self, configuration: ClientConfiguration) -> None:
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._session: aiohttp.ClientSession | None = None
        self.requests = 0
        """How many were made."""

    @classmethod
    async def connect(cls, kubeconfig: str = "") -> Api:
        """By the pod's own service account, or by this kubeconfig. Raises ApiError."""
        configuration = ClientConfiguration()
        try:
            if kubeconfig:
                await load_kube_config(config_file=kubeconfig, client_configuration=configuration)
            else:
                load_incluster_config(client_configuration=configuration)
        except (ConfigException, OSError) as error:
            where = f"kubeconfig {kubeconfig}" if kubeconfig else "no service account of a pod is here"
            raise Forbidden(f"{where}: {error}") from error
        return cls(configuration)

    async def close(self) -> None:
        await self._client.close()
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str) -> Object:
        return await self._call("GET", path)

    async def list(self, path: str, query: Mapping[str, str]) -> Listed:
        """All of it, page by page, as of one version."""
        items: list[Object] = []
        more = ""
        for _ in range(PAGES_MAX):
            rest = {"continue": more} if more else {}
            page = await self._call("GET", path, {**query, "limit": str(PAGE), **rest})
            metadata, found = page.get("metadata"), page.get("items")
            if not isinstance(metadata, dict) or not isinstance(found, list | None):
                raise Malformed(f"GET {path}: the answer is no list of Kubernetes")
            items += [one for one in found or [] if isinstance(one, dict)]
            more = str(metadata.get("continue") or "")
            if not more:
                return Listed(items, str(metadata.get("resourceVersion") or ""))
        raise Malformed(f"GET {path}: more than {PAGES_MAX} pages")

    async def watch(
        self, path: str, version: str, query: Mapping[str, str], *, silence_s: float
    ) -> AsyncIterator[Event]:
        """What happens after a version, until the server ends it.

        Raises Silent when nothing has come for `silence_s`, not even a bookmark (they come each minute): a server that
        was restored from a backup answers a version of its future with silence.
        """
        query = {**query, "watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_S_MAX, sock_read=silence_s)
        try:
            async with await self._send("GET", path, query, None, timeout) as answer:
                await self._raise_for(answer, f"watch {path}")
                yield Event("OPENED", {})
                async for line in _lines(answer, path):
                    yield _event(line, path)
        except aiohttp.SocketTimeoutError as error:
            raise Silent(f"watch {path}: nothing has come for {silence_s:g} s") from error
        except _UNREACHABLE as error:
            raise Unreachable(f"watch {path}: {_said(error)}") from error

    async def apply(self, path: str, body: Mapping[str, Any], manager: str, *, is_trial: bool = False) -> Object:
        """Server-side apply, whoever else has set one of these fields. A `resourceVersion` in it is a guard.

        A trial changes nothing, and gives what would be.
        """
        query = {"fieldManager": manager, "force": "true"} | ({"dryRun": "All"} if is_trial else {})
        return await self._call("PATCH", path, query, body, "application/apply-patch+yaml")

    async def create(self, path: str, body: Mapping[str, Any]) -> Object:
        """Raises Conflict if it is there already."""
        return await self._call("POST", path, {}, body)

    async def replace(self, path: str, body: Mapping[str, Any]) -> Object:
        """A `resourceVersion` in it is a guard: raises Conflict."""
        return await self._call("PUT", path, {}, body)

    async def delete(self, path: str, *, uid: str) -> Object:
        """This very object, and in the background what it owns. Raises Conflict if another one has its name now."""
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        return await self._call("DELETE", path, {}, options)

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        timeout = aiohttp.ClientTimeout(total=CALL_S_MAX)
        try:
            async with await self._send(method, path, query or {}, body, timeout, content_type) as answer:
                await self._raise_for(answer, f"{method} {path}")
                raw = await _read(answer, f"{method} {path}")
        except _UNREACHABLE as error:
            raise Unreachable(f"{method} {path}: {_said(error)}") from error
        try:
            return msgspec.json.decode(raw, type=Object)
        except msgspec.DecodeError as error:
            raise Malformed(f"{method} {path}: the answer is no object of Kubernetes: {_shown(raw)}") from error

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
        content_type: str = "application/json",
    ) -> aiohttp.ClientResponse:
        self.requests += 1
        if self._session is None:
            self._session = self._client.rest_client._create_pool_manager()
        _, url, headers, _, _ = await self._client.param_serialize(
            method, path, query_params=list(query.items()), auth_settings=["BearerToken"]
        )
        headers |= {"Accept": "application/json", "Content-Type": content_type}
        data = msgspec.json.encode(body) if body is not None else None
        return await self._session.request(
            method, url, headers=headers, data=data, timeout=timeout, proxy=self._configuration.proxy
        )

    async def _raise_for(self, answer: aiohttp.ClientResponse, what: str) -> None:
        if answer.status < 300:
            return
        raw = await _read(answer, what)
        try:
            said = _short(msgspec.json.decode(raw, type=_Status).message)
        except msgspec.DecodeError as error:
            if answer.status in _BY_STATUS:
                raise _BY_STATUS[answer.status](f"{what}: {answer.status} {_shown(raw)}", answer.status) from error
            raise Malformed(f"{what}: {answer.status}, and no word of Kubernetes: {_shown(raw)}") from error
        raise _BY_STATUS.get(answer.status, ApiError)(f"{what}: {answer.status} {said}", answer.status)


def _event(line: bytes, path: str) -> Event:
    try:
        raw = msgspec.json.decode(line, type=_RawEvent)
    except msgspec.DecodeError as error:
        raise Malformed(f"watch {path}: no event of Kubernetes: {_shown(line)}") from error
    if raw.type == "ERROR":
        status = msgspec.convert(raw.object, _Status, strict=False)
        said = _short(status.message)
        raise _BY_STATUS.get(status.code, ApiError)(f"watch {path}: {status.code} {said}", status.code)
    return Event(raw.type, raw.object)


async def _lines(answer: aiohttp.ClientResponse, path: str) -> AsyncIterator[bytes]:
    """Of a watch, each an event."""
    rest = bytearray()
    async for chunk in answer.content.iter_any():
        rest += chunk
        *lines, last = rest.split(b"\n")
        rest = last
        for line in lines:
            if line.strip():
                yield bytes(line)
        if len(rest) > EVENT_BYTES_MAX:
            raise TooLarge(f"watch {path}: an event of more than {EVENT_BYTES_MAX} bytes")
    if rest.strip():
        raise Malformed(f"watch {path}: no event of Kubernetes: {_shown(bytes(rest))}")


async def _read(answer: aiohttp.ClientResponse, what: str) -> bytes:
    parts, size = [], 0
    async for chunk in answer.content.iter_any():
        parts.append(chunk)
        size += len(chunk)
        if size > ANSWER_BYTES_MAX:
            raise Malformed(f"{what}: an answer of more than {ANSWER_BYTES_MAX} bytes")
    return b"".join(parts)


def _short(said: str) -> str:
    return " ".join(said[: 2 * SAID_CHARACTERS_MAX].split())[:SAID_CHARACTERS_MAX]


def _shown(raw: bytes) -> str:
    """The beginning of what is not what it should be, in one line."""
    text = raw[: 4 * TEXT_CHARACTERS_MAX].decode(errors="replace")
    return " ".join(text.split())[:TEXT_CHARACTERS_MAX]


def _said(error: BaseException) -> str:
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


def metadata_of(found: Object, what: str) -> Object:
    """Raises Malformed if it has none: then it is no object of Kubernetes."""
    metadata = found.get("metadata")
    if not isinstance(metadata, dict):
        raise Malformed(f"{what}: the answer is no object of Kubernetes: {_shown(msgspec.json.encode(found))}")
    return metadata


def version_of(found: Object) -> str:
    """Its resourceVersion; empty: it has none."""
    metadata = found.get("metadata")
    return str(metadata.get("resourceVersion") or "") if isinstance(metadata, dict) else ""
