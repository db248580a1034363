"""What a writer and a reader of a run need of the place where its bytes live.

A run consists of documents (run.json, …), which are replaced as a whole, of journals, to which
whole lines are appended, and of attachments. A store moves their bytes and knows no record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from scalable_runs.problems import LossCounter
from scalable_runs.schema import JournalMark


class Entry(NamedTuple):
    """A file of a run.

    Attributes
    ----------
    size
        In bytes.
    modified
        When it was last written, in seconds since the epoch.
    """

    size: int
    modified: float


class Hole(NamedTuple):
    """NUL bytes that were never written: a part of a sparse file, which is not read."""

    length: int


class Found(NamedTuple):
    """What a writer that died has left of one journal.

    Attributes
    ----------
    last
        Number of the last line that is there.
    given_out
        Last number that is known to have been given out: the lines between were lost.
    lines
        How many lines there are.
    """

    last: int
    given_out: int
    lines: int


class Synced(NamedTuple):
    """What a sync achieved.

    Attributes
    ----------
    marks
        What is durable now, by file name.
    complete
        Whether that is everything that was appended before.
    """

    marks: Mapping[str, JournalMark]
    complete: bool


class OpenError(OSError):
    """A journal cannot be opened; nothing was appended."""


class RunGoneError(OSError):
    """The run was removed while it was written; :meth:`Store.create` makes it again.

    The store has counted the lines that were lost with it.
    """


def is_inside(name: str) -> bool:
    """Whether a name is that of a file in a run: relative, and leading nowhere else."""
    parts = name.split("/")
    return "\0" not in name and not {"", ".", ".."}.intersection(parts)


def joined(blocks: Iterable[bytes | Hole], limit: int = 64 * 1024 * 1024) -> bytes:
    """Join the blocks of a document or attachment.

    Raises
    ------
    OSError
        They have more than `limit` bytes.
    """
    parts: list[bytes] = []
    size = 0
    for block in blocks:
        size += block.length if isinstance(block, Hole) else len(block)
        if size > limit:
            raise OSError(f"it is larger than {limit // 1024**2} MiB")
        parts.append(bytes(block.length) if isinstance(block, Hole) else block)
    return b"".join(parts)


class Store(Protocol):
    """The place of one run.

    *Writing.* One process writes a run. Its writer calls :meth:`create` (or :meth:`reopen`) and
    :meth:`append` on one thread at a time, and the other verbs, until :meth:`close`, on one other
    thread: :meth:`sync` may take long, and must not make :meth:`append` wait.

    *Durability.* What :meth:`append` took survives the death of the process; what :meth:`sync`
    has marked survives that of the machine. A document is old or new at any moment, never mixed.

    *Reading.* Any process reads at any time, also a run that is being written. Names come from
    damaged runs too: a store never leaves its place for one.

    *Errors.* Every method may raise OSError, and nothing else. The writer counts it and tries
    again later. A store that knows more precisely what was lost counts that in its
    :class:`~scalable_runs.problems.LossCounter`.
    """

    #: Names the place for people; its last part begins with the run's id. Of a file store the path
    #: of the run's directory.
    location: str

    @property
    def directory(self) -> Path | None:
        """The run's directory on this machine, if it has one."""
        ...

    # Writing

    def create(
        self, documents: Mapping[str, bytes], journals: Mapping[str, int], losses: LossCounter
    ) -> None:
        """Make the run, durably: all of it or nothing.

        Also makes again a run that was removed while this store wrote it, and releases what it
        held of that.

        Parameters
        ----------
        documents
            Contents by name. The last of them appears last: with it the run exists.
        journals
            Journals that exist from the beginning, and the last `seq` that each gave out.
            Others are made when something is appended to them.
        losses
            Where to count what is lost.

        Raises
        ------
        FileExistsError
            The run exists.
        OSError
            It cannot be made; nothing is left behind.
        """
        ...

    def reopen(
        self, found: Mapping[str, Found], marks: Mapping[str, JournalMark], losses: LossCounter
    ) -> None:
        """Go on with a run whose writer has died, in new segments.

        Parameters
        ----------
        found
            What is there of each journal.
        marks
            What run.json says was synced, by file.
        losses
            Where to count what is lost.
        """
        ...

    def append(self, journal: str, lines: bytes) -> int:
        """Take whole lines at the end of a journal, as `write(2)` takes bytes.

        Returns
        -------
        int
            How many bytes were taken, whole lines. If they are not all, the next call for this
            journal begins with the rest.

        Raises
        ------
        OpenError
            The journal cannot be opened.
        RunGoneError
            The run was removed.
        OSError
            No line was taken. The next call for this journal begins with the same lines.
        """
        ...

    def sync(self) -> Synced:
        """Make durable what was appended before.

        Lines of which it is not known whether they are durable, after an error, are counted in
        `LossCounter.uncertain`; the store continues in a new segment.

        Raises
        ------
        RunGoneError
            The run was removed.
        OSError
            Nothing more is durable than before.
        """
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Replace a document, or make it, durably.

        Raises
        ------
        OSError
            The document is as it was before.
        """
        ...

    def seal(self) -> None:
        """End the journals: nothing more is appended; only the last documents follow."""
        ...

    def close(self) -> None:
        """Release what the writer held. Further calls do nothing."""
        ...

    def delete(self) -> None:
        """Remove the run with all that is in it."""
        ...

    def attach(self, name: str, *, append: bool = False) -> AbstractContextManager[BinaryIO]:
        """Open an attachment to be written; any process and thread may.

        Parameters
        ----------
        name
            Its name in the run, such as `logs/tcp-127.0.0.1-40001/stderr.log`.
        append
            Add to its end. Otherwise it is replaced when the block ends without an exception,
            and left alone when it does not.
        """
        ...

    def link(self, name: str, path: Path) -> bool:
        """Give a file of this host a second name in the run: what is written to it is there too.

        Returns
        -------
        bool
            False if the store cannot do that, or the name is taken.
        """
        ...

    def detach(self, name: str) -> None:
        """Remove an attachment, if there is one."""
        ...

    # Reading

    def names(self) -> Iterable[str]:
        """Return the names of documents, segments and attachments that are not in a folder.

        There are none if the run does not exist or cannot be read.
        """
        ...

    def segments(self) -> Mapping[str, list[str]]:
        """Return the names of each journal's files, in the order they were written."""
        ...

    def stat(self, name: str) -> Entry | None:
        """Return size and age of a document, segment or attachment; None if there is none."""
        ...

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes | Hole]:
        """Yield the content of a document, segment or attachment in blocks of bounded size.

        Parameters
        ----------
        name
            Its name.
        start
            Bytes to skip.
        length
            Bytes to read at most, though a hole may be longer; None: to the end.

        Raises
        ------
        OSError
            It cannot be read. FileNotFoundError: there is none.
        """
        ...

    def parts(self) -> Mapping[str, Store]:
        """Return the parts of a run that several programs write: each writer's store, by its name.

        A part is a run with one writer; its files are in :data:`scalable_runs.schema.WRITERS` of
        the run. There are none if the run has one writer, or cannot be read.
        """
        ...


class StoreRoot(Protocol):
    """The place of many runs; used by readers on any thread, and by who begins a run."""

    #: Names the place for people, without secrets.
    location: str

    @property
    def shared(self) -> bool:
        """Whether several programs may write one run; each of them has a name then."""
        ...

    def new(self, run_id: str, writer: str | None = None) -> Store:
        """Return the place of a run, or of a writer's part of it, which need not exist yet.

        Parameters
        ----------
        run_id
            The run's id.
        writer
            The writer's name, where several may write the run.
        """
        ...

    def exists(self) -> bool:
        """Whether there is such a place."""
        ...

    def ids(self) -> list[str]:
        """Return the ids of all runs, in any order; whatever else is there is left out."""
        ...

    def find(self, run_id: str) -> Store | None:
        """Return the store of a run, also of a broken one; None if nothing has that name."""
        ...


def place_of(store: Store) -> Path | str:
    """Return the directory of a run or its packed file; else the name of its place, as a URL."""
    if store.directory is not None:
        return Path(store.location)
    file = getattr(store, "file", None)
    return file if isinstance(file, Path) else store.location
