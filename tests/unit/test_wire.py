"""Messages to and from the recorder's process: what goes in comes out, however it is cut."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types
from collections import OrderedDict
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType

import pytest
from opentelemetry.trace import SpanContext, TraceFlags

from scalable import facts
from scalable.telemetry.process import child
from scalable.telemetry.process.outgoing import Unconfirmed
from scalable.telemetry.recorder import wire
from scalable.telemetry.submissions.submissions import Sent

MESSAGES = [
    ("pull", 1, 2, 0.5, (0, 0, 0)),
    ("warn", "a lone surrogate \ud800, a character é, a NUL \0"),
    ("facts", 2, ([("x" * 5_000,)], 2**70, None, {"a": [1.5, b"b", True]})),
    ("empty",),
]


def read(data: bytes) -> list[wire.Message]:
    return list(wire.Reader().feed(data))


@pytest.mark.parametrize("piece", [1, 3, 4, 5, 1_000, 10**6])
def test_messages_are_put_together_from_pieces(piece):
    data = b"".join(map(wire.frame, MESSAGES))
    reader = wire.Reader()
    pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
    assert [message for each in pieces for message in reader.feed(each)] == MESSAGES


def test_messages_are_read_until_the_other_side_is_gone():
    data = b"".join(map(wire.frame, MESSAGES)) + wire.frame(MESSAGES[0])[:-1]
    assert read(data) == MESSAGES
    assert read(b"\x01") == []
    assert read(b"") == []


def test_more_than_a_pipe_holds_is_written_whole():
    message = ("large", "x" * 10**6)
    reads, writes = os.pipe()
    writer = threading.Thread(target=wire.write, args=(writes, message))
    writer.start()
    reader = wire.Reader()
    found: list[wire.Message] = []
    while not found:
        found += reader.feed(os.read(reads, 65_536))
    assert found == [message]
    writer.join()
    os.close(reads)
    os.close(writes)


class Number(int):
    pass


class Level(IntEnum):
    LOW = 1


class Opaque:
    def __repr__(self) -> str:
        raise RuntimeError("nobody asks")


class Hostile(dict):
    def items(self):
        raise RuntimeError("nobody looks")


def within_itself() -> list:
    value: list = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (facts.Restarted(facts.RESTARTED, 1.5), (facts.RESTARTED, 1.5)),
        (Number(3), 3),
        (Level.LOW, 1),
        (type("T", (str,), {})("text"), "text"),
        (OrderedDict(a=(1,)), {"a": (1,)}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ({2}, [2]),
        (Path("a/b"), "a/b"),
        (bytearray(b"x"), b"x"),
        ([Opaque()], ["<Opaque>"]),
        (Hostile(), "<Hostile>"),
    ],
)
def test_values_become_plain(value, expected):
    plain = wire.plain(value)
    assert plain == expected
    assert type(plain) is type(expected)
    assert read(wire.frame(("it", plain))) == [("it", expected)]


def test_a_message_gets_through_whatever_is_in_it():
    message = ("it", [Opaque(), facts.Restarted(13, 1.0)])
    assert read(wire.frame(message)) == [("it", ["<Opaque>", (13, 1.0)])]


def test_numbers_of_numpy_become_numbers():
    numpy = pytest.importorskip("numpy")
    for value in (numpy.int64(7), numpy.float64(7.0), numpy.float32(7.0)):
        plain = wire.plain({"it": value})["it"]
        assert plain == 7
        assert type(plain) in (int, float)


def test_a_value_within_itself_ends():
    assert wire.frame(("it", wire.plain(within_itself())))


def test_facts_come_out_as_they_went_in():
    numpy = pytest.importorskip("numpy")
    submitted = (facts.SUBMITTED, 1.0, "a", "a", None, (), 0, '{"run":"r"}', False)
    succeeded = (facts.SUCCEEDED, 2.0, "a", 7, "tcp://", 1.0, 2.0, 1.0, (), 24, "int", None)
    sized = (*succeeded[:9], numpy.int64(24), *succeeded[10:])
    known = [
        submitted,
        succeeded,
        "a",
        facts.Started(facts.STARTED, 1.0, "a", 7, "tcp://"),
        facts.WorkerEvent(facts.WORKER_EVENT, 1.0, "tcp://", "process", {"log": "x", "n": 1}),
    ]
    (message,) = read(wire.frame(("facts", wire.plain_facts([*known, sized]))))
    decoded = facts.decode(message[1])
    assert decoded == [*known, succeeded]
    assert [type(fact) for fact in decoded] == [*map(type, known), tuple]


def test_submissions_come_out_as_they_went_in():
    ids = SpanContext(2**127 + 1, 2**63 + 1, False, TraceFlags(1))
    for parent in (None, SpanContext(5, 6, True, TraceFlags(0))):
        sent = Sent(ids, parent, 1.0, 2.0, 3)
        assert Sent.of(sent.plain()) == sent


# -- what a successor needs ---------------------------------------------------------------------


def test_what_is_not_in_the_files_is_kept_for_a_successor():
    unconfirmed = Unconfirmed()
    unconfirmed.add_message(b"note")
    unconfirmed.add_facts(3, b"1,2")
    unconfirmed.add_message(b"submissions")
    unconfirmed.add_facts(6, b"3,4,5")
    assert unconfirmed.size_in_flight == 8
    unconfirmed.confirm(3, (1, {}, 0))  # taken, and not written yet
    assert unconfirmed.size_in_flight == 5
    unconfirmed.confirm(6, (3, {"tasks.jsonl": 7}, 1))
    assert unconfirmed.size_in_flight == 0
    assert unconfirmed.position == (3, {"tasks.jsonl": 7}, 1)
    assert unconfirmed.for_successor() == [b"submissions", b"3,4,5"]
    assert unconfirmed.size_in_flight == 5
    unconfirmed.confirm(6, (6, {}, 1))  # it counts messages anew
    assert unconfirmed.for_successor() == []


# -- the recorder's side ------------------------------------------------------------------------


class Program:
    """Keeps the messages that it is sent."""

    def __init__(self) -> None:
        self.messages: list[tuple] = []

    def send(self, *message) -> None:
        self.messages.append(message)


class Progressing:
    position = (1, {}, 0)
    woken = 0

    def progress(self):
        return 1, 2, 3

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def source():
    return child.PipeSource(Program(), Progressing())  # type: ignore[arg-type]


def facts_message(*found: str, following: int, more: bool = False) -> wire.Message:
    return ("facts", list(found), following, more, 0, {}, 0.0)


def test_facts_are_taken_in_the_order_in_which_they_were_sent(source):
    assert source.pull(1, 10, 60.0).facts == []  # at once, as nothing is announced
    source.put(facts_message("a", following=2))
    source.put(facts_message("b", following=3))
    assert source._recorder.woken == 2
    first = source.pull(1, 10, 60.0)
    assert (first.facts, first.next, first.more) == (["a"], 2, True)
    second = source.pull(2, 10, 60.0)
    assert (second.facts, second.next, second.more) == (["b"], 3, False)
    last = source.pull(3, 10, 60.0)
    assert (last.facts, last.next, last.more) == ([], 3, False)
    # What has been taken is reported once.
    taken = ("taken", 3, (1, 2, 3), (1, {}, 0))
    assert source._program.messages == [(*taken[:1], n, *taken[2:]) for n in (1, 2, 3)]


def test_facts_that_were_announced_are_waited_for(source):
    source.put(facts_message("a", following=2, more=True))
    assert source.pull(1, 10, 60.0).more
    with pytest.raises(TimeoutError, match="announced"):
        source.pull(2, 10, 0.001)
    timer = threading.Timer(0.05, source.put, [facts_message("b", following=3)])
    timer.start()
    assert source.pull(2, 10, 60.0).facts == ["b"]
    timer.join()


def test_trouble_of_the_program_with_its_scheduler_lasts_until_it_has_facts(source):
    source.put(("trouble", False, "tcp://127.0.0.1:1: late"))
    for _ in range(2):
        with pytest.raises(ConnectionError, match="late"):
            source.pull(1, 10, 5.0)
    source.put(("trouble", True, "tcp://127.0.0.1:1: refused"))
    with pytest.raises(ConnectionRefusedError, match="refused"):
        source.pull(1, 10, 5.0)
    source.put(facts_message(following=1))
    assert source.pull(1, 10, 5.0).facts == []
    assert source.pull(1, 10, 5.0).facts == []


def test_nothing_is_waited_for_after_the_program_ended(source):
    source.put(facts_message("a", following=2, more=True))
    source.end()
    assert source.pull(1, 10, 60.0).facts == ["a"]
    for _ in range(2):
        with pytest.raises(ConnectionError, match="gone"):
            source.pull(2, 10, 60.0)


@pytest.fixture
def pipe(monkeypatch):
    """A pipe in the place of standard input; returns its other end."""
    reads, writes = os.pipe()
    own = os.dup(0)
    os.dup2(reads, 0)
    with os.fdopen(reads, "rb") as file:
        monkeypatch.setattr(child.sys, "stdin", types.SimpleNamespace(buffer=file))
        yield writes
    os.dup2(own, 0)
    os.close(own)
    os.close(writes)


def test_a_program_that_ended_behind_an_open_pipe_is_noticed(pipe):
    """After all that it has sent."""
    with subprocess.Popen(["true"]) as process:
        for message in MESSAGES:
            wire.write(pipe, message)
        program = child.Program(-1)
        program.identify(process.pid)
        process.wait()
        assert list(program.messages()) == MESSAGES


def test_a_recorder_of_another_version_refuses():
    message = ("make", wire.VERSION + 1, {"program": os.getpid()})
    command = "from scalable.telemetry.process.child import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command], input=wire.frame(message), capture_output=True, check=True
    )
    ((kind, sentence),) = read(done.stdout)
    assert kind == "warn"
    assert "version" in sentence
