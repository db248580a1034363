"""Sends the logs of workers that died to an address of the user's choice; off by default.

For each log: its SHA-256 and what is known of the death go by ``POST`` to the address, which
answers with a pre-signed address; the log goes there by ``PUT``. Every step is bounded, and none
blocks, slows or fails a run. What could not be sent stays in the run, and
``scalable crash-logs upload`` sends it later.

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
#: Logs that wait at most; further ones are counted and stay in the run.
QUEUE_SIZE: Final = 100
#: Tries for each log, and the longest waits between two of them, in seconds.
TRIES: Final = 5
MAX_BACKOFF: Final = 8.0
MAX_RETRY_AFTER: Final = 30.0
#: Longest time for one log with all its tries, and for all that are sent together, in seconds.
LOG_TIMEOUT: Final = 120.0
ALL_TIMEOUT: Final = 300.0

Outcome = Literal["uploaded", "failed", "refused", "skipped", "dropped", "pending"]
_logger = logging.getLogger("scalable")


class Content(NamedTuple):
    """What is sent of a log."""

    data: bytes
    sha256: str


class CrashUploads:
    """Sends logs of one run, on a daemon thread that starts with the first log.

    :meth:`submit` is called by the recorder's thread, :meth:`close` by the thread that closes the
    run; neither waits for the network longer than its timeout. Texts pass `redact` before they are
    sent; if it is None, the raw bytes are sent.
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
        #: Logs that were not taken because too many waited.
        self.dropped = 0

    def submit(self, log: CrashLog) -> None:
        """Queue a log; returns at once."""
        with self._condition:
            if not self._closing and len(self._queue) < self._queue_size:
                self._queue.append(log)
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._work, name="scalable-crash-upload", daemon=True
                    )
                    self._thread.start()
                self._condition.notify_all()
                return
            self.dropped += 1
        self._record(log, "dropped", "too many logs were waiting")

    def close(self, timeout: float) -> bool:
        """Send what waits, for `timeout` seconds; returns False if something is left as pending."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        self._stop.set()
        with self._condition:
            left = [*([self._busy] if self._busy is not None else []), *self._queue]
            self._queue.clear()
        for log in left:
            self._record(log, "pending", "the run was closed before it could be sent")
        return not left

    def send_all(self, logs: Iterable[CrashLog]) -> list[tuple[CrashLog, Outcome, str]]:
        """Send logs now, on this thread; returns the outcome of each, with the reason."""
        deadline = time.monotonic() + ALL_TIMEOUT
        return [(log, *self._send(log, deadline)) for log in logs]

    def request(self, log: CrashLog, content: Content) -> dict[str, Any]:
        """Return what is sent to ask for a place."""
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
        """Return what is sent of a log; None if it is empty or gone."""
        if self._store.stat(log.log) is None:
            return None
        data = read_log(self._store, log.log)
        if self._redact is not None:
            data = self._redact(data.decode("utf-8", "replace")).encode("utf-8", "replace")
        return Content(data, hashlib.sha256(data).hexdigest()) if data else None

    def why_skipped(self, content: Content | None) -> str | None:
        """Return why a content is not sent; None if it is."""
        if content is None:
            return "empty"
        return "the same content was sent already" if content.sha256 in self._sent else None

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._condition:
                self._condition.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                log = self._busy = self._queue.popleft()
            try:
                self._send(log)
            except BaseException as error:
                self._record(log, "failed", f"internal error: {type(error).__name__}")
            finally:
                with self._condition:
                    self._busy = None

    def _send(self, log: CrashLog, before: float = math.inf) -> tuple[Outcome, str]:
        if time.monotonic() >= before:
            return self._record(log, "pending", "sending the others took too long")
        try:
            content = self.content(log)
        except OSError as error:
            return self._record(log, "failed", f"cannot be read: {error.strerror}")
        skipped = self.why_skipped(content)
        if content is None or skipped is not None:
            return self._record(log, "skipped", skipped or "", content)
        deadline = min(before, time.monotonic() + LOG_TIMEOUT)
        tries = 0
        while True:
            tries += 1
            try:
                self._send_once(log, content, deadline)
            except UploadError as error:
                if not error.again:
                    return self._record(log, "refused", str(error), content, tries)
                pause = self._pause(tries, error)
                late = time.monotonic() + pause > deadline
                if tries >= TRIES or late or self._stop.wait(pause):
                    if self._stop.is_set():
                        return "pending", str(error)  # close() has recorded it
                    return self._record(log, "failed", str(error), content, tries)
            else:
                self._sent.add(content.sha256)
                return self._record(log, "uploaded", "", content, tries)

    def _pause(self, tries: int, error: UploadError) -> float:
        # At random, as many programs may have met the same fault at the same time.
        pause = min(MAX_BACKOFF, self._backoff * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)
        return max(pause, min(error.retry_after, MAX_RETRY_AFTER))

    def _send_once(self, log: CrashLog, content: Content, deadline: float) -> None:
        body = json.dumps(self.request(log, content)).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        place = Place.of(exchange("POST", self._url, body, headers, deadline), self._url)
        if place.max_size is not None and len(content.data) > place.max_size:
            raise UploadError(f"too large: {len(content.data)} bytes of at most {place.max_size}")
        if place.expires is not None and place.expires <= time.time():
            raise UploadError("the place in the answer has expired", again=True)
        headers = {"Content-Type": CONTENT_TYPE, **place.headers}
        exchange("PUT", place.url, content.data, headers, deadline)

    def _record(
        self,
        log: CrashLog,
        outcome: Outcome,
        error: str,
        content: Content | None = None,
        tries: int = 0,
    ) -> tuple[Outcome, str]:
        """Write a line to uploads.jsonl; returns outcome and reason."""
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
            # It may contain the address, whose query can be a secret.
            record["error"] = (error if self._redact is None else self._redact(error))[:500]
        try:
            with self._store.attach(UPLOADS, append=True) as file:
                file.write(json.dumps(record).encode() + b"\n")
        except OSError as problem:
            _logger.warning("scalable: %s cannot be written: %s", UPLOADS, problem)
        return outcome, error
