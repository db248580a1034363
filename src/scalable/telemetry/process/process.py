"""A recorder in a process of its own: the side of the program that is recorded.

In the program itself a recorder would compete with Dask's event loop for the interpreter, enlarge
the heap that the garbage collector traverses, and die with the program. So a second interpreter
without Dask runs it (:mod:`scalable.telemetry.process.child`). One thread here polls the source of
facts and writes them to a pipe (:mod:`scalable.telemetry.recorder.wire`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from scalable import facts
from scalable.code.own_sources import own_sources
from scalable.common.forks import let_go_in_forks, unlocked_in_forks
from scalable.common.guard import Guard
from scalable.common.processes import EXIT_TIMEOUT
from scalable.facts.texts import ErrorTexts
from scalable.telemetry.process.outgoing import OutgoingFacts, Unconfirmed
from scalable.telemetry.process.spawning import Process, capacity_of, spawn
from scalable.telemetry.recorder import wire
from scalable.telemetry.recorder.puller import ANSWER_TIMEOUT
from scalable.telemetry.signals.spans import plain_ids
from scalable.telemetry.submissions.submissions import Submissions

if TYPE_CHECKING:
    from scalable.facts import FactSource
    from scalable.telemetry.deaths.deaths import OnDeath
    from scalable.telemetry.recorder.run_roots import RunIdentity
    from scalable_runs.schema import RunStatus

#: Seconds that the process has to create the run's directory; enough for a machine with a hundred
#: runnable processes for each core.
START_TIMEOUT: Final = 30.0
#: Seconds to wait before each successor of a process that died; there are no more within
#: :data:`RESTARTS_WITHIN` seconds.
RESTART_DELAYS: Final = (0.0, 1.0, 5.0)
RESTARTS_WITHIN: Final = 600.0
#: Seconds for a successor to finish a flush.
FLUSH_AGAIN: Final = 30.0
#: Failure records of the program's own that are kept for a successor.
MAX_FAILURES: Final = 100

logger = logging.getLogger("scalable")


class RecorderProcess:
    """Records one run in a process of its own, which is not a child of the program.

    :meth:`begin` and :meth:`start` are called by the thread that begins the run; :meth:`flush`,
    :meth:`close`, :meth:`note` and :meth:`fail` by any of the application's. A daemon thread of its
    own (:meth:`_run`) does all the reading and writing.
    """

    def __init__(
        self,
        process: Process,
        identity: RunIdentity,
        submissions: Submissions,
        parts: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        #: Counts errors; also those of the process once it has ended.
        self.guard = Guard()
        #: Set once the process is gone.
        self.finished = threading.Event()
        #: The run's directory on this machine, if it has one, and where it is, for people.
        self.run_dir: Path | None = None
        self.location = ""
        #: How the run ended, once its record is finished.
        self.status = "running"
        self._use(process)
        #: As it is once the process has made the run, or joined it.
        self.identity = identity
        self._submissions = submissions
        self._parts = parts
        self._warn = warn
        #: Plain values that name the place of runs.
        self._runs_dir: Mapping[str, Any] = {}
        self._source: FactSource | None = None
        self._on_death: OnDeath | None = None
        self._condition = unlocked_in_forks(threading.Condition())
        # From the application's threads to this object's; a deque's operations are atomic.
        self._waiting: deque[wire.Message] = deque()
        #: Events of the program's own code, each with its size.
        self._notes: deque[tuple[int, wire.Message]] = deque()
        self._noted_bytes = 0
        self._failures: list[wire.Message] = []
        self._flush_asked = self._flush_done = 0
        self._flush_until = 0.0
        self._start: wire.Message = ()
        self._close: wire.Message | None = None
        # What is known of the process.
        self._made = False
        self._has_finished = False
        self._progress = (0, 0, 0)
        self._unconfirmed = Unconfirmed()
        #: How many source texts of the program it has.
        self._sources_sent = 0
        #: None before the start, and without a source.
        self._facts: OutgoingFacts | None = None
        self._last_facts = 0.0
        #: When processes were restarted; when one died whose successor has not begun yet; and the
        #: entries of run.json for those that died.
        self._restarts: list[float] = []
        self._died = 0.0
        self._gaps: list[Mapping[str, Any]] = []
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_out, False)
        self._thread = threading.Thread(
            target=self._run, name=f"scalable-recorder-{identity.run_id[-8:]}", daemon=True
        )

    def _use(self, process: Process) -> None:
        self._process = process
        self._stdin, self._stdout = process.stdin.fileno(), process.stdout.fileno()
        self._room = capacity_of(self._stdin) // 2

    # -- beginning ------------------------------------------------------------------------------

    @classmethod
    def begin(
        cls,
        process: Process,
        files: Mapping[str, Any],
        identity: RunIdentity,
        submissions: Submissions,
        parts: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> RecorderProcess | None:
        """Let a process that :func:`spawn` started create the run's directory.

        `files` are the arguments of :meth:`scalable_runs.writer.RunWriter.create`, `parts` the
        plain values from which the process creates its recorder. Returns None if the process does
        not answer or could not create the directory; it has been ended then. The caller tries the
        same in this process and will see the reason.
        """
        recorder = cls(process, identity, submissions, parts, warn)
        recorder._runs_dir = files["runs_dir"]
        recorder._post(("make", wire.VERSION, wire.plain({**files, "program": os.getpid()})))
        recorder._thread.start()
        let_go_in_forks(recorder)
        with recorder._condition:
            recorder._condition.wait_for(
                lambda: recorder._made or recorder.finished.is_set(), START_TIMEOUT
            )
            if recorder._made:
                return recorder
        process.kill()
        recorder.finished.wait(EXIT_TIMEOUT)
        logger.info("scalable: the recorder's process did not start; a thread is used instead")
        return None

    def start(self, source: FactSource | None, on_death: OnDeath | None = None) -> None:
        """Begin to record facts of `source`, None if the scheduler cannot be watched.

        This object's thread uses `source`, and calls `on_death` for each lost worker.
        """
        self._source, self._on_death = source, on_death
        start = wire.plain(("start", asdict(self.identity), self._parts, source is not None))
        self._start = start
        self._post(start)

    # -- for the application's threads ----------------------------------------------------------

    def flush(self, timeout: float) -> bool:
        """Wait until everything the scheduler knows by now was passed to the kernel."""
        with self._condition:
            self._flush_asked += 1
            wanted = self._flush_asked
            self._flush_until = max(self._flush_until, monotonic() + timeout)
        self._post(("flush", wanted, timeout))
        with self._condition:
            self._condition.wait_for(
                lambda: self._flush_done >= wanted or self.finished.is_set(), timeout
            )
            return self._flush_done >= wanted or self._has_finished

    def close(self, status: RunStatus, timeout: float, error: ErrorTexts | None = None) -> bool:
        """Request the end of the run and wait for it; False if the process takes longer."""
        began = self._last_facts = monotonic()
        message = ("close", dict(self.guard.errors), status, timeout, error)
        with self._condition:
            first = self._close is None
            self._close = self._close or message
        if first:
            self._post(message)
        latest = began + wire.CLOSE_EXTENSION * timeout
        while not self.finished.is_set():
            # Facts extend the wait, and so does a restart.
            end = latest if self._died else min(latest, self._last_facts + timeout)
            left = end + 1.0 - monotonic()
            if left <= 0:
                return False
            self.finished.wait(min(left, 0.5))
        return True

    def note(self, fact: facts.UserEvent) -> None:
        """Record an event of the client's own code; its time is the client's."""
        size = facts.size_of(fact)
        if self._noted_bytes + size > facts.MAX_NOTED:
            self.guard.errors["note:dropped"] += 1
            return
        self._noted_bytes += size
        self._notes.append((size, ("note", wire.plain(fact))))

    def fail(
        self, phase: str, error_type: str, message: str, traceback: str, module: str = ""
    ) -> None:
        """Add a failure record that belongs to no task."""
        failure = ("fail", phase, error_type, message, traceback, module)
        if len(self._failures) < MAX_FAILURES:
            self._failures.append(failure)
        self._waiting.append(failure)

    def progress(self) -> tuple[int, int, int]:
        """Tasks ended, known and failed so far."""
        return self._progress

    def _post(self, message: wire.Message) -> None:
        """Let the thread send a message at once."""
        self._waiting.append(message)
        # Under the lock: once the descriptor is closed, its number may be reused.
        with self._condition, contextlib.suppress(OSError):  # full: the thread is awake anyway
            if self._wake_out >= 0:
                os.write(self._wake_out, b"\0")

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                with contextlib.suppress(OSError):  # the process is gone: see below
                    self._serve()
                if self._has_finished or not self._restart():
                    break
        except BaseException as error:
            self.guard.count("recorder", error)
            self._warn(f"recording stopped by an internal error: {error!r}")
        finally:
            self._end()

    def _serve(self) -> None:
        """Exchange messages with the process until it has finished or is gone."""
        reader = wire.Reader()
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        poll.register(self._wake_in, select.POLLIN)
        while not self._has_finished:
            ready = {descriptor for descriptor, _ in poll.poll(self._until_pull())}
            if self._wake_in in ready:
                os.read(self._wake_in, 4096)
            if self._stdout in ready:
                data = os.read(self._stdout, 65_536)
                if not data:
                    return
                for message in reader.feed(data):
                    self._receive(*message)
            self._send_waiting()
            if self._until_pull() == 0:
                self._send_news(pull=True)

    def _until_pull(self) -> float | None:
        """Milliseconds until the next pull; None while the pipe is full or nothing is recorded."""
        if self._facts is None or (self._facts.is_gone and self._close is not None):
            return None
        if self._unconfirmed.size_in_flight >= self._room:
            return None
        return max(0.0, self._facts.next_pull - monotonic()) * 1e3

    def _receive(self, kind: str, *content: Any) -> None:
        if kind == "taken":
            taken, self._progress, position = content
            self._unconfirmed.confirm(taken, position)
        elif kind == "flushed":
            number, self._progress = content
            with self._condition:
                self._flush_done = max(self._flush_done, number)
                self._condition.notify_all()
        elif kind == "made":
            directory, self.location, joined = content
            if joined and not self._died:
                self.identity = self.identity.joined(joined)
            self.run_dir = None if directory is None else Path(directory)
            if self._died:
                self._gaps.append(wire.restart(self._died))
                self._last_facts = monotonic()
                self._died = 0.0
            with self._condition:
                self._made = True
                self._condition.notify_all()
        elif kind == "finished":
            errors, self._progress, self.status = content
            # They include those of this side, sent when it closed the run.
            self.guard.errors |= Counter(errors)
            self._has_finished = True
        else:
            with self.guard.watch(kind):
                self._notify(kind, *content)

    def _notify(self, kind: str, *content: Any) -> None:
        if kind == "warn":
            self._warn(*content)
        elif kind == "log":
            name, level, text = content
            logging.getLogger(name).log(level, "%s", text)
        elif kind == "death" and self._on_death is not None:
            self._on_death(*content)

    def _send_waiting(self) -> None:
        while self._waiting:
            message = self._waiting.popleft()
            if message[0] == "start" and self._source is not None:
                self._facts = OutgoingFacts(self._source, self.guard)
            if message[0] in ("flush", "close"):
                # It covers what the scheduler knows by now, if that answers.
                self._send_news(pull=self._facts is not None and not self._facts.in_trouble)
            wire.write(self._stdin, message)

    def _send_news(self, *, pull: bool) -> None:
        """Send what the program has noted and submitted, and the facts that a pull brings."""
        outgoing, frame = self._facts, None
        if outgoing is not None and pull:
            before = outgoing.after
            timeout = ANSWER_TIMEOUT if self._close is None else max(0.1, self._close[3])
            frame = outgoing.pull(timeout, eager=self._is_awaited())
            if outgoing.after > before:
                self._last_facts = monotonic()
            if frame is not None:
                self._unconfirmed.add_facts(outgoing.after, frame)
        self._send_sources()
        # The program's own messages precede what the scheduler reports of their effects.
        while self._notes:
            size, note = self._notes.popleft()
            self._noted_bytes = max(0, self._noted_bytes - size)
            self._send_kept(note)
        self._send_submissions()
        if frame is not None:
            wire.write_bytes(self._stdin, frame)

    def _is_awaited(self) -> bool:
        """A caller waits for the end of a flush or of the run."""
        flushing = self._flush_done < self._flush_asked and monotonic() < self._flush_until
        return flushing or self._close is not None

    def _send_submissions(self) -> None:
        submissions, is_last = self._submissions, self._close is not None
        opened = [plain_ids(ids) for ids in submissions.opened()]
        begun, left = submissions.blocks(time(), all_of_them=is_last)
        ended = [sent.plain() for sent in submissions.ended(time(), all_of_them=is_last)]
        if opened or ended or begun or left:
            blocks = [block.plain() for block in begun], [tuple(each) for each in left]
            self._send_kept(("submissions", opened, ended, blocks))

    def _send_sources(self) -> None:
        """Send the source texts of the program that are new."""
        texts = own_sources().texts
        if texts.added != self._sources_sent:
            before, self._sources_sent = self._sources_sent, texts.added
            wire.write(self._stdin, ("sources", [tuple(text) for text in texts.since(before)]))

    def _send_kept(self, message: wire.Message) -> None:
        frame = wire.frame(message)
        self._unconfirmed.add_message(frame)
        wire.write_bytes(self._stdin, frame)

    # -- restarting after its death ---------------------------------------------------------------

    def _restart(self) -> bool:
        """Start a successor that continues the run; False if there can be none."""
        now = monotonic()
        self._restarts = [at for at in self._restarts if now - at < RESTARTS_WITHIN]
        if self._facts is None or len(self._restarts) >= len(RESTART_DELAYS):
            return False
        self._died = self._died or time()
        died = self._process.pid
        self._process.end()
        delay = RESTART_DELAYS[len(self._restarts)]
        if delay and self._close is None:
            self.finished.wait(delay)
        process = spawn(self.identity.run_id)
        if process is None:
            return False
        self._use(process)
        self._warn(f"the recorder's process {died} ended: another one, {process.pid}, continues")
        self._restarts.append(now)
        with contextlib.suppress(OSError):  # it is gone already; _serve notices
            self._catch_up(self._facts)
        return True

    def _catch_up(self, outgoing: OutgoingFacts) -> None:
        """Send a successor all that is not in the run's files."""
        about = {
            "runs_dir": self._runs_dir,
            "run_id": self.identity.run_id,
            "writer": self.identity.writer or None,
            "position": self._unconfirmed.position,
            "news": outgoing.after,
            "remote_errors": dict(outgoing.errors),
            "died": self._died,
            "restarts": self._gaps,
            "program": os.getpid(),
        }
        resume = wire.plain(("resume", wire.VERSION, about))
        self._waiting.clear()
        frames = [wire.frame(message) for message in (resume, self._start, *self._failures)]
        for frame in (*frames, *self._unconfirmed.for_successor()):
            wire.write_bytes(self._stdin, frame)
        outgoing.repeat_state()
        self._sources_sent = 0
        self._submissions.repeat_blocks()
        if self._flush_done < self._flush_asked:
            self._flush_until = monotonic() + FLUSH_AGAIN
            self._waiting.append(("flush", self._flush_asked, FLUSH_AGAIN))
        if self._close is not None:
            self._waiting.append(self._close)

    # -- the end ----------------------------------------------------------------------------------

    def _end(self) -> None:
        process = self._process
        if self._has_finished:
            with contextlib.suppress(OSError):
                wire.write(self._stdin, ("exit",))
        else:
            process.kill()
        process.release(EXIT_TIMEOUT)
        if self._source is not None:
            self._source.close()
        if self._made and not self._has_finished:
            self.guard.errors["recorder:gone"] += 1
            self._warn(
                f"the recorder's process {process.pid} ended: nothing is recorded any more, and "
                "the run is shown as lost"
            )
        with self._condition:
            self.finished.set()
            self._condition.notify_all()
            os.close(self._wake_out)
            self._wake_out = -1
        os.close(self._wake_in)

    def after_fork(self) -> None:
        """Close the pipes in a forked process: the recorder ends when the program's are closed."""
        if not self.finished.is_set():
            self._process.close_pipes()
