"""One run that programs on several machines write, which have nothing but a place of objects.

What belongs to all of them (see :mod:`scalable_runs.sharing`) is made there, each document by one
program. Each program writes its part on its own machine, from where it is brought to the place; at
a clean close the part is removed here once all of it was verified there.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import time
from typing import Any, Final, TypeVar, cast

from scalable_runs import plain, schema
from scalable_runs._process import this_process
from scalable_runs.remote.keys import STATE, RunKeys
from scalable_runs.remote.local_files import MAX_ATTACHMENTS
from scalable_runs.remote.shipper import Shipper
from scalable_runs.remote.store import RemoteStore
from scalable_runs.schema import RunDocument, RunStatus
from scalable_runs.sharing import PRETTY, Closing, SharedRun
from scalable_runs.stores.probe import check_once
from scalable_runs.stores.run_store import RunStore
from scalable_runs.stores.shared import SharedFileStore

_T = TypeVar("_T")

#: Seconds that a program waits at its start for the place to answer.
JOIN_TIMEOUT: Final = 5.0
#: Seconds that it waits at its end, for the marks of those that have left.
LEAVE_TIMEOUT: Final = 5.0
#: Seconds in which the last lines of others that have left as well must have been brought.
_LAST_LINES: Final = 5.0
_LOOK: Final = 0.25


class SharedObjects(RemoteStore):
    """A run in a place of objects that several programs write.

    Implements :class:`~scalable_runs.stores.shared.SharedStore`; used by one thread.
    """

    def make(self, name: str, data: bytes) -> bool:
        """Create the object; whether it is ours after a lost answer is found by comparing."""
        key = self.keys.files + name
        return self._objects.create(key, data) or self._objects.get(key) == data

    def made(self, folder: str) -> set[str]:
        """List the folder."""
        prefix = f"{self.keys.files}{folder}/"
        return {entry.key[len(prefix) :] for entry in self._objects.list(prefix)}

    def put(self, name: str, data: bytes) -> None:
        """Put the object."""
        self._objects.put(self.keys.files + name, data)

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Read a document as it is now; another program may just have made it."""
        if name.endswith(".json"):
            return iter((self._objects.get(self.keys.files + name, start, length),))
        return super().read(name, start, length)

    def parts(self) -> dict[str, RemoteStore]:
        """Return the parts that are there now."""
        self._look_again()
        return super().parts()


class RunElsewhere(SharedRun):
    """What a writer has to do with a run in a place of objects; see :class:`SharedRun`.

    The recorder's thread calls it, and waits only for a bounded time; that which brings the part
    to the place calls :meth:`join_again` and :meth:`end`. `store` is what this machine has.

    Parameters
    ----------
    here
        The run's directory on this machine.
    writer
        Name of this writer.
    open_objects
        Opens the place.
    location
        Names the place for people.
    """

    def __init__(
        self,
        here: SharedFileStore,
        writer: str,
        open_objects: Callable[[], RunStore],
        location: str,
    ) -> None:
        super().__init__(here, writer)
        self._keys = RunKeys(here.path.name, writer)
        self._folder: Path = here.path
        self._open = open_objects
        self._location = location
        self._objects: RunStore | None = None
        self._lock = threading.Lock()
        self._is_joined = False
        self._left: SharedRun | None = None

    def opened(self) -> RunStore:
        """Return the place, opened once; any thread may call it."""
        with self._lock:
            if self._objects is None:
                objects = self._open()
                check_once(objects)
                self._objects = objects
            return self._objects

    def join(
        self, run: RunDocument, documents: Mapping[str, bytes], common: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Make the run there, or join it; if the place does not answer, begin it here.

        Raises
        ------
        FileExistsError
            The run exists and has one writer.
        OSError
            It cannot be made on this machine.
        """
        # A late answer must not find another span than the one that this program goes on with.
        common = {"root_span_id": secrets.token_hex(8), **common}
        try:
            found = _within(JOIN_TIMEOUT, partial(self._join_there, run, documents, common))
        except FileExistsError:
            raise
        except Exception as error:
            self.trouble = OSError(
                f"the run cannot be joined in {self._location} at present: {error}. It begins on "
                "this machine; programs elsewhere may have another trace"
            )
            return super().join(run, documents, common)
        self._is_joined = True
        self.run = found
        self._documents = {**documents, schema.RUN: plain.dumps(found, PRETTY)}
        self._make(self._documents)
        return found

    def join_again(self) -> str:
        """Join the run there if that was not possible at the start.

        Returns
        -------
        str
            A sentence if the run there has another trace; else empty.

        Raises
        ------
        OSError
            The place does not answer.
        """
        if self._is_joined or not self._documents:
            return ""
        documents = dict(self._documents)
        documents.pop(schema.RUN)
        # Its own names win: if no other program has made the run, it is as it is here.
        found = self._there().join(cast("RunDocument", {}), documents, self.run)
        self._is_joined = True
        if found.get("root_span_id") == self.run.get("root_span_id"):
            return ""
        return (
            f"another program has begun the run in {self._location} while it could not be reached "
            "from here: this program has a trace of its own"
        )

    def leave(self, status: RunStatus, finished_at: str) -> Closing | None:
        """Note there that this writer has left; see :meth:`SharedRun.leave`."""
        if self._has_left:
            return None
        self._has_left = True
        return _within(LEAVE_TIMEOUT, partial(self._leave_there, status, finished_at))

    def stay(self) -> None:
        """Leave no note: the part could not be brought to the place."""
        self._has_left = True

    def complete(self) -> None:
        """Nothing yet: see :meth:`end`."""

    def end(self, shipper: Shipper, *, keep: bool) -> None:
        """Remove the part here if all of it is there, and sum up a run that this writer closed.

        Parameters
        ----------
        shipper
            What has brought the part of a closed run.
        keep
            Whether the part stays here.
        """
        with suppress(OSError):
            if not keep and is_verified(shipper):
                remove_part(shipper, self._folder)
        with suppress(OSError):  # readers count it themselves
            if self._left is not None:
                self._left.complete()

    def _join_there(
        self, run: RunDocument, documents: Mapping[str, bytes], common: Mapping[str, Any]
    ) -> dict[str, Any]:
        there = self._there()
        # Before others can see that the run is there: who leaves must not miss this writer.
        owner = this_process(plain.iso(time()))
        recorder = {name: owner[name] for name in ("host", "pid", "boot_id")}
        seen = {**run, "recorder": {**recorder, "heartbeat_at": owner["created_at"]}}
        key = self._keys.files + schema.RUN
        is_new = self.opened().create(key, plain.dumps(seen, PRETTY))
        try:
            return there.join(run, documents, common)
        except FileExistsError:
            if is_new:
                self.opened().delete(key)
            raise

    def _leave_there(self, status: RunStatus, finished_at: str) -> Closing | None:
        there = self._there()
        self._left = there
        return there.leave(status, finished_at)

    def _there(self) -> SharedRun:
        store = SharedObjects(self.opened(), self._keys.run_id)
        return SharedRun(store, self.writer, last_lines=_LAST_LINES, look=_LOOK)


def is_verified(shipper: Shipper) -> bool:
    """Whether all files of a closed run or part are in the place, in their final form.

    Raises
    ------
    OSError
        The place does not answer.
    """
    files = shipper.files
    if shipper.problems or len(files.attachments()) >= MAX_ATTACHMENTS:
        return False
    # It is not copied.
    return files.store.stat(schema.UPLOADS) is None and shipper.is_complete()


def remove_part(shipper: Shipper, run: Path) -> None:
    """Remove a part that is in the place, and its run's directory if no other part is in it.

    Raises
    ------
    OSError
        Some of it cannot be removed.
    """
    shipper.files.store.delete()
    try:
        (run / schema.WRITERS).rmdir()
    except OSError:
        return  # another program of this machine writes the run
    for name in (schema.MANIFEST, schema.PLAN, schema.LOCK, STATE, schema.RUN):
        (run / name).unlink(missing_ok=True)
    with suppress(OSError):
        os.rmdir(run)  # noqa: PTH106


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """Return what a call returns, on a thread of its own.

    Raises
    ------
    TimeoutError
        It takes longer; it goes on until it ends.
    """
    found: list[_T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="scalable-join", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not found:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return found[0]
