"""Sends the logs of workers that died to a place of the user's choice; off unless asked for.

For each log: its SHA-256 and what is known of the death go by ``POST`` to the address that was
given, which answers with a pre-signed address; the log goes there by ``PUT``. It is best effort and
bounded in every way: it never blocks, slows or fails a run, and what could not be sent stays in the
run's directory, from where ``scalable crash-logs upload`` sends it later.

    POST URL   {"sha256", "size", "contentType", "runId", "workerId", "cause", "versions"}
    answer     {"url", "headers"?, "maxSize"?, "expiresAt"? (ISO 8601) or "expiresIn"? (seconds)}
    PUT url    the log
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import logging
import math
import os
import random
import socket
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

import orjson

from scalable_runs.plain import iso, parse_time
from scalable_runs.reader import RunReader, open_file
from scalable_runs.schema import FAILURES, SCHEMA_VERSION, UPLOADS

CONTENT_TYPE: Final = "text/plain; charset=utf-8"
#: Logs that wait at most; the oldest are kept, further ones are counted and stay on disk.
QUEUE_SIZE: Final = 100
#: Tries for each log, and the longest wait between two of them, in seconds.
TRIES: Final = 5
MAX_BACKOFF: Final = 8.0
#: Longest time for one request, and for one log with all its tries, in seconds.
REQUEST_TIMEOUT: Final = 20.0
LOG_TIMEOUT: Final = 120.0
#: Longest time for all logs that are sent together, in seconds.
ALL_TIMEOUT: Final = 300.0
#: Outcomes of a run's uploads that are looked at: the last ones.
MAX_OUTCOMES: Final = 10_000
#: Largest log that is sent, in bytes: a log is bounded, a file in its place may not be.
MAX_LOG: Final = 64 * 2**20
_MAX_ANSWER: Final = 64 * 2**10
_MAX_REDIRECTS: Final = 3

Outcome = Literal["uploaded", "failed", "refused", "skipped", "dropped", "pending"]

_logger = logging.getLogger("scalable")


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


@dataclass(frozen=True, slots=True)
class CrashLog:
    """The log of one worker that died."""

    worker_id: str
    #: Below the run's directory.
    log: str
    cause: str
    #: When the worker was lost, ISO 8601; None where that is not known.
    lost_at: str | None = None


class Content(NamedTuple):
    """What is sent of a log."""

    data: bytes
    sha256: str


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


def crash_logs(reader: RunReader) -> Iterator[CrashLog]:
    """Yield the logs of dead workers that lie in a run's directory, the first death first."""
    for record in reader.records(FAILURES):
        details: Mapping[str, Any] = record.get("details") or {}
        path = details.get("stderr_path")
        if record.get("failure_class") != "WorkerLost" or not path:
            continue
        if find(reader.path, path) is not None:
            yield CrashLog(
                details.get("worker_id") or details.get("worker") or "",
                path,
                details.get("cause") or "unknown",
                record.get("timestamp"),
            )


def find(run_dir: Path, log: str) -> Path | None:
    """Path of a run's log, if it is a file within the run's directory."""
    with suppress(OSError, ValueError, RuntimeError):  # the last of a loop of links
        path = (run_dir / log).resolve(strict=True)
        if path.is_relative_to(run_dir.resolve()) and path.is_file():
            return path
    return None


def read_log(path: Path) -> bytes:
    """Return a log; of a file that is larger than a log can be, the end."""
    with open_file(path) as fd:
        size = os.fstat(fd).st_size
        os.lseek(fd, max(0, size - MAX_LOG), os.SEEK_SET)
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(MAX_LOG)


def outcomes(run_dir: Path) -> list[dict[str, Any]]:
    """Return what a run's uploads.jsonl tells, in order; broken lines are left out."""
    records = RunReader(run_dir, wait=0).records(UPLOADS)
    return list(deque(records, maxlen=MAX_OUTCOMES))


class CrashUploads:
    """Sends logs of one run, on a daemon thread of its own that starts with the first log.

    :meth:`submit` is called by the recorder's thread, :meth:`close` by the thread that closes the
    run; neither ever waits for the network longer than it is told to.

    Parameters
    ----------
    run_dir : Path
        The run's directory.
    run_id : str
        Its id.
    url : str
        Where to ask for a place; see :func:`check_url`.
    redact : callable or None
        Passed the text of a log before it leaves; None sends the raw bytes.
    versions : mapping
        Versions of what ran.
    """

    def __init__(
        self,
        run_dir: Path,
        run_id: str,
        url: str,
        *,
        redact: Callable[[str], str] | None,
        versions: Mapping[str, str],
        queue_size: int = QUEUE_SIZE,
        backoff: float = 0.5,
    ) -> None:
        self._run_dir = run_dir
        self._run_id = run_id
        self._url = check_url(url)
        self._redact = redact
        self._versions = dict(versions)
        self._queue_size = queue_size
        self._backoff = backoff
        self._queue: deque[CrashLog] = deque()
        self._condition = threading.Condition()
        self._busy: CrashLog | None = None
        self._closing = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._sent = {
            str(record.get("sha256"))
            for record in outcomes(run_dir)
            if record.get("outcome") == "uploaded"
        }
        #: Logs that found no room in the queue.
        self.dropped = 0

    def submit(self, log: CrashLog) -> None:
        """Take a log in; returns at once."""
        with self._condition:
            full = self._closing or len(self._queue) >= self._queue_size
            if full:
                self.dropped += 1
            else:
                self._queue.append(log)
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._work, name="scalable-crash-upload", daemon=True
                    )
                    self._thread.start()
                self._condition.notify_all()
        if full:
            self._note(log, "dropped", error="too many logs were waiting")

    def close(self, timeout: float) -> bool:
        """Send what waits within `timeout` seconds; what is left then stays, and is noted so.

        Returns
        -------
        bool
            False if something is left.
        """
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        thread = self._thread
        if thread is None:
            return True
        thread.join(timeout)
        self._stop.set()
        with self._condition:
            left = [*([self._busy] if self._busy is not None else []), *self._queue]
            self._queue.clear()
            self._condition.notify_all()
        for log in left:
            self._note(log, "pending", error="the run was closed before it could be sent")
        return not left

    def send_all(self, logs: Iterable[CrashLog]) -> list[tuple[CrashLog, Outcome, str]]:
        """Send logs here and now; returns what became of each, with the reason."""
        deadline = time.monotonic() + ALL_TIMEOUT
        return [(log, *self._send(log, deadline)) for log in logs]

    def request(self, log: CrashLog, content: Content) -> dict[str, Any]:
        """What is asked for a place with."""
        return {
            "sha256": content.sha256,
            "size": len(content.data),
            "contentType": CONTENT_TYPE,
            "runId": self._run_id,
            "workerId": log.worker_id,
            "cause": log.cause,
            "versions": self._versions,
        }

    def content(self, log: CrashLog) -> Content | None:
        """What would be sent of a log; None if there is nothing."""
        path = find(self._run_dir, log.log)
        if path is None:
            return None
        data = read_log(path)
        if self._redact is not None:
            data = self._redact(data.decode("utf-8", "replace")).encode("utf-8", "replace")
        return Content(data, hashlib.sha256(data).hexdigest()) if data else None

    def why_skipped(self, content: Content | None) -> str | None:
        """Why a content is not sent; None if it would be."""
        if content is None:
            return "empty"
        return "the same content was sent already" if content.sha256 in self._sent else None

    # -- the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                log = self._busy = self._queue.popleft()
            try:
                self._send(log)
            except BaseException as error:
                self._note(log, "failed", error=f"internal error: {type(error).__name__}")
            finally:
                with self._condition:
                    self._busy = None
            if self._stop.is_set():
                return

    def _send(self, log: CrashLog, before: float = math.inf) -> tuple[Outcome, str]:
        if time.monotonic() >= before:
            return self._ended(log, None, "pending", "sending the others took too long", 0)
        try:
            content = self.content(log)
        except OSError as error:
            return self._ended(log, None, "failed", f"cannot be read: {error.strerror}", 0)
        skipped = self.why_skipped(content)
        if skipped is not None:
            return self._ended(log, content, "skipped", skipped, 0)
        assert content is not None
        deadline = min(before, time.monotonic() + LOG_TIMEOUT)
        tries = 0
        while True:
            tries += 1
            try:
                self._send_once(log, content, deadline)
            except UploadError as error:
                if not error.again:
                    return self._ended(log, content, "refused", str(error), tries)
                pause = min(MAX_BACKOFF, self._backoff * 2 ** (tries - 1))
                # Many programs may have met the same fault at the same time.
                pause *= random.uniform(0.5, 1.0)
                if error.wait is not None:
                    pause = max(pause, min(error.wait, 30.0))
                late = time.monotonic() + pause > deadline
                if tries >= TRIES or late or self._stop.wait(pause):
                    if self._stop.is_set():
                        return "pending", str(error)  # close() has noted it
                    return self._ended(log, content, "failed", str(error), tries)
            else:
                self._sent.add(content.sha256)
                return self._ended(log, content, "uploaded", "", tries)

    def _ended(
        self, log: CrashLog, content: Content | None, outcome: Outcome, error: str, tries: int
    ) -> tuple[Outcome, str]:
        self._note(log, outcome, content=content, error=error, tries=tries)
        return outcome, error

    def _send_once(self, log: CrashLog, content: Content, deadline: float) -> None:
        body = json.dumps(self.request(log, content)).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        answer = _exchange("POST", self._url, body, headers, deadline)
        place = _Place.of(answer, self._url)
        if place.max_size is not None and len(content.data) > place.max_size:
            raise UploadError(
                f"too large: {len(content.data)} bytes, {place.max_size} are taken", again=False
            )
        if place.expires is not None and place.expires <= time.time():
            raise UploadError("the place that was given had expired", again=True)
        headers = {"Content-Type": CONTENT_TYPE, **place.headers}
        _exchange("PUT", place.url, content.data, headers, deadline)

    def _note(
        self,
        log: CrashLog,
        outcome: Outcome,
        *,
        content: Content | None = None,
        error: str = "",
        tries: int = 0,
    ) -> None:
        """One line in uploads.jsonl; a disk that takes none costs nothing but the line."""
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "event_type": "upload",
            "run_id": self._run_id,
            "timestamp": iso(time.time()),
            "outcome": outcome,
            "worker_id": log.worker_id,
            "log": log.log,
            "cause": log.cause,
            "host": urlsplit(self._url).hostname,
            "tries": tries,
        }
        if content is not None:
            record |= {"sha256": content.sha256, "size": len(content.data)}
        if error:
            # It may name the address, whose query is a password.
            record["error"] = (error if self._redact is None else self._redact(error))[:500]
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._run_dir / UPLOADS, flags, 0o600)
            try:
                os.write(descriptor, json.dumps(record).encode() + b"\n")
            finally:
                os.close(descriptor)
        except OSError as problem:
            _logger.warning("scalable: %s cannot be written: %s", UPLOADS, problem)


# -- HTTP ------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a log may be put."""

    url: str
    headers: dict[str, str]
    max_size: int | None
    #: Seconds since the epoch.
    expires: float | None

    @classmethod
    def of(cls, answer: bytes, asked: str) -> _Place:
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


def _exchange(
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
