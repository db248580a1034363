"""Sources of a recorder's facts: a scheduler plugin in this process, or one behind an RPC."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from time import monotonic, time
from typing import Any, Final

from distributed.comm.addressing import parse_host_port
from distributed.core import rpc

from scalable import facts
from scalable.facts import Batch
from scalable.facts.protocol import GRAPHS_UNSEEN, PULL_OP
from scalable.instrumentation.fact_buffer import ANSWER_BYTES
from scalable.instrumentation.hub import NO_SUCH_RUN
from scalable.instrumentation.scheduler_plugin import ScalableSchedulerPlugin

#: Seconds to wait for a connection; a scheduler that refuses connections for so long is gone.
CONNECT_TIMEOUT: Final = 1.5
#: Seconds to wait for an answer, and for one that holds a single fact.
TIMEOUTS: Final = (2.0, 4.0)
#: Bytes to ask for at first, and at least: below that one fact is asked for.
FIRST_SIZE: Final = 128 * 2**10
MIN_SIZE: Final = 16 * 2**10
#: Seconds after which a graph that the scheduler has not received counts as missing.
UNSEEN_AFTER: Final = 1.0
#: Consecutive late answers to a request for one fact before that fact is skipped.
MAX_LATES: Final = 2
#: The first protocol whose answers are bounded in bytes; for older ones, the bytes of a typical
#: fact.
SIZE_SINCE: Final = 2
TYPICAL_FACT: Final = 512


class LateError(ConnectionError):
    """The scheduler did not answer in time: it may be busy, or the network slow."""


class SourceGoneError(ConnectionRefusedError):
    """The scheduler has refused connections for a while, or does not know the run."""


class Pace:
    """How much to ask for at once, and how long to wait for it; used by the recorder's thread.

    After a late answer less is asked for, down to a single fact, for which the wait is longer.
    After an answer that was quick and full more is asked for.
    """

    def __init__(self) -> None:
        #: Bytes to ask for.
        self.size = FIRST_SIZE
        #: Seconds to wait.
        self.timeout = TIMEOUTS[0]
        #: A single fact was late several times: the next request asks for no facts, to find out
        #: whether the fact or the scheduler is the cause.
        self.is_stuck = False
        self._lates = 0
        self._was_stuck = False

    def in_time(self, seconds: float, *, full: bool) -> None:
        """An answer came after `seconds`; `full` if there is more."""
        self._lates = 0
        self._was_stuck = False
        self.timeout = TIMEOUTS[0]
        if seconds > TIMEOUTS[0] / 2:
            self.size = max(1, self.size // 2)
        elif full and seconds < TIMEOUTS[0] / 8:
            self.size = min(ANSWER_BYTES, max(MIN_SIZE, 2 * self.size))

    def late(self) -> bool:
        """No answer came; returns whether to skip the next fact."""
        if self.is_stuck:
            self.is_stuck = False  # the scheduler is the cause
            self._was_stuck = False
            self._lates = 0
        elif self._was_stuck:
            # It answers a request for no facts, but not one for this fact.
            self._was_stuck = False
            self._lates = 0
            return True
        elif self.size > 1:
            self.size = self.size // 4 if self.size > MIN_SIZE else 1
        else:
            self.timeout = TIMEOUTS[1]
            self._lates += 1
            self.is_stuck = self._was_stuck = self._lates >= MAX_LATES
        return False


class GraphCount:
    """Counts the graphs that a client sends, to compare them with those that were received.

    :meth:`add` is called by the threads that send, :meth:`missing` by the recorder's.
    """

    def __init__(self) -> None:
        #: True once the scheduler has the plugin.
        self.is_counting = False
        self._lock = threading.Lock()
        self._count = 0
        self._behind_since: float | None = None

    def add(self) -> None:
        """A graph was sent."""
        if self.is_counting:
            with self._lock:
                self._count += 1

    def missing(self, received: int) -> int:
        """How many have been missing for :data:`UNSEEN_AFTER`, longer than a message takes."""
        missing = self._count - received
        if missing <= 0:
            self._behind_since = None
            return 0
        now = monotonic()
        if self._behind_since is None:
            self._behind_since = now
        return missing if now - self._behind_since >= UNSEEN_AFTER else 0


class NoSource:
    """Has no facts: a session that did not start has no cluster."""

    def pull(self, after: int, limit: int, timeout: float) -> Batch:
        """Return an empty batch."""
        return Batch([], after, False, 0, {}, time())

    def close(self) -> None:
        """Nothing to release."""


class LocalSource:
    """Pulls from the plugin of a scheduler in this process, without its event loop."""

    def __init__(self, plugin: ScalableSchedulerPlugin, sent: GraphCount) -> None:
        self._plugin = plugin
        self._sent = sent

    def pull(self, after: int, limit: int, timeout: float) -> Batch:
        """Facts from number `after` on, at once."""
        return _batch(self._plugin.pull(after, limit), self._sent)

    def close(self) -> None:
        """Nothing to release: the plugin belongs to the scheduler."""


class RemoteSource:
    """Pulls over a connection and an event loop of the recorder's thread.

    The client's own loop may be blocked by the user, or closed before the run is.
    `connection_args` are the client's arguments for TLS.
    """

    def __init__(
        self,
        address: str,
        connection_args: dict[str, Any],
        run: str,
        sent: GraphCount | None = None,
    ) -> None:
        self._sent = sent or GraphCount()
        self._address = address
        self._connection_args = connection_args
        self._run = run
        #: Set once the scheduler has the plugin: before that there is nothing to pull.
        self.registered = threading.Event()
        self._runner: asyncio.Runner | None = None
        self._rpc: Any = None
        self._pace = Pace()
        #: The scheduler's protocol, known from its first answer.
        self._protocol: int | None = None
        #: Facts that were skipped, and counts of what could not be read.
        self._left_out = 0
        self._unread: Counter[str] = Counter()
        #: Of the last answer.
        self._dropped = 0
        self._errors: dict[str, int] = {}
        #: The scheduler's clock minus this process's, as of the last answer.
        self._ahead = 0.0

    def pull(self, after: int, limit: int, timeout: float) -> Batch:
        """Facts from number `after` on; see :class:`~scalable.facts.FactSource`."""
        if not self.registered.is_set():
            return Batch([], after, False, 0, {}, time())
        pace = self._pace
        # The first request must be valid in every protocol.
        size = min(pace.size, FIRST_SIZE) if self._protocol is None else pace.size
        if pace.is_stuck:
            # If the scheduler answers this, the next fact is the cause.
            size = 0
        began = monotonic()
        try:
            answer = self._answer(after, limit, size, min(timeout, pace.timeout))
        except LateError:
            if pace.late():
                self._left_out += 1
                now = time() + self._ahead
                return Batch([], after + 1, True, self._dropped, self._errors, now)
            raise
        batch = self._batch(answer)
        if not pace.is_stuck:
            pace.in_time(monotonic() - began, full=batch.more)
        pace.is_stuck = False
        return batch

    def _answer(self, after: int, limit: int, size: int, timeout: float) -> dict[str, Any]:
        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            answer = self._runner.run(self._ask(after, limit, size, timeout))
        except OSError as error:
            gone = _is_refusal(error) or (_is_no_connection(error) and _is_refused(self._address))
            kind = SourceGoneError if gone else LateError
            raise kind(f"{self._address}: {error or type(error).__name__}") from error
        if "facts" not in answer:
            reason = answer.get("error", "no answer")
            kind = SourceGoneError if reason == NO_SUCH_RUN else LateError
            raise kind(f"{self._address}: {reason}")
        return answer

    async def _ask(self, after: int, limit: int, size: int, timeout: float) -> dict[str, Any]:
        if self._rpc is None:
            # Dask retries for this long, whatever the reason.
            self._rpc = rpc(
                self._address, timeout=CONNECT_TIMEOUT, connection_args=self._connection_args
            )
        request: dict[str, Any] = {"run": self._run, "after": after}
        if (self._protocol or 1) < SIZE_SINCE:
            request["limit"] = max(1, min(limit, size // TYPICAL_FACT))
        else:
            request |= {"limit": limit, "size": size, "protocol": facts.PROTOCOL}
        return await asyncio.wait_for(getattr(self._rpc, PULL_OP)(**request), timeout)

    def _batch(self, answer: dict[str, Any]) -> Batch:
        self._protocol = protocol = answer.get("protocol", 1)
        if not facts.are_compatible(protocol, answer.get("oldest", 1)):
            version = str(answer.get("version", "an unknown version"))[:40]
            self._unread[f"protocol:scheduler {version}, protocol {str(protocol)[:20]}"] = 1
        batch = _batch(answer, self._sent, self._unread)
        self._dropped = batch.dropped + self._left_out
        self._errors = batch.errors
        self._ahead = batch.now - time()
        return batch._replace(dropped=self._dropped)

    def close(self) -> None:
        """Close the connection and the loop."""
        if self._runner is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._runner.run(self._close_rpc())
            self._runner.close()
            self._runner = None

    async def _close_rpc(self) -> None:
        if self._rpc is not None:
            await self._rpc.close_rpc()
            self._rpc = None


def _is_refusal(error: BaseException | None) -> bool:
    """Whether nothing listens at the address; Dask wraps that error several times."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_no_connection(error: OSError) -> bool:
    """Whether no connection was made in time; Dask reports only why the last attempt failed."""
    return type(error) is OSError


def _is_refused(address: str) -> bool:
    try:
        socket.create_connection(parse_host_port(address.rpartition("://")[2]), 0.5).close()
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError):
        pass
    return False


def _batch(answer: dict[str, Any], sent: GraphCount, unread: Counter[str] | None = None) -> Batch:
    """The batch of an answer; `unread` counts what cannot be read, over all answers."""
    errors = Counter({str(place): int(count) for place, count in answer["errors"].items()})
    # Older versions do not count graphs.
    if "graphs" in answer and (missing := sent.missing(int(answer["graphs"]))):
        errors[GRAPHS_UNSEEN] = missing
    decoded = facts.decode(answer["facts"], unread)
    return Batch(
        decoded,
        int(answer["next"]),
        bool(answer["more"]),
        int(answer["dropped"]),
        dict(errors + (unread or Counter())),
        float(answer["now"]),
    )
