"""Writes a run so that it survives a crash of the process or the machine.

- A killed process loses what was not flushed; a power cut loses what was not synced. A thread of
  the writer syncs on a timer, and at once on request.
- After the run was created nothing here raises into the application: lines that could not be
  written are counted by journal, their sequence numbers stay used, and run.json has the counts.

The store decides where the bytes go; see :mod:`scalable_runs.stores.base`.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

import orjson

from scalable_runs import journal, plain, schema
from scalable_runs._process import this_process
from scalable_runs.joining import shared_run
from scalable_runs.lines import LineBuffer
from scalable_runs.problems import LossCounter, Problem
from scalable_runs.schema import JournalMark, Owner, Record, RunDocument
from scalable_runs.sharing import SharedRun
from scalable_runs.stores.base import Found, RunGoneError, Store, joined
from scalable_runs.stores.places import Place, store_of
from scalable_runs.sync_loop import SyncLoop

__all__ = ["Found", "Problem", "RunWriter", "identity"]

#: Readers consider a remote recorder dead after 30 s without a heartbeat.
_MAX_HEARTBEAT_GAP: Final = 10.0
#: Tries to write each of the last documents.
_LAST_TRIES: Final = 3

_PRETTY: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_INDENT_2

#: Contents of summary.json, or a function that makes them of the final run.json.
Summary = Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]


def identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what distinguishes a record from others of its journal.

    A record that is made of the same facts again has the same value.
    """
    return tuple(value for name in _IDENTITY if (value := record.get(name)).__class__ in _SIMPLE)


_IDENTITY: Final = (
    *("timestamp", "event_type", "task_id", "state", "attempt", "entity_type", "entity_id"),
    *("worker_id", "worker", "failure_class", "span_id", "name", "body", "artifact_name"),
)
_SIMPLE: Final = frozenset({str, int})


class RunWriter:
    """The only writer of a run.

    Any thread may call it; `append`, `request_sync` and `update_run` never wait for the store,
    unless much is buffered. A daemon thread syncs and writes run.json. In a forked child every
    method does nothing: the run belongs to the process that created it.

    Long because its methods are public, and half of its lines describe them.

    Attributes
    ----------
    store
        The store of the run.
    path
        The run's directory, if it has one.
    run_id
        Its id.
    shared
        The run as a whole, if several programs write it; `store` is this writer's part then.
    losses, uncertain, errors
        Counts, as in :class:`~scalable_runs.problems.LossCounter`.
    """

    @classmethod
    def create(
        cls,
        runs_dir: Place | Store,
        run: RunDocument,
        *,
        manifest: str = "",
        plan: Mapping[str, Any] | None = None,
        lock: str = "",
        sync_interval: float = 5.0,
        on_problem: Callable[[Problem], None] | None = None,
        program: int | None = None,
        writer: str | None = None,
        common: Mapping[str, Any] | None = None,
    ) -> RunWriter:
        """Create a run, with every document but summary.json, and start writing.

        Where several programs may write a run, this one joins it; the first makes it.

        Parameters
        ----------
        runs_dir
            The place of runs, see :func:`~scalable_runs.stores.places.spec_of`: mostly a
            directory, created if missing; or the store of this run.
        run
            run.json; its `run_id` names the directory.
        manifest, plan, lock
            Contents of manifest.yaml, plan.json and manifest.lock.
        sync_interval
            Seconds between two syncs.
        on_problem
            Called once for each kind of problem, on the thread that found it, without a lock.
        program
            Id of the process that the run belongs to, if this process only writes it: the run is
            lost when either of them has ended. Default: this process.
        writer
            Name of this writer in its records, if the run has several; by default a new one.
        common
            Fields of run.json of such a run as a whole that differ from those of `run`.

        Raises
        ------
        ValueError
            The run id or the writer is not a plain file name
            (see :data:`scalable_runs.schema.RUN_ID_PATTERN`).
        FileExistsError
            The run exists.
        OSError
            The run cannot be created; nothing is left behind.
        """
        run_id = str(run.get("run_id"))
        _check_name(run_id, "run id")
        if writer is not None:
            _check_name(writer, "writer")
        if sync_interval <= 0:
            raise ValueError(f"sync_interval must be above 0, not {sync_interval!r}")
        documents = {
            schema.MANIFEST: _utf8(manifest),
            schema.PLAN: plain.dumps(dict(plan or {}), _PRETTY),
            schema.LOCK: _utf8(lock),
        }
        problems = LossCounter(on_problem)
        shared = shared_run(runs_dir, run_id, writer)
        if shared is not None:
            writer = shared.writer
            joined_run = shared.join(run, documents, common or {})
            if shared.trouble is not None:
                problems.failed("join", "", shared.trouble)
                problems.report()
            run = cast("RunDocument", {**run, "trace_id": joined_run.get("trace_id", "")})
        store = store_of(runs_dir, run_id, writer)
        made = cls(store, dict(run), documents, problems, sync_interval, program, writer)
        made.shared = shared
        made._create()
        made._lines.exists = True
        made._loop.start()
        return made

    @classmethod
    def resume(
        cls,
        runs_dir: Place | Store,
        run: RunDocument,
        found: Mapping[str, Found],
        *,
        sync_interval: float = 5.0,
        on_problem: Callable[[Problem], None] | None = None,
        program: int | None = None,
        writer: str | None = None,
    ) -> RunWriter:
        """Continue a run whose writer has died, in new files (`tasks.1.jsonl`).

        Parameters
        ----------
        run
            run.json of the dead writer; its counts of losses and errors are kept.
        found
            The contents of each journal.
        runs_dir, sync_interval, on_problem, program, writer
            As for :meth:`create`.

        Raises
        ------
        OSError
            The run cannot be opened or written.
        """
        run_id = str(run.get("run_id"))
        shared = shared_run(runs_dir, run_id, writer)
        store = store_of(runs_dir, run_id, writer)
        left: dict[str, Any] = dict(run)
        telemetry: Mapping[str, Any] = left.pop("telemetry", None) or {}
        marks: Mapping[str, JournalMark] = left.pop("journal", None) or {}
        problems = LossCounter(on_problem)
        problems.continue_from(telemetry, journal.NAMES)
        made = cls(store, left, _documents_of(store), problems, sync_interval, program, writer)
        made.shared = shared
        for file, there in found.items():
            made._lines.continue_after(file, there)
        made._marks = {
            name: mark for name, mark in marks.items() if journal.segment_of(name)[0] in found
        }
        store.reopen(found, made._marks, problems)
        made._lines.exists = True
        store.replace(schema.OWNER, plain.dumps(made.owner, _PRETTY))
        made._loop.start()
        made.request_sync()
        return made

    def __init__(
        self,
        store: Store,
        run: dict[str, Any],
        documents: dict[str, bytes],
        problems: LossCounter,
        sync_interval: float,
        program: int | None,
        writer: str | None,
    ) -> None:
        """Use :meth:`create`."""
        self.store = store
        self.run_id = str(run["run_id"])
        self.path = Path(store.location)
        #: The run as a whole, if several programs write it.
        self.shared: SharedRun | None = None
        #: Existing lines that will be appended again, by journal and :func:`identity`.
        self.written: dict[str, Counter[Any]] = {}
        self._pid = os.getpid()
        self._run = run
        self._documents = documents
        self._problems = problems
        self.losses = problems.losses
        self.uncertain = problems.uncertain
        self.errors = problems.errors
        #: The process that the run belongs to.
        self.owner: Owner = this_process(plain.iso(time.time()), program)
        head = journal.head_of(self.run_id, writer)
        self._lines = LineBuffer(store, head, problems, self._create)
        self._marks: Mapping[str, JournalMark] = {}
        #: Guards the changes by the application.
        self._lock = threading.Lock()
        self._summary: Summary | None = None
        self._is_closing = False
        interval = min(sync_interval, _MAX_HEARTBEAT_GAP)
        name = f"scalable-runs-sync-{self.run_id[-8:]}"
        self._loop = SyncLoop(name, interval, self._sync, self._finish)

    @property
    def run_store(self) -> Store:
        """The store of the run as a whole."""
        return self.store if self.shared is None else self.shared.store

    def __repr__(self) -> str:
        state = "closed" if self._lines.is_closed else "open"
        return f"<{type(self).__name__} {self.run_id} {state}, {sum(self.losses.values())} lost>"

    # Called by the application

    def append(self, file: str, records: Iterable[Record]) -> int:
        """Append records to a journal, in this order; `schema_version`, `run_id`, `seq` are added.

        Parameters
        ----------
        file
            One of :data:`scalable_runs.schema.JOURNALS` or :data:`~scalable_runs.schema.SIGNALS`.
        records
            Records with at least `event_type` and `timestamp`; encoded before this returns.

        Returns
        -------
        int
            The number of accepted records; the others are counted in :attr:`losses`.

        Raises
        ------
        ValueError
            There is no such journal.
        """
        if os.getpid() != self._pid:
            return 0
        taken = self._lines.append(file, records)
        self._problems.report()
        return taken

    def unwritten(self, file: str, records: list[Record]) -> list[Record]:
        """Return the records that are not in :attr:`written`."""
        written = self.written.get(file)
        if not written:
            return records
        return [record for record in records if not _take(written, identity(record))]

    def last_numbers(self) -> dict[str, int]:
        """Return the last `seq` given out for each journal."""
        return self._lines.last_numbers()

    def flush(self) -> None:
        """Pass every buffered line to the store: it then survives the death of this process.

        Lines that cannot be written are kept for the next flush, up to 16 MiB.
        """
        if os.getpid() != self._pid:
            return
        self._lines.flush()
        self._problems.report()

    def request_sync(self) -> None:
        """Request a sync now (for a failure, a lost worker), without waiting for it."""
        if os.getpid() == self._pid:
            self._loop.request()

    def sync(self, timeout: float | None = None) -> bool:
        """Flush, and wait until everything appended before is durable and marked in run.json.

        Parameters
        ----------
        timeout
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            False if it failed or took longer.
        """
        if os.getpid() != self._pid or self._lines.is_closed:
            return False
        return self._loop.wait(timeout)

    def update_run(self, *, urgent: bool = False, **changes: Any) -> None:
        """Change fields of run.json; they are written at the next sync.

        Parameters
        ----------
        urgent
            Request that sync now.
        **changes
            Fields and their new values. `telemetry` has the caller's own counts; the writer's are
            added to them.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._run.update(changes)
        if urgent:
            self.request_sync()

    def field(self, name: str) -> Any:
        """Return a field of run.json as it will be written next; None if there is none."""
        with self._lock:
            return self._run.get(name)

    def count_error(self, kind: str, message: str, file: str = "") -> None:
        """Count a problem of the caller among this writer's, and report the first of its kind.

        Parameters
        ----------
        kind
            Name of the counter, such as `encode:TypeError`.
        message
            One sentence for a person.
        file
            The file that is incomplete because of it.
        """
        if os.getpid() != self._pid:
            return
        self._problems.note(kind, file, message)
        self._problems.report()

    def close(
        self, summary: Summary | None = None, *, timeout: float = 10.0, **changes: Any
    ) -> None:
        """Write what is left, sync, and replace summary.json and run.json a last time.

        The second call and later ones do nothing.

        Parameters
        ----------
        summary
            Contents of summary.json, or a function that makes them of the final run.json; its
            `run` is always the final run.json. Without it no summary.json is written: the reader
            computes one.
        timeout
            Seconds to wait for a store that hangs; the daemon thread continues to try.
        **changes
            Last changes of run.json, such as `status` and `finished_at`.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
            self._run.update(changes)
            self._summary = summary
        if not self._loop.close(timeout):
            message = f"the disk did not answer within {timeout:g} s"
            self._problems.note("close:timeout", "", message)
        self._problems.report()

    def _create(self) -> None:
        journals = self._lines.journals()
        self._marks = journal.empty_marks(journals)
        documents = {
            schema.OWNER: plain.dumps(self.owner, _PRETTY),
            **self._documents,
            schema.RUN: plain.dumps(self._run_document(), _PRETTY),
        }
        if self.shared is not None:
            self.shared.make_again()
        self.store.create(documents, journals, self._problems)

    # Called on the sync loop's thread

    def _guarded(self, step: Callable[[], object]) -> bool:
        """Count and report what a step raises, so that the thread continues."""
        try:
            return bool(step())
        except Exception as error:
            kind = f"internal:{type(error).__name__}"
            self._problems.note(kind, "", f"{type(error).__name__} while syncing: {error}")
            return False

    def _sync(self) -> bool:
        good = self._guarded(self._sync_journals) and self._guarded(self._replace_run)
        self._problems.report()
        return good

    def _sync_journals(self) -> bool:
        gone = False
        for _ in range(2):
            self._lines.flush(gone=gone)
            if not self._lines.exists:
                break
            try:
                synced = self.store.sync()
            except RunGoneError:
                gone = True
            except OSError as error:
                self._problems.failed("sync", "", error)
                break
            else:
                self._marks = synced.marks
                return synced.complete and not self._lines.has_backlog()
        return False

    def _replace_run(self) -> bool:
        return self._replace(schema.RUN, self._run_document())

    def _replace(self, name: str, document: Mapping[str, Any]) -> bool:
        """Replace a document; at the end of the run with several tries."""
        data = plain.dumps(document, _PRETTY)
        for _ in range(_LAST_TRIES if self._is_closing else 1):
            if not self._lines.exists:
                return False
            try:
                self.store.replace(name, data)
            except OSError as error:
                self._problems.failed("replace", name, error)
            else:
                return True
        return False

    def _run_document(self) -> dict[str, Any]:
        owner = self.owner
        with self._lock:
            run = dict(self._run)
        run["recorder"] = {
            **{name: owner[name] for name in ("host", "pid", "boot_id")},
            "heartbeat_at": plain.iso(time.time()),
        }
        run["telemetry"] = self._problems.telemetry(cast("Any", run.get("telemetry") or {}))
        run["journal"] = dict(self._marks)
        return run

    def _finish(self) -> None:
        """Do the last sync, on the thread if it runs, which a store that hangs may block."""
        self._lines.is_closed = True
        for step in (
            self._sync_journals,
            self.store.seal,
            self._lines.lose_rest,
            self._write_summary,
            self._replace_run,
            self.store.close,
            self._leave,
        ):
            self._guarded(step)
        self._problems.report()

    def _leave(self) -> None:
        """The part is complete: close the run if nobody else writes it."""
        status = self._run.get("status")
        if self.shared is None or status not in schema.RUN_STATUSES or status == "running":
            return
        try:
            self.shared.leave(status, str(self._run.get("finished_at") or plain.iso(time.time())))
            self.shared.complete()
        except OSError as error:
            # The part is complete all the same, and readers need nothing else.
            self._problems.failed("leave", "", error)

    def _write_summary(self) -> None:
        if self._summary is None:
            return
        run = self._run_document()
        summary = self._summary(run) if callable(self._summary) else self._summary
        self._replace(schema.SUMMARY, {"run": run, **summary} | {"run": run})


def _check_name(name: str, what: str) -> None:
    if schema.RUN_ID_PATTERN.fullmatch(name) is None:
        raise ValueError(
            f"not a {what}: {name!r}; allowed are up to 128 letters, digits, '.', '_' and "
            "'-', the first a letter or a digit"
        )


def _take(counts: Counter[Any], key: Any) -> bool:
    if counts[key] <= 0:
        return False
    counts[key] -= 1
    return True


def _documents_of(store: Store) -> dict[str, bytes]:
    documents: dict[str, bytes] = {}
    for name in (schema.MANIFEST, schema.PLAN, schema.LOCK):
        with suppress(OSError):
            documents[name] = joined(store.read(name))
    return documents


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
