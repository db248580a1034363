"""Requests to the address for crash logs, bounded in time, size and redirects."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

import orjson

from scalable_runs.plain import parse_seconds

#: Longest time for one request, in seconds.
REQUEST_TIMEOUT: Final = 20.0
_MAX_ANSWER: Final = 64 * 2**10
_MAX_REDIRECTS: Final = 3
#: Header fields that belong to the request itself.
_OWN_FIELDS: Final = ("content-length", "transfer-encoding", "host", "connection")


class UploadError(Exception):
    """A log could not be sent; the message says why.

    Attributes
    ----------
    again : bool
        Another try may help.
    retry_after : float
        Seconds that the server asks to wait.
    """

    def __init__(self, message: str, *, again: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.again = again
        self.retry_after = retry_after


def check_url(url: str) -> str:
    """Return an address that is https, or http on this machine; ValueError for others."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"{url!r} is not an address") from None
    if parts.username or parts.password:
        raise ValueError("an address with a password in it is not accepted")
    if (parts.scheme == "https" and host) or (parts.scheme == "http" and _is_loopback(host)):
        return url
    raise ValueError(f"{url!r} is neither https nor http on this machine")


class Place(NamedTuple):
    """Where a log may be put."""

    url: str
    headers: dict[str, str]
    max_size: int | None
    #: Seconds since the epoch.
    expires: float | None

    @classmethod
    def of(cls, answer: bytes, asked: str) -> Place:
        """Read the answer of the address `asked`; UploadError if nothing can be sent there."""
        try:
            document: Any = orjson.loads(answer)
        except ValueError:
            raise UploadError("the answer is not JSON") from None
        if not isinstance(document, dict) or not isinstance(document.get("url"), str):
            raise UploadError("the answer has no url")
        try:
            url = check_url(document["url"])
        except ValueError:
            raise UploadError("the place in the answer is not an https address") from None
        there, here = urlsplit(url), urlsplit(asked)
        # A server must not reach services of this machine through this program.
        if _is_loopback(there.hostname or "") and _origin(there) != _origin(here):
            raise UploadError("the place in the answer is another port of this machine")
        headers: Any = document.get("headers") or {}
        if not isinstance(headers, dict) or not all(map(_is_field, headers, headers.values())):
            raise UploadError("the headers in the answer are not valid")
        size: Any = document.get("maxSize")
        is_size = isinstance(size, int) and not isinstance(size, bool)
        return cls(url, dict(headers), size if is_size else None, _expiry(document))


def _is_field(name: Any, value: Any) -> bool:
    if not isinstance(name, str) or not isinstance(value, str):
        return False
    plain = name.replace("-", "").replace("_", "").isalnum() and name.isascii()
    return plain and name.lower() not in _OWN_FIELDS and value.isprintable() and value.isascii()


def _expiry(document: Mapping[str, Any]) -> float | None:
    seconds: Any = document.get("expiresIn")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool):
        return time.time() + seconds
    return parse_seconds(document.get("expiresAt"))


def exchange(
    method: str, url: str, body: bytes, headers: Mapping[str, str], deadline: float
) -> bytes:
    """Send a request, follow redirects on the same scheme, host and port; returns the answer."""
    for _ in range(_MAX_REDIRECTS + 1):
        parts = urlsplit(url)
        status, fields, answer = _once(method, parts, body, headers, deadline)
        if 200 <= status < 300:
            return answer
        if status in (307, 308) and "location" in fields:
            url = urljoin(url, fields["location"])
            there = urlsplit(url)
            if (there.scheme, there.netloc) != (parts.scheme, parts.netloc):
                raise UploadError("redirected to another host or scheme")
            continue
        if 300 <= status < 400:
            raise UploadError(f"{method} was answered by a redirect ({status})")
        wait = fields.get("retry-after", "")
        raise UploadError(
            f"{method} was answered {status}",
            again=status >= 500 or status == 429,
            retry_after=float(wait) if wait.isdigit() and len(wait) < 6 else 0.0,
        )
    raise UploadError("redirected too often")


def _once(
    method: str, parts: SplitResult, body: bytes, headers: Mapping[str, str], deadline: float
) -> tuple[int, dict[str, str], bytes]:
    timeout = min(REQUEST_TIMEOUT, deadline - time.monotonic())
    if timeout <= 0:
        raise UploadError("it took too long")
    connection = _connection(parts, timeout)
    # The timeout of the socket is for each read: a server that sends single bytes never exceeds it.
    watchdog = threading.Timer(timeout, _abort, [connection])
    watchdog.name = "scalable-upload-limit"
    watchdog.daemon = True
    watchdog.start()
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        # A server that closes before it has read everything may have answered first.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, target, body, dict(headers))
        response = connection.getresponse()
        answer = response.read(_MAX_ANSWER)
        if response.length and len(answer) < _MAX_ANSWER:
            raise UploadError(f"the answer to {method} is incomplete", again=True)
        fields = {name.lower(): value for name, value in response.getheaders()}
        return response.status, fields, answer
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        # AttributeError: the watchdog closed the socket while http.client used it.
        text = str(error) or type(error).__name__
        raise UploadError(f"{method} failed: {text[:200]}", again=True) from None
    finally:
        watchdog.cancel()
        connection.close()


def _abort(connection: http.client.HTTPConnection) -> None:
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def _connection(parts: SplitResult, timeout: float) -> http.client.HTTPConnection:
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout)
    proxy = urllib.request.getproxies().get("https")
    if proxy and not urllib.request.proxy_bypass(host):
        through = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        if through.hostname:
            connection = http.client.HTTPSConnection(
                through.hostname, through.port, timeout=timeout
            )
            connection.set_tunnel(host, port)
            return connection
    return http.client.HTTPSConnection(host, port, timeout=timeout)


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
