"""The recorder's own process, started by :class:`~.process.RecorderProcess`.

It first creates the run's directory, for which the program waits, and imports the rest afterwards.
Then it runs a :class:`~scalable.telemetry.recorder.recorder.Recorder`, whose facts come over a
pipe. It ends when the program asks it to, or with the program: if the program is gone without
having closed the run, what was received is written and the run stays open.
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
from collections.abc import Iterator, Mapping, Sequence
from time import time
from typing import TYPE_CHECKING, Any, Final, cast

from scalable.common.otel_environment import usable
from scalable.common.processes import ProcessHandle
from scalable.telemetry.recorder import wire
from scalable_runs.writer import RunWriter

if TYPE_CHECKING:
    from scalable.facts import Batch
    from scalable.telemetry.recorder.recorder import Recorder
    from scalable.telemetry.recorder.resume import Resumed
    from scalable.telemetry.submissions.submissions import SentGraphs
    from scalable_runs.writer import Problem

#: Seconds for finishing the run when the program is gone or has asked for the end.
CLOSE_TIMEOUT: Final = 60.0
#: Seconds between checks whether a silent program still exists.
CHECK_INTERVAL: Final = 0.25
#: Added to its niceness: the recorded work has priority where processors are scarce.
NICENESS: Final = 5
#: Signals to a whole process group or job are for the program; how it reacts is recorded.
_NOT_FOR_US: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Longest wait for the commit of the program's code before its signals get their resource.
CODE_WAIT: Final = 0.1
#: Bytes read from the pipe at once.
_CHUNK: Final = 65_536


class Program:
    """The program at the other end of the pipes; any thread sends, the main one receives."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._process: ProcessHandle | None = None

    def identify(self, pid: int) -> None:
        """Note the id of its process."""
        self._process = ProcessHandle(pid)

    def messages(self) -> Iterator[wire.Message]:
        """Yield its messages until it is gone."""
        reader = wire.Reader()
        # The first read returns what the interpreter has already buffered.
        data: bytes = cast("Any", sys.stdin.buffer).read1(_CHUNK)
        while data:
            yield from reader.feed(data)
            data = b"" if self._is_gone() else os.read(0, _CHUNK)

    def _is_gone(self) -> bool:
        """Wait for more data; True if the program has ended and nothing is left to read.

        The end of the pipe does not show it: a process forked from the program may hold it open.
        """
        while not select.select([0], [], [], CHECK_INTERVAL)[0]:
            ended = self._process is not None and self._process.has_ended()
            if ended and not select.select([0], [], [], 0)[0]:
                return True
        return False

    def send(self, *message: Any) -> None:
        """Send a message, unless the program is gone."""
        with contextlib.suppress(OSError), self._lock:
            wire.write(self._descriptor, message)

    def warn(self, sentence: str) -> None:
        """Warn the user."""
        self.send("warn", sentence)

    def warn_of(self, problem: Problem) -> None:
        """Warn the user of a problem of the writer's."""
        self.warn(problem.message)


class PipeSource:
    """Facts from the program: :meth:`pull` by the recorder's thread, the rest by the main one."""

    def __init__(self, program: Program, recorder: Recorder) -> None:
        self._program = program
        self._recorder = recorder
        self._messages: queue.SimpleQueue[wire.Message | None] = queue.SimpleQueue()
        self._reported: tuple[Any, ...] = ()
        # From the last message.
        self._more = False
        self._trouble: ConnectionError | None = None
        self._dropped = 0
        self._errors: Mapping[str, int] = {}
        self._offset = 0.0

    def put(self, message: wire.Message) -> None:
        """Queue a message of the kinds ``facts`` and ``trouble``."""
        self._messages.put(message)
        self._recorder.wake()

    def end(self) -> None:
        """The program is gone: there are no more messages."""
        self._messages.put(None)

    def pull(self, after: int, limit: int, timeout: float) -> Batch:
        """Facts from number `after` on; see :class:`scalable.facts.FactSource`."""
        from scalable import facts

        self._report(after)
        raw: list[Any] = []
        try:
            # Wait only if the program has announced more.
            message = self._messages.get(self._more, timeout)
        except queue.Empty:
            if self._more:
                raise TimeoutError("the program does not send what it has announced") from None
            if self._trouble is not None:
                raise self._trouble from None
        else:
            if message is None:
                self.end()
                raise ConnectionError("the program is gone")
            raw, after = self._take(message, after)
        more = self._more or not self._messages.empty()
        return facts.Batch(
            facts.decode(raw), after, more, self._dropped, dict(self._errors), time() + self._offset
        )

    def _take(self, message: wire.Message, after: int) -> tuple[list[Any], int]:
        if message[0] == "trouble":
            _, is_gone, reason = message
            self._more = False
            self._trouble = (ConnectionRefusedError if is_gone else ConnectionError)(reason)
            raise self._trouble
        self._trouble = None
        _, raw, after, self._more, self._dropped, self._errors, self._offset = message
        return raw, after

    def _report(self, after: int) -> None:
        """Report the recorder's progress if it has changed."""
        report = (after, self._recorder.progress(), tuple(self._recorder.position))
        if report != self._reported:
            self._reported = report
            self._program.send("taken", *report)

    def close(self) -> None:
        """Nothing to release."""


class _Forward(logging.Handler):
    """Forwards the log records of this process to the program's own loggers."""

    def __init__(self, program: Program) -> None:
        super().__init__(logging.WARNING)
        self._program = program

    def emit(self, record: logging.LogRecord) -> None:
        self._program.send("log", record.name, record.levelno, self.format(record))

    def format(self, record: logging.LogRecord) -> str:
        """Text of a record; only the error instead of the stack for other packages."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None or record.name.partition(".")[0] == "scalable":
            return super().format(record)
        return f"{record.getMessage()} ({type(error).__name__}: {error})"


def main() -> None:
    """Record one run, from standard input, until it ends."""
    for number in _NOT_FOR_US:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    # Nothing else may write to the pipe: redirect standard output to standard error.
    answers = os.dup(1)
    os.dup2(2, 1)
    # The program has already warned of variables that cannot be used.
    usable(os.environ)
    program = Program(answers)
    messages = program.messages()
    first = next(messages, None)
    if first is None:
        return
    kind, version, about = first
    program.identify(about["program"])
    logging.getLogger().addHandler(_Forward(program))
    if version != wire.VERSION:
        program.warn("the installed version of scalable has changed since this program began")
        return
    resumed = None
    if kind == "resume":
        resumed = _resumed(program, about)
        writer = resumed.writer
    else:
        writer = RunWriter.create(**about, on_problem=program.warn_of)
    directory, location = writer.run_store.directory, writer.run_store.location
    joined = None if writer.shared is None else writer.shared.run
    program.send("made", None if directory is None else str(directory), location, joined)
    start = next(messages, None)
    if start is None:
        os._exit(0)
    try:
        from scalable.telemetry.submissions.submissions import SentGraphs

        submissions = SentGraphs()
        identity, parts, is_watched = start[1:]
        recorder = _recorder(program, writer, submissions, identity, parts)
        if resumed is not None:
            recorder.resume(resumed)
    except BaseException as error:
        program.warn(f"recording stopped before it began: {error!r}")
        writer.close(status="failed")
        os._exit(1)
    source = PipeSource(program, recorder)
    recorder.start(
        source if is_watched else None,
        lambda name, log, cause: program.send("death", name, log, cause),
    )
    threading.Thread(target=_report_end, args=(program, recorder), daemon=True).start()
    for message in messages:
        kind, *content = message
        if kind == "exit":
            break
        if kind in ("facts", "trouble"):
            source.put(message)
        else:
            _handle(kind, content, program, recorder, submissions)
    source.end()
    recorder.abandon()
    recorder.finished.wait(CLOSE_TIMEOUT)
    # Skip the exit handlers of exporters, which would wait again.
    os._exit(0)


def _resumed(program: Program, about: Mapping[str, Any]) -> Resumed:
    from scalable.telemetry.recorder.resume import resume

    try:
        return resume(**about, on_problem=program.warn_of)
    except BaseException as error:
        program.warn(f"the run cannot be continued: {error!r}")
        os._exit(1)


def _recorder(
    program: Program,
    writer: RunWriter,
    submissions: SentGraphs,
    identity: Mapping[str, Any],
    parts: Mapping[str, Any],
) -> Recorder:
    from scalable.code.environment import OwnSettings
    from scalable.common.options import RecorderOptions
    from scalable.telemetry.recorder.own_environment import OwnEnvironment
    from scalable.telemetry.recorder.run_code import RunCode
    from scalable_runs.redact import Redactor

    options, copy = RecorderOptions(**parts["options"]), parts["copy"]
    redact = Redactor(secrets=parts["secrets"], off=parts["redact_off"], salt=parts["redact_salt"])
    code = RunCode(parts["code"], writer, redact, with_patch=options.code_patch)
    # Git runs while the rest is imported.
    code.start()
    environment = None
    if options.environment:
        environment = OwnEnvironment(OwnSettings(*parts["program"]), writer)
        environment.start()
    from opentelemetry.sdk.resources import Resource

    from scalable.telemetry.configuration.routes import find_routes
    from scalable.telemetry.recorder.copies import start_copies
    from scalable.telemetry.recorder.recorder import Recorder
    from scalable.telemetry.recorder.run_roots import RunIdentity
    from scalable_runs.stores.places import spec_of

    return Recorder(
        RunIdentity(**identity),
        writer,
        # What is not known yet is on the run's root span alone.
        Resource({**code.attributes(CODE_WAIT), **parts["resource"]}, parts["resource_schema"]),
        submissions,
        redact=redact,
        warn=program.warn,
        routes=find_routes(os.environ, program.warn),
        options=options,
        code=code,
        environment=environment,
        copies=start_copies(
            None if copy is None else spec_of(copy), writer, program.warn, keep=parts["keep"]
        ),
        yield_seconds=0.0,
    )


def _handle(
    kind: str, content: Sequence[Any], program: Program, recorder: Recorder, submissions: SentGraphs
) -> None:
    """Handle a message of the program that is not about its source of facts."""
    from scalable import facts
    from scalable.code.sources import program_sources, readable
    from scalable.telemetry.signals.dask_spans import LeftSpan, OpenedSpan
    from scalable.telemetry.signals.spans import ids_of
    from scalable.telemetry.submissions.submissions import Sent

    if kind == "submissions":
        opened, ended, (begun, left) = content
        blocks = map(OpenedSpan.of, begun), [LeftSpan(*each) for each in left]
        submissions.add(map(ids_of, opened), map(Sent.of, ended), blocks)
        recorder.count_message()
    elif kind == "note":
        for fact in facts.decode(content):
            if isinstance(fact, facts.UserEvent):
                recorder.note(fact)
        recorder.count_message()
    elif kind == "sources":
        for source in readable(*content):
            program_sources().add(source)
    elif kind == "fail":
        recorder.fail(*content)
    elif kind == "flush":
        threading.Thread(target=_flush, args=(program, recorder, *content), daemon=True).start()
    elif kind == "close":
        errors, *how = content
        recorder.guard.errors.update(errors)
        recorder.end(*how)


def _flush(program: Program, recorder: Recorder, number: int, timeout: float) -> None:
    if recorder.flush(timeout):
        program.send("flushed", number, recorder.progress())


def _report_end(program: Program, recorder: Recorder) -> None:
    recorder.finished.wait()
    errors = dict(recorder.guard.errors)
    program.send("finished", errors, recorder.progress(), recorder.status)
