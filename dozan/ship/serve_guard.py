"""Who may ask: a middleware that checks Host, Origin, token and size before anything is read or computed.

A page of another site can send requests to a server on this machine. Its browser says so in Origin; and a name that
it makes resolve to this machine (DNS rebinding) stands in Host. So Host must be an address, `localhost` or a name that
was allowed, and Origin, where there is one, the server's own.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dozan.ship.serve_requests import RequestError

OPEN_PATHS = ("/", "/health")
"""What has no secret: the empty page, and whether the server is up."""
HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store",
           "cross-origin-resource-policy": "same-origin"}  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets through what may be answered; the rest gets an error in OpenAI's form, and its body is never read."""

    def __init__(self, app: ASGIApp, token: str | None, names: Collection[str], local: bool, most_bytes: int) -> None:
        self._app, self._token, self._names = app, token, frozenset(name.lower() for name in names)
        self._local, self._most = local, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = self._error(scope["method"], scope["path"], Headers(scope=scope))
        if error is None:
            await self._app(scope, receive, send)
            return
        headers = {**HEADERS, "connection": "close"}
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        await JSONResponse(error.body(), error.status, headers)(scope, receive, send)

    def _error(self, method: str, path: str, headers: Headers) -> RequestError | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return RequestError(f"the Host header {', '.join(hosts)!r} is not this server's; ask it by its address, or "
                                "start it with --allow-host NAME", code="host_not_allowed", status=403)  # fmt: skip
        for origin in headers.getlist("origin"):
            if not _same(origin, hosts[0]):
                return RequestError(f"a page of {origin!r} may not ask this server", code="origin_not_allowed",
                                    status=403)  # fmt: skip
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and path not in OPEN_PATHS:
            return RequestError("a page of another site may not ask this server", code="origin_not_allowed", status=403)
        if self._token is not None and path not in OPEN_PATHS and not self._may(headers.get("authorization", "")):
            return RequestError("the token is missing or wrong; send it as 'Authorization: Bearer TOKEN'",
                                code="invalid_api_key", status=401)  # fmt: skip
        if method == "POST" and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return RequestError("the body must be JSON; send 'Content-Type: application/json'", status=415)
        length = headers.get("content-length", "")
        if length.isdigit() and (len(length) > 18 or int(length) > self._most):
            return too_large(self._most)
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server: no name that someone else could make lead here."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
            port = urlsplit(f"//{host}").port
        except ValueError:
            return False
        if not name or "@" in host or "/" in host or port == 0:
            return False
        if name in self._names or name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._local

    def _may(self, header: str) -> bool:
        kind, _, given = header.partition(" ")
        assert self._token is not None
        return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode())


def too_large(most: int) -> RequestError:
    """A body of more than `most` bytes."""
    return RequestError(f"the body has more than {most:,} bytes; send less, or start the server with --max-body",
                        code="request_too_large", status=413)  # fmt: skip


def _same(origin: str, host: str) -> bool:
    """Whether an Origin is that of a page from this very host and port."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
