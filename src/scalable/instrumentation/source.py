"""Where a recorder gets its facts: the plugin in this process, or one behind Dask's RPC."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from time import time
from typing import Any, Final, Protocol

from distributed.core import rpc

from scalable import facts
from scalable.facts import PULL_OP, Batch
from scalable.instrumentation.hub import NO_SUCH_RUN
from scalable.instrumentation.scheduler_plugin import ScalableSchedulerPlugin

#: Seconds within which a connection to the scheduler must be made; one that refuses connections
#: for so long is gone.
CONNECT_TIMEOUT: Final = 1.5


class LateError(ConnectionError):
    """The scheduler did not answer in time: it may be busy, or the link slow."""


class SourceGoneError(ConnectionRefusedError):
    """The scheduler has refused connections for a while, or knows nothing of the run."""


class Source(Protocol):
    """What the recorder's thread pulls from; every method is called by that thread."""

    def pull(self, after: int, limit: int, timeout: float) -> Batch:
        """Facts from number `after` on, within `timeout` seconds.

        Raises
        ------
        LateError, SourceGoneError
            There is no answer.
        """
        ...

    def close(self) -> None:
        """Release what the source holds."""
        ...


class NoSource:
    """There is no cluster, and nothing to pull: a session that did not start."""

    def pull(self, after: int, limit: int, timeout: float) -> Batch:
        """Nothing."""
        return Batch([], after, False, 0, {}, time())

    def close(self) -> None:
        """Nothing to release."""


class LocalSource:
    """Reads the plugin of a scheduler in this process; its event loop takes no part."""

    def __init__(self, plugin: ScalableSchedulerPlugin) -> None:
        self._plugin = plugin

    def pull(self, after: int, limit: int, timeout: float) -> Batch:
        """Facts from number `after` on, at once."""
        return _batch(self._plugin.pull(after, limit))

    def close(self) -> None:
        """Nothing to release: the plugin belongs to the scheduler."""


class RemoteSource:
    """Asks a scheduler elsewhere, over a connection and an event loop of the recorder's thread.

    The client's own loop may be the user's, and blocked, or gone before the run is closed.

    Parameters
    ----------
    address : str
        Address of the scheduler.
    connection_args : dict
        Dask's arguments for TLS, as the client has them.
    run : str
        Id of the run.

    Attributes
    ----------
    registered : threading.Event
        Set by the client once the scheduler has the plugin: before that there is nothing to ask.
    """

    def __init__(self, address: str, connection_args: dict[str, Any], run: str) -> None:
        self._address = address
        self._connection_args = connection_args
        self._run = run
        self.registered = threading.Event()
        self._runner: asyncio.Runner | None = None
        self._rpc: Any = None

    def pull(self, after: int, limit: int, timeout: float) -> Batch:
        """Facts from number `after` on; see :class:`Source`."""
        if not self.registered.is_set():
            return Batch([], after, False, 0, {}, time())
        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            answer = self._runner.run(self._ask(after, limit, timeout))
        except OSError as error:
            kind = SourceGoneError if _is_refusal(error) else LateError
            raise kind(f"{self._address}: {error or type(error).__name__}") from error
        if "facts" not in answer:
            said = answer.get("error", "no answer")
            kind = SourceGoneError if said == NO_SUCH_RUN else LateError
            raise kind(f"{self._address}: {said}")
        return _batch(answer)

    async def _ask(self, after: int, limit: int, timeout: float) -> dict[str, Any]:
        if self._rpc is None:
            # Dask tries again and again for so long, whatever the reason, and tells it then.
            self._rpc = rpc(
                self._address, timeout=CONNECT_TIMEOUT, connection_args=self._connection_args
            )
        call = getattr(self._rpc, PULL_OP)
        return await asyncio.wait_for(call(run=self._run, after=after, limit=limit), timeout)

    def close(self) -> None:
        """Close the connection and the loop."""
        if self._runner is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._runner.run(self._hang_up())
            self._runner.close()
            self._runner = None

    async def _hang_up(self) -> None:
        if self._rpc is not None:
            await self._rpc.close_rpc()
            self._rpc = None


def _is_refusal(error: BaseException | None) -> bool:
    """Nobody listens at the address any more; Dask wraps that several times."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _batch(answer: dict[str, Any]) -> Batch:
    return Batch(
        facts.decode(answer["facts"]),
        int(answer["next"]),
        bool(answer["more"]),
        int(answer["dropped"]),
        {str(place): int(count) for place, count in answer["errors"].items()},
        float(answer["now"]),
    )
