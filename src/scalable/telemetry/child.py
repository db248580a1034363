"""The recorder's own process: what :class:`scalable.telemetry.process.RecorderProcess` starts.

It makes the run's directory first, before anything heavy is imported: the program waits for that.
Then it hosts a :class:`~scalable.telemetry.recorder.Recorder`, whose facts come over a pipe. It
ends when the program says goodbye, or with its standard input: where the program is gone without
having closed the run, what came until then is written and the run stays as it is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import Mapping
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from scalable.common.otel_environment import usable
from scalable.common.processes import ProcessHandle
from scalable.telemetry import wire
from scalable_runs.writer import RunWriter

if TYPE_CHECKING:
    from scalable.facts import Batch
    from scalable.telemetry.recorder import Recorder
    from scalable.telemetry.resume import Resumed
    from scalable.telemetry.submissions import SentGraphs
    from scalable_runs.writer import Problem

#: Seconds that a run which is being closed goes on without the program.
FINISH_TIMEOUT: Final = 60.0
#: Seconds after which somebody who waits for the program looks whether it is still there.
LIVENESS_INTERVAL: Final = 0.25
#: Added to its niceness: where processors are scarce, the work that is recorded comes first.
NICENESS: Final = 5
#: Signals to a whole process group or job are for the program: what it makes of them is recorded.
_NOT_FOR_US: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Program:
    """The program at the other end of the pipe; any thread sends.

    Attributes
    ----------
    pid : int
        Id of its process.
    """

    def __init__(self, descriptor: int, pid: int) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._process = ProcessHandle(pid)

    @property
    def is_gone(self) -> bool:
        """It has ended, and nothing that it said is unread.

        Its end of the pipe may be held by a process that was forked from it.
        """
        return self._process.has_ended() and not select.select([sys.stdin], [], [], 0)[0]

    def send(self, *message: Any) -> None:
        """Send a message, unless nobody is there any more."""
        try:
            with self._lock:
                wire.write(self._descriptor, message)
        except OSError:
            return

    def warn(self, sentence: str) -> None:
        """Have something told to the user."""
        self.send("warn", sentence)

    def warn_of(self, problem: Problem) -> None:
        """Have a problem of the writer's told to the user."""
        self.warn(problem.message)


class PipeSource:
    """Facts from the program; :meth:`pull` by the recorder's thread, the rest by the main one."""

    def __init__(self, program: Program) -> None:
        self.recorder: Recorder | None = None
        self._program = program
        self._answers: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        #: A question was asked whose answer has not come.
        self._is_waiting = False

    def put(self, answer: tuple[Any, ...]) -> None:
        """Hand in the answer to the next question, perhaps before it is asked."""
        self._answers.put(answer)

    def hang_up(self) -> None:
        """No more answers come."""
        self._answers.put(None)

    def pull(self, after: int, limit: int, timeout: float) -> Batch:
        """Facts from number `after` on; see :class:`scalable.telemetry.recorder.Source`."""
        from scalable import facts

        assert self.recorder is not None
        # An answer that is late is waited for again, and none is ever passed over: the program
        # gives them in order, and some before they are asked for.
        if not self._is_waiting:
            self._is_waiting = True
            progress = self.recorder.progress()
            limit = min(limit, wire.FACTS_AT_ONCE)
            position = tuple(self.recorder.position)
            self._program.send("pull", after, limit, timeout, progress, position)
        raw, following, more, dropped, errors, offset = self._answer(timeout)
        return facts.Batch(facts.decode(raw), following, more, dropped, errors, time() + offset)

    def _answer(self, timeout: float) -> tuple[Any, ...]:
        # The program itself waits up to `timeout` for a scheduler elsewhere.
        deadline = monotonic() + timeout + 1.0
        while True:
            try:
                answer = self._answers.get(timeout=LIVENESS_INTERVAL)
            except queue.Empty:
                if self._program.is_gone:
                    # A process forked from it keeps our pipe open.
                    self.hang_up()
                elif monotonic() > deadline:
                    raise TimeoutError("no answer from the program") from None
                continue
            if answer is None:
                self.hang_up()
                assert self.recorder is not None
                self.recorder.abandon()
                raise ConnectionError("the program is gone")
            break
        self._is_waiting = False
        if answer[0] == wire.GONE:
            raise ConnectionRefusedError(answer[1])
        if answer[0] == wire.LATE:
            raise ConnectionError(answer[1])
        return answer

    def close(self) -> None:
        """Nothing to release."""


class _Forward(logging.Handler):
    """Has the log records of this process told by the program's own loggers."""

    def __init__(self, program: Program) -> None:
        super().__init__(logging.WARNING)
        self._program = program

    def emit(self, record: logging.LogRecord) -> None:
        self._program.send("log", record.name, record.levelno, self.format(record))

    def format(self, record: logging.LogRecord) -> str:
        """Text of a record; of the stacks of other packages, which help no user, the error."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None or record.name.partition(".")[0] == "scalable":
            return super().format(record)
        return f"{record.getMessage()} ({type(error).__name__}: {error})"


def main() -> None:
    """Record one run, from standard input, until that ends."""
    for number in _NOT_FOR_US:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    # Nothing else may write into the pipe: what prints, prints nowhere.
    answers = os.dup(1)
    os.dup2(2, 1)
    # The program has told the user which variables cannot be used.
    usable(os.environ)
    make = wire.read(sys.stdin.buffer)
    if make is None:
        return
    program = Program(answers, make[1]["program"])
    logging.getLogger().addHandler(_Forward(program))
    resumed = None
    if make[0] == "resume":
        resumed = _resumed(program, make[1])
        writer = resumed.writer
    else:
        writer = RunWriter.create(**make[1], on_problem=program.warn_of)
    program.send("made", str(writer.path))
    start = wire.read(sys.stdin.buffer)
    if start is None:
        os._exit(0)
    source = PipeSource(program)
    try:
        from scalable.telemetry.submissions import SentGraphs

        submissions = SentGraphs()
        identity, options, watched = start[1:]
        recorder = source.recorder = _recorder(program, writer, submissions, identity, options)
        if resumed is not None:
            recorder.resume(resumed)
    except BaseException as error:
        program.warn(f"recording stopped before it began: {error!r}")
        writer.close(status="failed")
        os._exit(1)
    recorder.start(
        source if watched else None,
        lambda name, log, cause: program.send("death", name, log, cause),
    )
    threading.Thread(target=_notify_finished, args=(program, recorder), daemon=True).start()
    while (message := wire.read(sys.stdin.buffer)) is not None and message[0] != "goodbye":
        _take(message, program, recorder, source, submissions)
    source.hang_up()
    # Where it has no source, or does not ask it now.
    recorder.abandon()
    recorder.finished.wait(FINISH_TIMEOUT)
    # Not by way of what exporters have registered to wait for: it has had its time.
    os._exit(0)


def _resumed(program: Program, about: Mapping[str, Any]) -> Resumed:
    from scalable.telemetry.resume import resume

    try:
        return resume(**about, on_problem=program.warn_of)
    except BaseException as error:
        program.warn(f"the run cannot be gone on with: {error!r}")
        os._exit(1)


def _recorder(
    program: Program,
    writer: RunWriter,
    submissions: SentGraphs,
    identity: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Recorder:
    from opentelemetry.sdk.resources import Resource

    from scalable.common.options import RecorderOptions
    from scalable.telemetry.recorder import Recorder, RunIdentity
    from scalable.telemetry.routes import find_routes
    from scalable_runs.redact import Redactor

    return Recorder(
        RunIdentity(**identity),
        writer,
        Resource(options["resource"], options["resource_schema"]),
        submissions,
        redact=Redactor(
            secrets=options["secrets"], off=options["redact_off"], salt=options["redact_salt"]
        ),
        warn=program.warn,
        routes=find_routes(os.environ, program.warn),
        options=RecorderOptions(**options["options"]),
        yield_seconds=0.0,
    )


def _take(
    message: wire.Message,
    program: Program,
    recorder: Recorder,
    source: PipeSource,
    submissions: SentGraphs,
) -> None:
    from scalable import facts
    from scalable.telemetry.submissions import Sent, ids_of

    kind, *content = message
    if kind == "facts":
        source.put(*content)
    elif kind == "submissions":
        opened, ended = content
        submissions.add(map(ids_of, opened), map(Sent.of, ended))
        recorder.count_message()
    elif kind == "note":
        for fact in facts.decode(content):
            if isinstance(fact, facts.UserEvent):
                recorder.note(fact)
        recorder.count_message()
    elif kind == "fail":
        recorder.fail(*content)
    elif kind == "flush":
        number, timeout = content
        threading.Thread(
            target=_flush, args=(program, recorder, number, timeout), daemon=True
        ).start()
    elif kind == "close":
        errors, *how = content
        recorder.guard.errors.update(errors)
        recorder.end(*how)


def _flush(program: Program, recorder: Recorder, number: int, timeout: float) -> None:
    if recorder.flush(timeout):
        program.send("flushed", number, recorder.progress())


def _notify_finished(program: Program, recorder: Recorder) -> None:
    recorder.finished.wait()
    errors = dict(recorder.guard.errors)
    program.send("finished", errors, recorder.progress(), recorder.status)
    if program.is_gone:
        os._exit(0)
