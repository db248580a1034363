"""Messages to and from the recorder's process: what goes in comes out, however it is cut."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType

import pytest
from opentelemetry.trace import SpanContext, TraceFlags

from scalable import facts
from scalable.telemetry import child, wire
from scalable.telemetry.process import plain_facts
from scalable.telemetry.submissions import Sent

MESSAGES = [
    ("pull", 1, 2, 0.5, (0, 0, 0)),
    ("warn", "a lone surrogate \ud800, a character é, a NUL \0"),
    ("facts", 2, ([("x" * 5_000,)], 2**70, None, {"a": [1.5, b"b", True]})),
    ("empty",),
]


@pytest.mark.parametrize("piece", [1, 3, 4, 5, 1_000, 10**6])
def test_messages_are_put_together_from_pieces(piece):
    data = b"".join(map(wire.frame, MESSAGES))
    reader = wire.Reader()
    pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
    assert [message for each in pieces for message in reader.feed(each)] == MESSAGES


def test_messages_are_read_until_the_other_side_is_gone():
    file = io.BytesIO(b"".join(map(wire.frame, MESSAGES)) + wire.frame(MESSAGES[0])[:-1])
    assert [wire.read(file) for _ in MESSAGES] == MESSAGES
    assert wire.read(file) is None
    assert wire.read(io.BytesIO(b"\x01")) is None
    assert wire.read(io.BytesIO()) is None


def test_more_than_a_pipe_holds_is_written_whole():
    message = ("large", "x" * 10**6)
    reads, writes = os.pipe()
    writer = threading.Thread(target=wire.write, args=(writes, message))
    writer.start()
    with os.fdopen(reads, "rb") as file:
        assert wire.read(file) == message
    writer.join()
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
    assert wire.read(io.BytesIO(wire.frame(("it", plain)))) == ("it", expected)


def test_a_message_gets_through_whatever_is_in_it():
    message = ("it", [Opaque(), facts.Restarted(13, 1.0)])
    assert wire.read(io.BytesIO(wire.frame(message))) == ("it", ["<Opaque>", (13, 1.0)])


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
    message = wire.read(io.BytesIO(wire.frame(("facts", plain_facts([*known, sized])))))
    assert message is not None
    decoded = facts.decode(message[1])
    assert decoded == [*known, succeeded]
    assert [type(fact) for fact in decoded] == [*map(type, known), tuple]


def test_submissions_come_out_as_they_went_in():
    ids = SpanContext(2**127 + 1, 2**63 + 1, False, TraceFlags(1))
    for parent in (None, SpanContext(5, 6, True, TraceFlags(0))):
        sent = Sent(ids, parent, 1.0, 2.0, 3)
        assert Sent.of(sent.plain()) == sent


# -- the recorder's side ------------------------------------------------------------------------


class Told:
    """Stands for the program: keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[tuple] = []
        self.is_gone = False

    def send(self, *message) -> None:
        self.messages.append(message)


class Progressing:
    abandoned = False
    position = (1, {}, 0)

    def progress(self):
        return 1, 2, 3

    def abandon(self) -> None:
        self.abandoned = True


@pytest.fixture
def source():
    source = child.PipeSource(Told())  # type: ignore[arg-type]
    source.recorder = Progressing()  # type: ignore[assignment]
    return source


ANSWER = (["a"], 2, False, 0, {}, 0.0)


def test_an_answer_that_comes_late_is_not_asked_for_again(source):
    with pytest.raises(TimeoutError, match="no answer"):
        source.pull(1, 10, -2.0)
    source.put(ANSWER)
    assert source.pull(1, 10, 5.0).facts == ["a"]
    source.put((["b"], 3, True, 0, {}, 0.0))  # before it is asked for
    assert source.pull(2, 10, 5.0).facts == ["b"]
    assert [message[:2] for message in source._program.messages] == [("pull", 1), ("pull", 2)]


def test_trouble_of_the_program_with_its_scheduler_is_told(source):
    source.put((wire.LATE, "tcp://127.0.0.1:1: refused"))
    with pytest.raises(ConnectionError, match="refused"):
        source.pull(1, 10, 5.0)


def test_once_the_program_is_gone_nobody_is_waited_for(source):
    source.hang_up()
    for _ in range(2):
        with pytest.raises(ConnectionError, match="gone"):
            source.pull(1, 10, 60.0)


def test_a_program_that_is_gone_behind_an_open_pipe_is_noticed(source):
    source._program.is_gone = True
    with pytest.raises(ConnectionError, match="gone"):
        source.pull(1, 10, 60.0)
    assert source.recorder.abandoned
