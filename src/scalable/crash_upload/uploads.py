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
import json
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from scalable.crash_upload.logs import CrashLog, outcomes, read_log
from scalable.crash_upload.transfer import Place, UploadError, check_url, exchange
from scalable_runs.plain import iso
from scalable_runs.schema import SCHEMA_VERSION, UPLOADS
from scalable_runs.stores.base import Store

CONTENT_TYPE: Final = "text/plain; charset=utf-8"
#: Logs that wait at most; the oldest are kept, further ones are counted and stay on disk.
QUEUE_SIZE: Final = 100
#: Tries for each log, and the longest wait between two of them, in seconds.
TRIES: Final = 5
MAX_BACKOFF: Final = 8.0
LOG_TIMEOUT: Final = 120.0
#: Longest time for all logs that are sent together, in seconds.
ALL_TIMEOUT: Final = 300.0
Outcome = Literal["uploaded", "failed", "refused", "skipped", "dropped", "pending"]
_logger = logging.getLogger("scalable")


class Content(NamedTuple):
    """What is sent of a log."""

    data: bytes
    sha256: str


class CrashUploads:
    """Sends logs of one run, on a daemon thread of its own that starts with the first log.

    :meth:`submit` is called by the recorder's thread, :meth:`close` by the thread that closes the
    run; neither ever waits for the network longer than it is told to.

    Parameters
    ----------
    store : Store
        Where the run is.
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
        store: Store,
        run_id: str,
        url: str,
        *,
        redact: Callable[[str], str] | None,
        versions: Mapping[str, str],
        queue_size: int = QUEUE_SIZE,
        backoff: float = 0.5,
    ) -> None:
        self._store = store
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
            for record in outcomes(store)
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
        if self._store.stat(log.log) is None:
            return None
        data = read_log(self._store, log.log)
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
        answer = exchange("POST", self._url, body, headers, deadline)
        place = Place.of(answer, self._url)
        if place.max_size is not None and len(content.data) > place.max_size:
            raise UploadError(
                f"too large: {len(content.data)} bytes, {place.max_size} are taken", again=False
            )
        if place.expires is not None and place.expires <= time.time():
            raise UploadError("the place that was given had expired", again=True)
        headers = {"Content-Type": CONTENT_TYPE, **place.headers}
        exchange("PUT", place.url, content.data, headers, deadline)

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
            with self._store.attach(UPLOADS, append=True) as file:
                file.write(json.dumps(record).encode() + b"\n")
        except OSError as problem:
            _logger.warning("scalable: %s cannot be written: %s", UPLOADS, problem)
