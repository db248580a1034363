"""Asks for a place by HTTP and puts a log there: bounded in time, size and redirects."""

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

from scalable_runs.plain import parse_time

#: Longest time for one request, and for one log with all its tries, in seconds.
REQUEST_TIMEOUT: Final = 20.0
_MAX_ANSWER: Final = 64 * 2**10
_MAX_REDIRECTS: Final = 3


class UploadError(Exception):
    """A log could not be sent; the message says why.

    Attributes
    ----------
    again : bool
        Another try may help.
    wait : float or None
        Seconds that the server wants to be left alone for.
    """

    def __init__(self, message: str, *, again: bool, wait: float | None = None) -> None:
        super().__init__(message)
        self.again = again
        self.wait = wait


def check_url(url: str) -> str:
    """Return an address that logs may be sent to.

    Raises
    ------
    ValueError
        It is no https address, and no http address of this very machine.
    """
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"{url!r} is no address") from None
    if parts.username or parts.password:
        raise ValueError("an address with a password in it is not taken")
    if parts.scheme == "https" and host:
        return url.strip()
    if parts.scheme == "http" and _is_loopback(host):
        return url.strip()
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
        """Read the answer of the address that was asked.

        Raises
        ------
        UploadError
            It names no place, or one where nothing is sent.
        """
        try:
            document: Any = orjson.loads(answer)
        except ValueError:
            raise UploadError("the answer is no JSON", again=False) from None
        if not isinstance(document, dict) or not isinstance(document.get("url"), str):
            raise UploadError("the answer names no url", again=False)
        try:
            url = check_url(document["url"])
        except ValueError:
            raise UploadError("the place that was given is no https address", again=False) from None
        there, here = urlsplit(url), urlsplit(asked)
        # A server must not reach, through this machine, what listens only on this machine.
        if _is_loopback(there.hostname or "") and _origin(there) != _origin(here):
            raise UploadError("the place is another port of this machine", again=False)
        headers: Any = document.get("headers") or {}
        if not isinstance(headers, dict) or not all(
            isinstance(name, str) and isinstance(value, str) and _is_field(name, value)
            for name, value in headers.items()
        ):
            raise UploadError("the answer's headers cannot be understood", again=False)
        size: Any = document.get("maxSize")
        return cls(
            url,
            dict(headers),
            size if isinstance(size, int) and not isinstance(size, bool) else None,
            _expiry(document),
        )


def _is_field(name: str, value: str) -> bool:
    plain = name.replace("-", "").replace("_", "").isalnum() and name.isascii()
    framing = name.lower() in ("content-length", "transfer-encoding", "host", "connection")
    return plain and not framing and value.isprintable() and value.isascii()


def _expiry(document: Mapping[str, Any]) -> float | None:
    lasts: Any = document.get("expiresIn")
    if isinstance(lasts, int | float) and not isinstance(lasts, bool):
        return time.time() + lasts
    moment = parse_time(document.get("expiresAt"))
    return None if moment is None else moment.timestamp()


def exchange(
    method: str, url: str, body: bytes, headers: Mapping[str, str], deadline: float
) -> bytes:
    """One request with its redirects, which must stay with scheme, host and port.

    Raises
    ------
    UploadError
        It did not succeed.
    """
    for _ in range(_MAX_REDIRECTS + 1):
        parts = urlsplit(url)
        status, fields, answer = _once(method, parts, body, headers, deadline)
        if 200 <= status < 300:
            return answer
        if status in (307, 308) and "location" in fields:
            target = urljoin(url, fields["location"])
            there = urlsplit(target)
            if (there.scheme, there.netloc) != (parts.scheme, parts.netloc):
                raise UploadError("redirected to another host or scheme", again=False)
            url = target
            continue
        if 300 <= status < 400:
            raise UploadError(f"{method} was answered by a redirect ({status})", again=False)
        wait = fields.get("retry-after", "")
        raise UploadError(
            f"{method} was answered {status}",
            again=status >= 500 or status == 429,
            wait=float(wait) if wait.isdigit() and len(wait) < 6 else None,
        )
    raise UploadError("redirected too often", again=False)


def _once(
    method: str, parts: SplitResult, body: bytes, headers: Mapping[str, str], deadline: float
) -> tuple[int, dict[str, str], bytes]:
    timeout = min(REQUEST_TIMEOUT, deadline - time.monotonic())
    if timeout <= 0:
        raise UploadError("it took too long", again=False)
    connection = _connection(parts, timeout)
    # The socket's own time limit is for each piece: a server that sends a byte now and then would
    # never meet it.
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
            raise UploadError(f"the answer to {method} ended in its middle", again=True)
        fields = {name.lower(): value for name, value in response.getheaders()}
        return response.status, fields, answer
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        # AttributeError: the watchdog took the socket away under http.client.
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
