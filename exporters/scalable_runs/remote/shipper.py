"""Brings a local run to a place of objects, while it is recorded and afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from scalable_runs import schema
from scalable_runs.plain import iso
from scalable_runs.remote.chunks import Chunk, ChunkBuilder
from scalable_runs.remote.compression import check_installed
from scalable_runs.remote.fence import Fence, Role
from scalable_runs.remote.keys import COMPRESSED, STATE, RunKeys
from scalable_runs.remote.local_files import DOCUMENTS, MAX_ATTACHMENT, LocalFiles
from scalable_runs.remote.plain_files import PlainFiles, delete_all
from scalable_runs.remote.position import Position, find_position
from scalable_runs.stores.base import Store, joined
from scalable_runs.stores.file import FileStore
from scalable_runs.stores.run_store import Object, RunStore

#: Times that a command looks again whether the run ended while it was copied.
_MAX_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class CopyState:
    """What the copy of a run lacks.

    Attributes
    ----------
    location
        The place; no secret.
    complete
        Whether the run is closed, and all of it is there in its final form.
    missing_bytes
        Bytes of lines that are not there.
    at
        When that was so.
    error
        Why; empty if the place has answered.
    """

    location: str
    complete: bool
    missing_bytes: int
    at: str
    error: str = ""


class Shipper:
    """Brings one run, or one writer's part of it, to a place; used by one thread at a time.

    What is in the place is found by listing. Each chunk is put when all before it is there, so the
    last one says how far the copy is. Repeating any step does no harm.

    Parameters
    ----------
    store
        The place.
    run
        The run's directory, or its store.
    writer
        The writer whose part it is, if the run has several.
    role
        Who ships: the run's recorder, or a command.
    compress
        Whether all files of lines are compressed at the close, and not just large ones.
    joins
        Whether the documents belong to several programs: those that are there are not replaced
        before the run is closed as a whole.

    Raises
    ------
    ImportError
        zstandard is not installed.
    ValueError
        The directory has not the name of a run.
    """

    def __init__(
        self,
        store: RunStore,
        run: Path | Store,
        *,
        run_id: str | None = None,
        writer: str | None = None,
        role: Role = "sync",
        compress: bool = False,
        joins: bool = False,
    ) -> None:
        check_installed()
        local: Store = FileStore(run) if isinstance(run, Path) else run
        self.files = LocalFiles(local)
        self.keys = RunKeys(run_id or Path(local.location).name, writer)
        self._store = store
        self._fence = Fence(store, self.keys, role)
        self._plain = PlainFiles(store, self.keys, self.files, compress=compress)
        self._role: Role = role
        self._joins = joins
        self._position: Position | None = None
        self._pending: Chunk | None = None
        #: What was put of each document and attachment: its content, or size and age.
        self._put: dict[str, Any] = {}
        #: Called with the bytes of lines that were brought since the last call.
        self.progress: Callable[[int], None] | None = None
        self._problems: dict[str, str] = {}
        #: Files that were cut here after they were copied.
        self._cut: set[str] = set()
        self._has_all = False

    @property
    def problems(self) -> list[str]:
        """Sentences about files that cannot be copied."""
        return [*self._problems.values(), *self.files.left_out.values()]

    @property
    def missing(self) -> int:
        """Bytes of lines that are not known to be in the place."""
        return (self._position or Position()).missing(self.files)

    def ship(self, *, attachments: bool = True) -> None:
        """Bring what is new; a closed run is ended by :meth:`finish`.

        Raises
        ------
        SupersededError
            Another process copies this run.
        OSError
            The place does not answer; the next call goes on where this one stopped.
        """
        self._begin()
        # Before the lines: what it says to be synced must be there when it is.
        run = self.files.document(schema.RUN)
        self._put_lines()
        self._put_others(attachments=attachments)
        if run is not None and not is_final(run) and self._put.get(schema.RUN) != run:
            self._fence.hold(self._forget)
            self._put_document(schema.RUN, run)

    def finish(self) -> bool:
        """Bring a closed run in its final form; return whether no chunk is left.

        Raises
        ------
        OSError
            The place does not answer; the next call goes on where this one stopped.
        """
        if self._role == "sync" and self.is_complete() and not self._has_chunks():
            self._has_all = True
            return True
        run = self.files.document(schema.RUN)
        if run is None or not is_final(run):
            self.ship()
            return False
        self._begin()
        if self._role == "recorder":
            # What is small and compressed is there soon; the process may not have much time.
            self._put_lines()
        ends = self._position.ends if self._position is not None else {}
        complete = self._plain.put_all(self._there(), ends, self._report)
        if not complete:
            self._put_lines()
        self._put_others()
        self._put_document(schema.SUMMARY, self.files.document(schema.SUMMARY))
        # No fence: this one is the last, whoever puts it.
        self._put_document(schema.RUN, run)
        self._has_all = True
        if complete:
            delete_all(self._store, self.keys)
        return complete

    def is_complete(self) -> bool:
        """Whether a closed run is in the place in its final form: one listing and one read."""
        run = self.files.document(schema.RUN)
        if run is None or not is_final(run):
            return False
        there = self._there()
        for name, size, _ in self.files.attachments():
            if size <= MAX_ATTACHMENT and _size(there, name) != size:
                return False
        for name in self.files.journals():
            if _size(there, name) != self.files.size(name) and name + COMPRESSED not in there:
                return False
        for name in (*DOCUMENTS, schema.SUMMARY, schema.RUN):
            data = self.files.document(name)
            if data is not None and _size(there, name) != len(data):
                return False
        return self._store.get(self.keys.files + schema.RUN) == run

    def finish_shared(self) -> None:
        """Bring what is last of a run with several writers, whose parts are there and closed."""
        self._put_document(schema.SUMMARY, self.files.document(schema.SUMMARY))
        self._has_all = True

    def state(self, error: str = "") -> CopyState:
        """Return what the copy lacks, as far as this shipper knows."""
        missing = 0 if self._has_all else self.missing
        return CopyState(self._store.location, self._has_all, missing, iso(time.time()), error)

    def note_state(self, state: CopyState) -> None:
        """Write what the copy lacks into the run's directory, for whoever lists the runs."""
        states = read_states(self.files.store)
        states[state.location] = state
        document = {place: asdict(one) for place, one in states.items()}
        with suppress(OSError), self.files.store.attach(STATE) as file:
            file.write(
                orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
            )

    # Steps

    def _begin(self) -> None:
        if self._position is None:
            if not self._fence.is_taken:
                self._fence.take()
            self._position = find_position(self._store, self.keys, self.files)
            there = self._there()
            for name, size, modified in self.files.attachments():
                if (entry := there.get(name)) and entry.size == size and entry.modified > modified:
                    self._put[name] = (size, modified)

    def _forget(self) -> None:
        """Find out again what is there: another process has put something."""
        self._position = self._pending = None
        self._put.clear()

    def _there(self) -> dict[str, Object]:
        return dict(self.keys.files_of(self._store.list(self.keys.files)))

    def _has_chunks(self) -> bool:
        # They are deleted only after each file was read back: equal sizes are not enough.
        return bool(self.keys.chunks_of(self._store.list(self.keys.chunks)))

    def _put_lines(self) -> None:
        position = self._position or Position()
        while True:
            if self._pending is None:
                self._pending = self._next_chunk(position)
            chunk = self._pending
            if chunk is None:
                return
            self._put_chunk(chunk)
            self._report(sum(chunk.ends.values()) - sum(position.ends.values()))
            position = self._position = Position(chunk.name.last + 1, chunk.ends)
            self._pending = None

    def _next_chunk(self, position: Position) -> Chunk | None:
        builder = ChunkBuilder(position.line, position.ends)
        for file in self.files.journals():
            end = position.ends.get(file, 0)
            builder.add_empty(file)
            size = self.files.size(file)
            if size < end:
                self._cut.add(file)
                self._problems[file] = (
                    f"{file} was cut or made anew after it was copied: what follows is not copied"
                )
            if size <= end or file in self._cut:
                continue
            try:
                for piece in self.files.lines(file, end):
                    builder.add(file, piece)
                    if builder.is_full:
                        return builder.build()
            except OSError as error:
                self._problems[file] = f"{file} cannot be copied: {error.strerror or error}"
        return builder.build() if builder else None

    def _put_chunk(self, chunk: Chunk) -> None:
        key = f"{self.keys.chunks}{chunk.name}"
        if self._store.create(key, chunk.data):
            return
        # It was put before, and the answer was lost. A place without links may have kept a part.
        sizes = [entry.size for entry in self._store.list(key) if entry.key == key]
        if sizes != [len(chunk.data)]:
            self._store.put(key, chunk.data)

    def _put_others(self, *, attachments: bool = True) -> None:
        for name in DOCUMENTS:
            self._put_document(name, self.files.document(name))
        if attachments:
            self._put_attachments()

    def _report(self, length: int) -> None:
        if self.progress is not None:
            self.progress(length)

    def _put_document(self, name: str, data: bytes | None) -> None:
        if data is not None and self._put.get(name) != data:
            if self._joins and name != schema.SUMMARY and not is_final(data):
                self._store.create(self.keys.files + name, data)
            else:
                self._store.put(self.keys.files + name, data)
            self._put[name] = data

    def _put_attachments(self) -> None:
        for name, size, modified in self.files.attachments():
            if self._put.get(name) == (size, modified):
                continue
            if size > MAX_ATTACHMENT:
                self._problems[name] = (
                    f"{name} is not copied: it is larger than {MAX_ATTACHMENT // 1024**2} MiB"
                )
                continue
            data = self.files.document(name)
            if data is not None:
                self._store.put(self.keys.files + name, data)
                self._put[name] = (size, modified)


def read_states(store: Store) -> dict[str, CopyState]:
    """Return what the copies of a run on this machine lack, by their place.

    It is as of the last time that somebody looked: to know it, the place must be listed.
    """
    try:
        document: Any = orjson.loads(joined(store.read(STATE)))
        return {str(place): CopyState(**state) for place, state in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def is_final(run: bytes) -> bool:
    """Whether a run.json is that of a closed run."""
    try:
        document: Any = orjson.loads(run)
    except ValueError:
        return False
    status = document.get("status") if isinstance(document, dict) else None
    return status in schema.RUN_STATUSES and status != "running"


def sync(shipper: Shipper) -> CopyState:
    """Bring all that a run has, once; see `scalable sync`.

    Raises
    ------
    OSError
        The place does not answer, or another process copies this run.
    """
    for _ in range(_MAX_ROUNDS):
        before = shipper.files.document(schema.RUN)
        if before is not None and is_final(before):
            shipper.finish()
            break
        shipper.ship()
        # If the run ended meanwhile, an older run.json may have replaced the last one.
        after = shipper.files.document(schema.RUN)
        if after is None or not is_final(after):
            break
    return shipper.state()


def _size(there: Mapping[str, Object], name: str) -> int:
    entry = there.get(name)
    return -1 if entry is None else entry.size
