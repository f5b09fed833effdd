"""Who may ask: keys, pages of other sites, and names of the server.

Deny by default: every path needs a key, where there are keys, except those that tell nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from langwright.base import UserError, read_untrusted
from langwright.serve.config import LOOPBACK, ServeConfig
from langwright.serve.errors import ApiError

OPEN_PATHS = frozenset({"/health", "/ready"})
SHORTEST_KEY = 16  # characters
MOST_KEY_BYTES = 1_000_000


def read_keys(path: Path) -> list[bytes]:
    """The digests of the keys in a file; the keys themselves are not kept."""
    lines = read_untrusted(path, MOST_KEY_BYTES).decode("utf-8", "replace").splitlines()
    keys = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    keys = [(number, key) for number, key in keys if key and not key.startswith("#")]
    if not keys:
        raise UserError("no API key in the file", where=path, expected="one key in a line")
    for number, key in keys:
        if len(key) < SHORTEST_KEY or not key.isascii() or " " in key:
            raise UserError(
                "not a good API key",
                where=f"{path}:{number}",
                found=f"{len(key)} characters",
                expected=f"{SHORTEST_KEY} or more ASCII characters without blanks",
                fix='make one: python -c "import secrets; print(secrets.token_urlsafe(32))"',
            )
    return [_digest(key) for _, key in keys]


class Guard:
    """Middleware that lets requests through to the app, with ``scope["state"]["key"]``: a short
    name of the caller's key, "" where there are no keys."""

    def __init__(self, app: ASGIApp, config: ServeConfig, keys: list[bytes]) -> None:
        self._app, self._config, self._keys = app, config, keys
        self._hosts = {*LOOPBACK, config.host.lower(), *(one.lower() for one in config.hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            self._check_origin(headers, scope)
            key = "" if scope["path"] in OPEN_PATHS else self._check_key(headers)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        scope.setdefault("state", {})["key"] = key
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        """A name of the server's own: a page of another site could have its name point to this
        machine (DNS rebinding). Without loopback, keys protect and any name will do."""
        if self._config.host not in LOOPBACK and not self._config.hosts:
            return
        name = _host_name(headers.get("host", ""))
        if name not in self._hosts and not _is_loopback(name):
            raise ApiError(403, "this server is not known by that name", code="wrong_host")

    def _check_origin(self, headers: Headers, scope: Scope) -> None:
        """Pages of the server's own only, and of the sites that were named."""
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                raise ApiError(403, "pages of other sites may not call", code="wrong_origin")
            return
        if origin in self._config.origins:
            return
        own = f"{scope.get('scheme', 'http')}://{headers.get('host', '')}"
        if origin != own:
            raise ApiError(403, "pages of other sites may not call", code="wrong_origin")

    def _check_key(self, headers: Headers) -> str:
        """Compare with every key, in the same time whether one fits or not."""
        if not self._keys:
            return ""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digest = _digest(given.strip() if scheme.lower() == "bearer" else "")
        fits = [hmac.compare_digest(digest, key) for key in self._keys]
        if not any(fits):
            raise ApiError(
                401,
                "no valid API key; send it as `Authorization: Bearer KEY`",
                code="invalid_api_key",
            )
        return digest.hex()[:16]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
