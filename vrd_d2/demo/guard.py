"""Who may talk to the demo, and how much it takes at once: a middleware of ASGI.

A page of another site, open in the same browser, can send requests to 127.0.0.1, and a name that
leads there (DNS rebinding) makes the demo's answers its own. So requests must name the demo as its
user does (Host), and those of a page must come from the demo's own (Origin, Sec-Fetch-Site).
"""

import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any

from vrd_d2.demo.storage import Storage

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MAX_BODY = 1 << 20  # bytes of a request that is no upload: words, boxes, names of files
_OVERHEAD = 1 << 16  # of an upload, beside the file
_DRAINED = 1 << 28  # bytes that are read and dropped, as a client that writes sees no answer
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/?#@\[\]]+)(?::(\d{1,5}))?", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
logger = logging.getLogger(__name__)


class Hosts:
    """The names under which the demo may be called.

    Args:
        host: the address that it listens at. A loopback address brings all others; 0.0.0.0 and ::
            bring every address as numbers, which no foreign name can lead to, and the names of
            this computer.
        named: further names, such as that of a proxy; "*.example.org" for all below one.
    """

    def __init__(self, host: str, named: Sequence[str] = ()) -> None:
        own = _canonical(host)
        self._named = [_canonical(name) for name in named]
        self._names = {own}
        address = _address(own)
        self._everywhere = not own or (address is not None and address.is_unspecified)
        self._loopback = own == "localhost" or (address is not None and address.is_loopback)
        if self._everywhere:
            name = _canonical(socket.gethostname())
            self._names |= {name, f"{name.partition('.')[0]}.local", _canonical(socket.getfqdn())}

    def names(self, name: str) -> bool:
        """Return whether the user has named this one."""
        name = _canonical(name)
        return any(
            name.endswith(known[1:]) if known.startswith("*.") else name == known
            for known in self._named
        )

    def __contains__(self, name: str) -> bool:
        name = _canonical(name)
        address = _address(name)
        if self._loopback or self._everywhere:
            if name == "localhost" or (address is not None and address.is_loopback):
                return True
            if self._everywhere and address is not None:
                return True
        return name in self._names or self.names(name)


class Guard:
    """Refuse requests of other sites, and too large ones, before anything is stored.

    Args:
        app: what answers the others.
        hosts: names of the demo.
        storage: where uploads go.
        max_upload: bytes of a file.
    """

    def __init__(self, app: App, *, hosts: Hosts, storage: Storage, max_upload: int) -> None:
        self._app, self._hosts, self._storage = app, hosts, storage
        self._max_upload = max_upload + _OVERHEAD
        self._uploads = 0  # that are running
        self._expected = 0  # bytes of them

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = _Headers(scope["headers"])
        reason = self._foreign(scope.get("method", "GET"), headers)
        if reason:
            logger.warning("refused a request: %s", reason)
        if scope["type"] == "websocket":
            if reason:
                await send({"type": "websocket.close", "code": 1008})  # which becomes a 403
            else:
                await self._app(scope, receive, send)
            return
        if reason:
            await _refuse(receive, send, 403, reason)
            return

        upload = scope["path"].rstrip("/").endswith("/upload")
        limit = self._max_upload if upload else MAX_BODY
        length = headers.length()
        if length is not None and length > limit:
            await _refuse(receive, send, 413, _too_large(limit), declared=length)
        elif not upload:
            await self._limited(scope, receive, send, limit)
        elif not self._storage.has_room(self._expected + (length or limit)):
            reason = "the demo holds as much as it may (--max-total-mb): try again in an hour"
            await _refuse(receive, send, 507, reason, declared=length)
        else:
            await self._upload(scope, receive, send, limit, length or limit)

    async def _upload(
        self, scope: Any, receive: Receive, send: Send, limit: int, expected: int
    ) -> None:
        self._uploads += 1
        self._expected += expected
        try:
            await self._limited(scope, receive, send, limit)
        finally:
            self._uploads -= 1
            self._expected -= expected
            if not self._uploads:
                self._storage.remove_unfinished()

    async def _limited(self, scope: Any, receive: Receive, send: Send, limit: int) -> None:
        """Answer a request whose body may have no stated length."""
        size, more, exceeded, started = 0, True, False, False

        async def counted() -> Message:
            nonlocal size, more, exceeded
            if not exceeded:
                message = await receive()
                size += len(message.get("body", b""))
                more = message.get("more_body", False)
                exceeded = size > limit
            return {"type": "http.disconnect"} if exceeded else message

        async def answered(message: Message) -> None:
            nonlocal started
            if started or not exceeded:  # what is said of a broken connection is not wanted
                started = True
                await send(message)

        try:
            await self._app(scope, counted, answered)
        except Exception:
            if not exceeded or started:
                raise
        if exceeded and not started:
            await _refuse(receive, send, 413, _too_large(limit), more=more)

    def _foreign(self, method: str, headers: "_Headers") -> str:
        """Say why a request is of another site, or ""."""
        hosts = headers.all("host")
        if len(hosts) != 1 or not (host := _AUTHORITY.fullmatch(hosts[0])):
            return "it names no host"
        forwarded = [
            part.strip() for text in headers.all("x-forwarded-host") for part in text.split(",")
        ]
        authorities = [host, *map(_AUTHORITY.fullmatch, forwarded)]
        for authority in authorities:
            if authority is None or authority[1] not in self._hosts:
                return (
                    f"this is no name of the demo: {_shown(authority and authority[1])}. Open it "
                    "under the address that it prints, or start it with --allow-host NAME"
                )
        origins = headers.all("origin")
        if len(origins) > 1 or not all(self._is_own(origin, authorities) for origin in origins):
            return f"it comes from another site: {_shown(', '.join(origins))}"
        site = headers.all("sec-fetch-site")
        if not origins and any(value in ("cross-site", "same-site") for value in site):
            # To follow a link to the demo is no harm.
            mode, target = headers.all("sec-fetch-mode"), headers.all("sec-fetch-dest")
            if method not in ("GET", "HEAD") or (mode, target) != (["navigate"], ["document"]):
                return "it comes from another site"
        return ""

    def _is_own(self, origin: str, authorities: Iterable[re.Match[str] | None]) -> bool:
        scheme, separator, rest = origin.partition("://")
        found = _AUTHORITY.fullmatch(rest)
        if scheme not in _PORTS or not separator or found is None:
            return False
        if self._hosts.names(found[1]):  # of a proxy, which may call the demo by another name
            return True
        own = {_place(authority, scheme) for authority in authorities if authority}
        return _place(found, scheme) in own


class _Headers:
    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = [(name.lower(), value.decode("latin-1").strip()) for name, value in raw]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self._raw if key == name.encode()]

    def length(self) -> int | None:
        """Return the stated length of the body; what is no number is the server's matter."""
        numbers = [int(text) for text in self.all("content-length") if re.fullmatch(r"\d+", text)]
        return max(numbers, default=None)


def _canonical(name: str) -> str:
    return name.lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _place(authority: re.Match[str], scheme: str) -> tuple[str, int]:
    return _canonical(authority[1]), int(authority[2] or _PORTS[scheme])


def _shown(text: str | None) -> str:
    return ascii(text or "")[1:-1][:100] or "none"


def _too_large(limit: int) -> str:
    return f"the request is too large: {limit} bytes at most"


async def _refuse(
    receive: Receive,
    send: Send,
    status: int,
    reason: str,
    *,
    declared: int | None = None,
    more: bool = True,
) -> None:
    """Answer with a sentence, after what the client still sends was dropped.

    Args:
        receive, send: of the request.
        status: of the answer.
        reason: the sentence.
        declared: length of the body, where it is stated.
        more: whether some of the body is still to come; to wait for it in vain would never end.
    """
    size, more = 0, more and (declared or 0) <= _DRAINED
    while more and size <= _DRAINED:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    content = f"{reason}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(content)).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
