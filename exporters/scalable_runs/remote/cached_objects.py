"""Reads objects of a listing, with what is kept on this machine, and several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

from scalable_runs.remote.cache import ReadCache
from scalable_runs.remote.objects import RANGE, ChangedError
from scalable_runs.stores.run_store import Object, RunStore

T = TypeVar("T")

#: Requests at a time.
_THREADS: Final = 8
#: Answers that wait for the reader of one object.
_AHEAD: Final = 3


class CachedObjects:
    """Parts of objects whose version is known from a listing. Any thread calls it.

    Parameters
    ----------
    store
        The place.
    cache
        What is kept on this machine; None: nothing.
    at_once
        Bytes that one request asks for.
    depth
        Answers that wait for the reader of an object.
    """

    def __init__(
        self, store: RunStore, cache: ReadCache | None, at_once: int = RANGE, depth: int = _AHEAD
    ) -> None:
        self.store = store
        self.at_once = at_once
        self.depth = depth
        self._cache = cache
        self._pool: ThreadPoolExecutor | None = None

    def get(self, entry: Object, start: int, length: int) -> bytes:
        """Return a part of an object.

        Raises
        ------
        ChangedError
            It has another size than in the listing.
        OSError
            It cannot be read.
        """
        length = min(length, entry.size - start)
        identity = (self.store.location, entry.key, entry.version, start, length)
        data = self._cache.get(*identity) if self._cache is not None else None
        if data is None:
            data = self.store.get(entry.key, start, length)
            if len(data) != length:
                raise ChangedError("it was replaced while it was read")
            if self._cache is not None:
                self._cache.put(data, *identity)
        return data

    def parts(self, entry: Object, start: int = 0) -> Iterator[bytes]:
        """Yield an object from `start` on; some parts are asked for in advance."""
        starts = range(start, entry.size, self.at_once)
        if len(starts) == 1:
            return iter((self.get(entry, start, self.at_once),))
        return self.ahead(lambda at: self.get(entry, at, self.at_once), starts, self.depth)

    def ahead(
        self, call: Callable[[int], T], arguments: Iterable[int], depth: int = _THREADS
    ) -> Iterator[T]:
        """Yield the results of calls in their order; up to `depth` are made at a time."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, "scalable-read")
        rest = iter(arguments)
        begun: deque[Future[T]] = deque(self._pool.submit(call, one) for one in islice(rest, depth))
        try:
            while begun:
                result = begun.popleft().result()
                begun.extend(self._pool.submit(call, one) for one in islice(rest, 1))
                yield result
        finally:
            for future in begun:
                future.cancel()
