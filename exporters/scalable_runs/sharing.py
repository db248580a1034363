"""One run that several programs write: who makes it, who joins it, and who closes it.

Each program writes a part of its own. Three documents belong to all of them, each made by one
program and never changed: `run.json` (whoever is first), `closed/<writer>.json` (each writer, when
it has written all), `closed.json` (whoever was the last to leave; `closed-2.json` after a program
joined later). Readers need only the parts: they say what the run is.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
from collections.abc import Mapping
from itertools import count
from time import monotonic, sleep, time
from typing import Any, Final, NamedTuple, cast

import orjson

from scalable_runs import fields, plain, schema
from scalable_runs._process import this_process
from scalable_runs.run_parts import common_status
from scalable_runs.run_reader import RunReader
from scalable_runs.schema import RunDocument, RunStatus
from scalable_runs.stores.base import joined
from scalable_runs.stores.shared import SharedStore
from scalable_runs.summary import RunSummary

#: Seconds for which a document that another program is writing is read again; see `make`.
_READ_AGAIN: Final = 5.0
#: Seconds to wait for the end of a recorder whose program is gone.
_END_WAIT: Final = 1.0
_CLOSED: Final = "closed"
#: Characters of the host's name in a writer's.
_MAX_HOST: Final = 40
#: How documents are written.
PRETTY: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_INDENT_2


#: Bytes of journals of which the last writer makes a summary: some tenths of a second.
MAX_SUMMED_UP: Final = 32 * 1024 * 1024
#: Seconds to wait for the last lines of others that have left as well.
LAST_LINES: Final = 1.0


class Closing(NamedTuple):
    """The end of a run, as its last writer found it."""

    status: RunStatus
    #: run.json of the writers that died, by their names; it may be empty.
    lost: Mapping[str, Mapping[str, Any]]


def new_writer_name() -> str:
    """Return a unique name for this program as a writer: its host, its process, random digits."""
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname()).strip("-")[:_MAX_HOST] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"


class SharedRun:
    """What a writer has to do with the run as a whole; used by one thread at a time.

    Parameters
    ----------
    store
        The run, without parts.
    writer
        Name of this writer.
    last_lines, look
        Seconds to wait for the last lines of others that have left, and between two looks.
    """

    def __init__(
        self,
        store: SharedStore,
        writer: str,
        *,
        last_lines: float = LAST_LINES,
        look: float = 0.05,
    ) -> None:
        self.writer = writer
        self.store = store
        self._last_lines = last_lines
        self._look = look
        #: Why the run was begun without the others, if it was.
        self.trouble: OSError | None = None
        #: run.json of the run as a whole.
        self.run: dict[str, Any] = {}
        self._documents: dict[str, bytes] = {}
        self._has_left = False
        self._closing: Closing | None = None

    def join(
        self, run: RunDocument, documents: Mapping[str, bytes], common: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Make the run, or join it; return its run.json.

        Parameters
        ----------
        run, documents
            run.json and the manifest's documents, as this writer would make them.
        common
            Fields of run.json that only the run as a whole has, such as `root_span_id`.

        Raises
        ------
        FileExistsError
            The run exists and has one writer.
        OSError
            It cannot be made or read.
        """
        owner = this_process(plain.iso(time()))
        recorder = {name: owner[name] for name in ("host", "pid", "boot_id")}
        own: dict[str, Any] = {
            "root_span_id": secrets.token_hex(8),
            **run,
            **common,
            "recorder": {**recorder, "heartbeat_at": owner["created_at"]},
        }
        self._make({**documents, schema.RUN: plain.dumps(own, PRETTY)})
        found = self._read(schema.RUN)
        fields.clean(found, fields.row_of(RunDocument))
        if "root_span_id" not in found:
            raise FileExistsError(
                errno.EEXIST,
                f"the run {self.store.location} exists and has one writer: give another run_id",
            )
        self.run = found
        self._documents = {**documents, schema.RUN: plain.dumps(found, PRETTY)}
        return found

    def make_again(self) -> None:
        """Make the run as it was, if somebody has removed it."""
        self._make(self._documents)

    def _make(self, documents: Mapping[str, bytes]) -> None:
        """Make the documents that are not there; the last of them makes the run."""
        names = set(self.store.names())
        if schema.RUN not in names:
            for name, data in documents.items():
                if name not in names:
                    self.store.make(name, data)

    def leave(self, status: RunStatus, finished_at: str) -> Closing | None:
        """Note that this writer has written all but its last lines; the first call counts.

        Returns
        -------
        Closing or None
            None while others write the run, or if another writer has closed it.
        """
        if self._has_left:
            return None
        self._has_left = True
        mark = {"status": status, "finished_at": finished_at}
        self.store.make(f"{_CLOSED}/{self.writer}.json", plain.dumps(mark, PRETTY))
        marked = {name.removesuffix(".json") for name in self.store.made(_CLOSED)}
        states: dict[str, RunStatus] = {}
        lost: dict[str, Mapping[str, Any]] = {}
        parts = self.store.parts()
        for name in sorted(parts.keys() - marked):
            part = RunReader(parts[name], wait=_END_WAIT, writer=name)
            if part.is_live:
                return None
            states[name] = part.status
            if part.status == "lost":
                lost[name] = part.document
        for name in marked:
            said: Any = self._read(f"{_CLOSED}/{name}.json").get("status")
            states[name] = said if said in schema.RUN_STATUSES else "lost"
        closing = Closing(common_status(list(states.values())), lost)
        if self._claims(states, closing.status, finished_at):
            self._closing = closing
        return self._closing

    def complete(self) -> None:
        """Write the summary of a run that this writer has closed, unless readers must count it.

        They must if the run is large, or if the last lines of another writer take long.
        """
        if self._closing is None:
            return
        deadline = monotonic() + self._last_lines
        while (reader := RunReader(self.store, wait=0)).is_live:
            if monotonic() > deadline:
                return
            sleep(self._look)
        if sum(map(reader.size, schema.JOURNALS)) > MAX_SUMMED_UP:
            return
        summary = RunSummary()
        for file in schema.JOURNALS:
            summary.add_all(file, reader.records(file))
        document = {**summary.document(reader.document), "run": reader.document}
        self.store.put(schema.SUMMARY, plain.dumps(document, PRETTY))

    def _claims(self, states: Mapping[str, RunStatus], status: RunStatus, finished_at: str) -> bool:
        """Whether this writer is the one that closes the run with these states."""
        document = {
            "status": status,
            "finished_at": finished_at,
            "closed_by": self.writer,
            "writers": dict(sorted(states.items())),
        }
        for number in count(1):
            name = f"{_CLOSED}.json" if number == 1 else f"{_CLOSED}-{number}.json"
            if self.store.make(name, plain.dumps(document, PRETTY)):
                return True
            if self._read(name).get("writers") == document["writers"]:
                return False
        return False

    def _read(self, name: str) -> dict[str, Any]:
        """Read a document that somebody has made, and may still be writing."""
        deadline = monotonic() + _READ_AGAIN
        while True:
            try:
                found: Any = orjson.loads(joined(self.store.read(name)))
                if isinstance(found, dict):
                    return cast("dict[str, Any]", found)
            except (ValueError, FileNotFoundError):
                pass  # a client of a file server may not see it at once
            if monotonic() > deadline:
                raise OSError(f"{name} in {self.store.location} is not a JSON object")
            sleep(0.01)
