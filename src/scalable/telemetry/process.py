"""A recorder in a process of its own, as the program sees it that is recorded.

In the program itself a recorder would compete with Dask's event loop for the interpreter, fill the
heap that the garbage collector walks through, and die with it. So the program starts a second
interpreter with nothing of Dask's in it (:mod:`scalable.telemetry.child`), and one thread here
answers its pulls: it fetches facts and writes them into a pipe as they are.
"""

from __future__ import annotations

import contextlib
import logging
import marshal
import os
import select
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from multiprocessing.spawn import get_executable
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from scalable import facts
from scalable.common.forks import let_go_in_forks, unlocked_in_forks
from scalable.common.guard import Guard
from scalable.common.processes import EXIT_TIMEOUT, Detached
from scalable.telemetry import wire
from scalable_runs import schema

# The process is begun before what follows is imported, which takes as long as it takes to begin.
if TYPE_CHECKING:
    from scalable.telemetry.deaths import OnDeath
    from scalable.telemetry.recorder import RunIdentity, Source
    from scalable.telemetry.submissions import Submissions
    from scalable_runs.schema import RunStatus

#: Seconds that the process has to make the run's directory. A machine with a hundred runnable
#: processes for each core takes a while.
START_TIMEOUT: Final = 30.0
#: Bytes of a pipe: a pull's answer, so that writing it does not wait for the reader.
PIPE_SIZE: Final = 1024 * 1024
#: Seconds without a question after which facts are sent all the same: where processors are scarce
#: the process comes last, and what is in its pipe is not lost with the program.
AHEAD: Final = 0.25
#: Seconds that a scheduler elsewhere has to answer the first question, if it is not asked by then.
FIRST_PULL_TIMEOUT: Final = 2.0
#: Seconds to wait before another process takes the place of one that died, each time; after that
#: there is none, unless a time has gone by without such a death (seconds).
RESTART_DELAYS: Final = (0.0, 1.0, 5.0)
RESTARTS_WITHIN: Final = 600.0
#: Seconds for a flush that was asked of the process that died.
FLUSH_AGAIN: Final = 30.0
#: Failure records of the program's own that are kept for another process.
MAX_FAILURES: Final = 100
#: fcntl(2), Linux only.
_F_SETPIPE_SZ: Final = 1031
_F_GETPIPE_SZ: Final = 1032

#: What the interpreter runs: this one's modules, wherever they were found. `-S` keeps out what the
#: site has to add, such as the automatic instrumentation of this very process.
_BOOTSTRAP: Final = (
    "import marshal, sys; sys.path[:] = marshal.load(sys.stdin.buffer); "
    "from scalable.telemetry.child import main; main()"
)
#: Told by `ps`.
_TITLE: Final = "scalable-recorder"

logger = logging.getLogger("scalable")

Process: TypeAlias = Detached


def spawn(run_id: str) -> Process | None:
    """Begin a process that will make a :class:`RecorderProcess`; None where there can be none."""
    executable = get_executable()
    if not executable or getattr(sys, "frozen", False):
        # It would be this very program, once more.
        return None
    try:
        process = Detached(
            [os.fsdecode(executable), "-S", "-c", _BOOTSTRAP, _TITLE, run_id],
            stderr=subprocess.DEVNULL,
            # A terminal's Ctrl-C is for the program; what it does then is to be recorded. Not a
            # session of its own: Linux may schedule each as one, whatever it is worth.
            process_group=0,
        )
    except (OSError, MemoryError, subprocess.SubprocessError) as error:
        logger.info("scalable: the recorder has no process of its own: %r", error)
        return None
    _widen(process.stdin.fileno())
    with contextlib.suppress(OSError):
        wire.write_bytes(process.stdin.fileno(), marshal.dumps(_path()))
    return process


def _path() -> list[str]:
    """Where the process finds modules: as this one, and ours wherever they were found."""
    path = [str(place) for place in sys.path]
    files = [module.__file__ for module in (facts, schema)]
    ours = {str(Path(file).parents[1]) for file in files if file is not None}
    return [*sorted(ours - set(path)), *path]


class RecorderProcess:
    """Records one run in a process of its own, which is not a child of the program.

    :meth:`begin` and :meth:`start` are called by the thread that begins the run, :meth:`flush`,
    :meth:`close`, :meth:`note` and :meth:`fail` by any of the application's. A daemon thread of its
    own, :meth:`_serve`, does all the reading and writing.

    Parameters
    ----------
    process : Detached
        What :func:`spawn` has begun.
    identity : RunIdentity
        The run.
    submissions : Submissions
        Where the client's threads note what they send.
    options : mapping
        Of a :class:`~scalable.telemetry.recorder.Recorder` and what it needs, plain values.
    warn : callable
        Told, once a kind, what the user should know.

    Attributes
    ----------
    guard : Guard
        Counts errors, those of the process too once it has ended.
    finished : threading.Event
        Set once the process is gone.
    run_dir : pathlib.Path
        The run's directory.
    """

    def __init__(
        self,
        process: Process,
        identity: RunIdentity,
        submissions: Submissions,
        options: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        self.guard = Guard()
        self.finished = threading.Event()
        self.run_dir = Path()
        self._process = process
        self._stdin, self._stdout = process.stdin.fileno(), process.stdout.fileno()
        self._identity = identity
        self._submissions = submissions
        self._options = options
        self._warn = warn
        self._source: Source | None = None
        self._on_death: OnDeath | None = None
        #: How the run ended, as its record says it once that is finished.
        self.status = "running"
        self._progress = (0, 0, 0)
        self._noted_bytes = 0
        #: Answers and messages that are not all in the run's files yet, as far as the process has
        #: told: the number of the fact that follows, or of the message, and the frame.
        self._given: deque[tuple[int, bytes]] = deque()
        self._kept: deque[tuple[int, bytes]] = deque()
        self._failures: list[wire.Message] = []
        self._messages = 0
        self._position: tuple[int, Mapping[str, int], int] = (1, {}, 0)
        self._remote_errors: Mapping[str, int] = {}
        self._start: wire.Message | None = None
        self._close: wire.Message | None = None
        #: When the process was started anew.
        self._restarts: list[float] = []
        #: When one died whose successor does not go on yet, and the gaps that were closed.
        self._died = 0.0
        self._gaps: list[Mapping[str, Any]] = []
        self._runs_dir = ""
        #: Bytes of each answer whose question is still to come, and how many a pipe takes in all.
        self._ahead: deque[int] = deque()
        self._room = _capacity(self._stdin) // 2
        #: What the next question will be: after which fact, how many, how long to wait for them.
        self._following: tuple[int, int, float] | None = None
        #: When to answer it without having been asked, if the pipe takes it.
        self._due = 0.0
        #: What is to be sent, in this order; a deque's operations are atomic.
        self._waiting: deque[wire.Message] = deque()
        self._condition = unlocked_in_forks(threading.Condition())
        self._made = False
        self._said_goodbye = False
        self._flush_asked = 0
        self._flush_done = 0
        self._closing = False
        #: When facts were last passed on.
        self._last_given = 0.0
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_out, False)
        self._thread = threading.Thread(
            target=self._run, name=f"scalable-recorder-{identity.run_id[-8:]}", daemon=True
        )

    # -- beginning ------------------------------------------------------------------------------

    @classmethod
    def begin(
        cls,
        process: Process,
        files: Mapping[str, Any],
        identity: RunIdentity,
        submissions: Submissions,
        options: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> RecorderProcess | None:
        """Have the process make the run's directory.

        Parameters
        ----------
        files : mapping
            Arguments of :meth:`scalable_runs.writer.RunWriter.create`, plain values.
        process, identity, submissions, options, warn
            As for the class.

        Returns
        -------
        RecorderProcess or None
            None where it does not answer or could not make the directory. Nothing of it is left
            then: whoever tries the same in this process will meet the reason.
        """
        recorder = cls(process, identity, submissions, options, warn)
        recorder._runs_dir = files["runs_dir"]
        recorder._post(("make", wire.plain({**files, "program": os.getpid()})))
        recorder._thread.start()
        let_go_in_forks(recorder)
        if recorder._wait_until_made():
            return recorder
        logger.info("scalable: the recorder's process did not start; it is a thread instead")
        return None

    def _wait_until_made(self) -> bool:
        with self._condition:
            self._condition.wait_for(lambda: self._made or self.finished.is_set(), START_TIMEOUT)
            if self._made:
                return True
        self._process.kill()
        self.finished.wait(EXIT_TIMEOUT)
        return False

    def start(self, source: Source | None, on_death: OnDeath | None = None) -> None:
        """Begin to record.

        Parameters
        ----------
        source : Source or None
            Where facts come from, used by this object's thread alone; None where the scheduler
            cannot be watched.
        on_death : callable, optional
            Told of each lost worker, on this object's thread.
        """
        self._source, self._on_death = source, on_death
        about, options = asdict(self._identity), dict(self._options)
        start = self._start = wire.plain(("start", about, options, source is not None))
        self._post(start)

    # -- for the application's threads ----------------------------------------------------------

    def flush(self, timeout: float) -> bool:
        """Wait until everything the scheduler knows by now is in the kernel's hands."""
        with self._condition:
            self._flush_asked += 1
            wanted = self._flush_asked
        self._post(("flush", wanted, timeout))
        with self._condition:
            self._condition.wait_for(
                lambda: self._flush_done >= wanted or self.finished.is_set(), timeout
            )
            return self._flush_done >= wanted or self._said_goodbye

    def close(
        self, status: RunStatus, timeout: float, error: tuple[str, str, str] | None = None
    ) -> bool:
        """Ask for the end of the run and wait for it; see :meth:`recorder.Recorder.close`.

        Returns
        -------
        bool
            False if the process is still busy: it goes on in the background.
        """
        with self._condition:
            first, self._closing = not self._closing, True
        began = self._last_given = monotonic()
        latest = began + wire.CLOSE_EXTENSION * timeout
        if first:
            self._close = ("close", dict(self.guard.errors), status, timeout, error)
            self._post(self._close)
        while not self.finished.is_set():
            # Each answer with facts gives the process as long again, and so does its successor.
            end = latest if self._died else min(latest, self._last_given + timeout)
            left = end + 1.0 - monotonic()
            if left <= 0:
                return False
            self.finished.wait(min(left, 0.5))
        return True

    def note(self, fact: facts.UserEvent) -> None:
        """Record what the client's own code asks to be recorded; its time is the client's."""
        # Goes with the next answer: nobody needs to be woken for it.
        size = facts.size_of(fact)
        if self._noted_bytes + size > facts.MAX_NOTED:
            self.guard.errors["note:dropped"] += 1
            return
        self._noted_bytes += size
        self._waiting.append(("note", wire.plain(fact)))

    def fail(self, phase: str, error_type: str, message: str, traceback: str) -> None:
        """Let the run have a failure record that belongs to no task."""
        failure = ("fail", phase, error_type, message, traceback)
        if len(self._failures) < MAX_FAILURES:
            self._failures.append(failure)
        self._waiting.append(failure)

    def progress(self) -> tuple[int, int, int]:
        """Tasks ended, known and failed so far."""
        return self._progress

    def _post(self, message: wire.Message) -> None:
        """Have a message sent at once."""
        self._waiting.append(message)
        # Under the lock, since the descriptor is closed in the end, and may be another's then.
        with self._condition, contextlib.suppress(OSError):  # full: the thread is awake anyway
            if self._wake_out >= 0:
                os.write(self._wake_out, b"\0")

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                with contextlib.suppress(OSError):  # it is gone; what that means is said below
                    self._serve()
                if self._said_goodbye or not self._restart():
                    break
        except BaseException as error:
            self.guard.errors[f"recorder:{type(error).__name__}"] += 1
            self._notify("warn", [f"recording stopped by an internal error: {error!r}"])
        finally:
            self._end()

    def _serve(self) -> None:
        messages = wire.Reader()
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        poll.register(self._wake_in, select.POLLIN)
        while not self._said_goodbye:
            ready = {descriptor for descriptor, _ in poll.poll(self._poll_timeout())}
            if self._wake_in in ready:
                os.read(self._wake_in, 4096)
                self._send_waiting()
            if self._stdout in ready:
                data = os.read(self._stdout, 65_536)
                if not data:
                    return
                for message in messages.feed(data):
                    self._take(message)
            if self._question_ahead() and monotonic() >= self._due:
                self._run_ahead()

    def _poll_timeout(self) -> float | None:
        """Milliseconds to wait for others; None: for ever."""
        return max(0.0, self._due - monotonic()) * 1e3 if self._question_ahead() else None

    def _take(self, message: wire.Message) -> None:
        kind, *content = message
        if kind == "pull":
            self._answer(*content)
        elif kind == "flushed":
            number, self._progress = content
            with self._condition:
                self._flush_done = max(self._flush_done, number)
                self._condition.notify_all()
        elif kind == "made":
            self.run_dir = Path(content[0])
            if self._died:
                self._gaps.append(wire.restart(self._died))
                self._last_given = monotonic()
                self._died = 0.0
            with self._condition:
                self._made = True
                self._condition.notify_all()
        elif kind == "finished":
            errors, self._progress, self.status = content
            # Among them are those that this side had told when it closed the run.
            self.guard.errors |= Counter(errors)
            self._said_goodbye = True
        else:
            self._notify(kind, content)

    def _notify(self, kind: str, content: Sequence[Any]) -> None:
        """Pass on what the application is to know; whatever it does then ends no record."""
        try:
            if kind == "warn":
                self._warn(*content)
            elif kind == "log":
                name, level, text = content
                logging.getLogger(name).log(level, "%s", text)
            elif kind == "death" and self._on_death is not None:
                self._on_death(*content)
        except Exception as error:
            self.guard.errors[f"{kind}:{type(error).__name__}"] += 1

    def _answer(
        self,
        after: int,
        limit: int,
        timeout: float,
        progress: tuple[int, int, int],
        position: tuple[int, Mapping[str, int], int],
    ) -> None:
        self._progress = progress
        self._position = position
        while self._given and self._given[0][0] <= position[0]:
            self._given.popleft()
        while self._kept and self._kept[0][0] <= position[2]:
            self._kept.popleft()
        if self._ahead:
            self._ahead.popleft()
        else:
            self._give(after, limit, timeout)

    def _question_ahead(self) -> tuple[int, int, float] | None:
        """The question that may be answered before it is asked; None where the pipe has enough."""
        return self._following if sum(self._ahead) < self._room else None

    def _run_ahead(self) -> None:
        """Answer what the process has not asked yet, so that it has what there is."""
        more = True
        while more and (question := self._question_ahead()):
            more = self._give(*question, ahead=True)

    def _give(self, after: int, limit: int, timeout: float, *, ahead: bool = False) -> bool:
        """Fetch facts and send them; returns whether there are more.

        An answer that is `ahead` of its question is not sent without a fact, and says that there
        are more: what happened since, the process has to ask for.
        """
        answer: tuple[Any, ...]
        assert self._source is not None
        self._following = None
        more = sends = False
        try:
            batch = self._source.pull(after, limit, timeout)
        except ConnectionError as error:
            how = wire.GONE if isinstance(error, ConnectionRefusedError) else wire.LATE
            answer = (how, str(error) or type(error).__name__)
        except BaseException as error:
            self.guard.errors[f"pull:{type(error).__name__}"] += 1
            answer = (wire.LATE, f"internal error: {type(error).__name__}")
        else:
            more, sends = batch.more, bool(batch.facts)
            self._remote_errors = batch.errors
            if sends:
                self._last_given = monotonic()
            self._following, self._due = (batch.next, limit, timeout), monotonic() + AHEAD
            answer = (
                plain_facts(batch.facts),
                batch.next,
                more or ahead,
                batch.dropped,
                batch.errors,
                batch.now - time(),
            )
        # What was sent and noted came before what the scheduler tells of it.
        self._send_waiting()
        self._send_submissions()
        if sends or not ahead:
            frame = wire.frame(("facts", answer))
            if ahead:
                self._ahead.append(len(frame))
            if sends:
                self._given.append((answer[1], frame))
            wire.write_bytes(self._stdin, frame)
        return more

    def _send_waiting(self) -> None:
        while self._waiting:
            message = self._waiting.popleft()
            if message[0] == "close":
                self._send_submissions()
            if message[0] == "note":
                self._keep(message)
                continue
            wire.write(self._stdin, message)
            if message[0] == "start" and self._source is not None:
                # It may be a while until the process is able to ask.
                self._following = 1, wire.FACTS_AT_ONCE, FIRST_PULL_TIMEOUT
                self._due = monotonic() + AHEAD

    def _send_submissions(self) -> None:
        from scalable.telemetry.submissions import plain_ids

        opened = self._submissions.opened()
        ended = self._submissions.ended(time(), all_of_them=self._closing)
        if opened or ended:
            message = (
                "submissions",
                [plain_ids(ids) for ids in opened],
                [sent.plain() for sent in ended],
            )
            self._keep(message)

    def _keep(self, message: wire.Message) -> None:
        """Send a message, and keep it until what it says is in the run's files."""
        frame = wire.frame(message)
        self._messages += 1
        self._kept.append((self._messages, frame))
        if message[0] == "note":
            self._noted_bytes = max(0, self._noted_bytes - facts.size_of(message[1]))
        wire.write_bytes(self._stdin, frame)

    # -- going on after its death -----------------------------------------------------------------

    def _restart(self) -> bool:
        """Start another process that goes on with the run; False if there can be none."""
        noticed = monotonic()
        self._restarts = [at for at in self._restarts if noticed - at < RESTARTS_WITHIN]
        if self._start is None or self._source is None or not self._made:
            return False
        if len(self._restarts) >= len(RESTART_DELAYS):
            return False
        self._died = self._died or time()
        died, pid = self._process, self._process.pid
        died.kill()
        died.release(EXIT_TIMEOUT)
        delay = RESTART_DELAYS[len(self._restarts)]
        self._restarts.append(noticed)
        if delay and not self._closing:
            self.finished.wait(delay)
        process = spawn(self._identity.run_id)
        if process is None:
            return False
        self._process = process
        self._stdin, self._stdout = process.stdin.fileno(), process.stdout.fileno()
        news = self._given[-1][0] if self._given else self._position[0]
        about = {
            "runs_dir": self._runs_dir,
            "run_id": self._identity.run_id,
            "position": self._position,
            "news": news,
            "remote_errors": dict(self._remote_errors),
            "died": self._died,
            "restarts": self._gaps,
            "program": os.getpid(),
        }
        sentence = f"the recorder's process {pid} ended: another one, {process.pid}, goes on"
        self._notify("warn", [sentence])
        with contextlib.suppress(OSError):  # it is gone already, which is noticed next
            self._catch_up(wire.plain(("resume", about)))
        return True

    def _catch_up(self, resume: wire.Message) -> None:
        """Give the new process all that the one before has not brought into the run's files."""
        assert self._start is not None
        # What it was told and has not been sent yet comes after that.
        unsent = [it for it in self._waiting if it[0] in ("note", "flush")]
        self._waiting.clear()
        self._waiting.extend(unsent)
        wire.write(self._stdin, resume)
        wire.write(self._stdin, self._start)
        for failure in self._failures:
            wire.write(self._stdin, failure)
        # It counts messages from the first that it is given.
        frames = [frame for _, frame in self._kept]
        self._kept = deque(enumerate(frames, 1))
        self._messages = len(frames)
        for frame in frames:
            wire.write_bytes(self._stdin, frame)
        self._ahead = deque(len(frame) for _, frame in self._given)
        for _, frame in self._given:
            wire.write_bytes(self._stdin, frame)
        self._following = None
        if not self._given:
            self._following = self._position[0], wire.FACTS_AT_ONCE, FIRST_PULL_TIMEOUT
            self._due = monotonic() + AHEAD
        if self._flush_done < self._flush_asked:
            wire.write(self._stdin, ("flush", self._flush_asked, FLUSH_AGAIN))
        if self._close is not None:
            wire.write(self._stdin, self._close)

    # -- the end ----------------------------------------------------------------------------------

    def _end(self) -> None:
        process = self._process
        if self._said_goodbye:
            with contextlib.suppress(OSError):
                wire.write(self._stdin, ("goodbye",))
        else:
            process.kill()
        process.release(EXIT_TIMEOUT)
        if self._source is not None:
            self._source.close()
        if self._made and not self._said_goodbye:
            self.guard.errors["recorder:gone"] += 1
            sentence = (
                f"the recorder's process {process.pid} ended: what comes from now on is not "
                "recorded, and the run reads as lost"
            )
            self._notify("warn", [sentence])
        with self._condition:
            self.finished.set()
            self._condition.notify_all()
        self._close_wake()

    def after_fork(self) -> None:
        """Let the pipes go, in a process forked from the program: with them the recorder ends."""
        if not self.finished.is_set():
            self._process.close_pipes()

    def _close_wake(self) -> None:
        with self._condition:
            os.close(self._wake_out)
            self._wake_out = -1
        os.close(self._wake_in)


def plain_facts(batch: Iterable[facts.Fact]) -> list[Any]:
    """Facts as plain tuples and strings; those of every task are that already."""
    return [fact if _is_plain(fact) else wire.plain(fact) for fact in batch]


_NBYTES: Final = facts.Succeeded._fields.index("nbytes")


def _is_plain(fact: Any) -> bool:
    if fact.__class__ is not tuple:
        return fact.__class__ is str
    # A worker in this process hands over whatever a `sizeof` of the user's returned.
    return fact[0] == facts.SUBMITTED or fact[_NBYTES].__class__ is int


def _widen(descriptor: int) -> None:
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, _F_SETPIPE_SZ, PIPE_SIZE)


def _capacity(descriptor: int) -> int:
    """Bytes that a pipe takes before anybody reads."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            return fcntl.fcntl(descriptor, _F_GETPIPE_SZ)
    return 65_536
