"""Sends the program's source texts to the scheduler, once, ahead of the graphs that need them.

Dask closes the stream of a client that sends a message of an unknown name. So a request comes
first, whose failure harms nothing: a scheduler that knows it has the handler of the message.
"""

from __future__ import annotations

import threading
from typing import Any

from distributed import Client

from scalable.code.own_sources import own_sources
from scalable.code.sources import SourceText
from scalable.facts.protocol import SOURCES_OP, STREAM_OP
from scalable.instrumentation import dask_compat
from scalable.instrumentation.propagation import guard


class SourceSender:
    """Sends the texts of one client.

    :meth:`send_new` is called by the threads that send graphs, :meth:`send_first` and what is
    private on the client's event loop.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop: Any = client.loop
        self._texts = own_sources().texts
        self._lock = threading.Lock()
        #: How many texts were handed to the loop; None before there is a plugin.
        self._sent: int | None = None
        #: The stream to a scheduler that is known to have the handler.
        self._stream: Any = None

    def send_new(self) -> None:
        """Send texts that are new; the graph that is sent next arrives later."""
        texts = own_sources().gather()
        if self._sent is None or texts.added == self._sent:
            return
        with self._lock:
            before, self._sent = self._sent, texts.added
            new = _plain(before)
            if new:
                # As Dask sends a graph: what is handed to the loop first is sent first.
                self._loop.add_callback(self._send, new)

    async def send_first(self) -> None:
        """Send the texts that there are to a scheduler that has the plugin."""
        texts = own_sources().gather()
        with self._lock:
            self._sent = texts.added
        await self._request(_plain(0))

    def give_first(self) -> list[SourceText]:
        """Return the texts that there are, for a scheduler in this process."""
        with self._lock:
            self._sent = own_sources().gather().added
        self._stream = dask_compat.stream_of(self._client)
        return self._texts.since()

    def _send(self, texts: list[tuple[str, ...]]) -> None:
        try:
            stream = dask_compat.stream_of(self._client)
            if stream is not None and stream is self._stream:
                stream.send({"op": STREAM_OP, "reports": (), "sources": texts})
            else:
                # Connected again, maybe to another scheduler: it gets all texts.
                self._loop.add_callback(self._request, _plain(0))
        except Exception as error:
            guard.count("sources", error)

    async def _request(self, texts: list[tuple[str, ...]]) -> None:
        stream = dask_compat.stream_of(self._client)
        try:
            scheduler: Any = self._client.scheduler
            answer = await getattr(scheduler, SOURCES_OP)(sources=texts)
        except Exception as error:
            guard.count("sources", error)
        else:
            # Dask answers None where it has no such request: an earlier version, or no plugin.
            self._stream = stream if isinstance(answer, int) else None


def _plain(after: int) -> list[tuple[str, ...]]:
    return [tuple(text) for text in own_sources().texts.since(after)]
