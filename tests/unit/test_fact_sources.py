"""Facts from a scheduler elsewhere: over slow links, and from other versions."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from scalable import facts
from scalable.instrumentation import fact_sources
from scalable.instrumentation.fact_buffer import ANSWER_BYTES
from scalable.instrumentation.fact_sources import (
    UNSEEN_AFTER,
    GraphCount,
    LateError,
    RemoteSource,
    SourceGoneError,
)

SUCCEEDED = (facts.SUCCEEDED, 2.0, "a", 7, "tcp://w", 1.0, 2.0, 1.0, (), 24, "int", None)
STARTED = (facts.STARTED, 1.0, "a", 7, "tcp://w")


class Elsewhere:
    """A scheduler behind a link that carries so many bytes a second; each fact has its size."""

    def __init__(self, sizes: list[int], rate: float, **more: Any) -> None:
        self.facts = [facts.Forgotten(facts.FORGOTTEN, 1.0, "x" * size) for size in sizes]
        self.rate = rate
        self.more = {"protocol": 2, "oldest": 1, "version": "9.9", **more}
        self.answers_nothing = False
        self.largest = 0

    async def ask(self, after: int, limit: int, size: int, timeout: float) -> dict[str, Any]:
        answer: list[Any] = []
        sent = 0
        for fact in self.facts[after - 1 :]:
            if size == 0 or (answer and sent + len(fact.key) > size):
                break
            answer.append(fact)
            sent += len(fact.key)
        if self.answers_nothing or sent / self.rate > timeout:
            raise TimeoutError
        self.clock += sent / self.rate
        self.largest = max(self.largest, sent)
        following = after + len(answer)
        return {
            "facts": answer,
            "next": following,
            "more": following <= len(self.facts),
            "dropped": 0,
            "errors": {},
            "now": 0.0,
            **self.more,
        }

    clock = 0.0


@pytest.fixture
def asked(monkeypatch):
    """Makes a source whose questions go to a scheduler that is none."""
    made: list[RemoteSource] = []

    def make(elsewhere: Elsewhere) -> RemoteSource:
        source = RemoteSource("tcp://elsewhere", {}, "run")
        source.registered.set()
        monkeypatch.setattr(source, "_ask", elsewhere.ask)
        monkeypatch.setattr(fact_sources, "monotonic", lambda: elsewhere.clock)
        made.append(source)
        return source

    yield make
    for source in made:
        source.close()


def pulled(source: RemoteSource, tries: int = 200) -> tuple[list[Any], facts.Batch, int]:
    """Pull until nothing is left; also how often the answer was late."""
    got: list[Any] = []
    after, lates = 1, 0
    for _ in range(tries):
        try:
            batch = source.pull(after, 2_000, 4.0)
        except LateError:
            lates += 1
            continue
        got += batch.facts
        after = batch.next
        if not batch.more:
            return got, batch, lates
    raise AssertionError("it never ends")


@pytest.mark.parametrize("rate", [20e3, 60e3, 1e6, 100e6])
def test_a_slow_link_gets_smaller_answers_and_loses_nothing(asked, rate):
    elsewhere = Elsewhere([1_500] * 3_000, rate)
    got, batch, lates = pulled(asked(elsewhere), 2_000)
    assert len(got) == 3_000
    assert batch.dropped == 0
    assert lates <= 3
    assert elsewhere.largest <= min(ANSWER_BYTES, 2.0 * rate)


def test_a_fast_link_gets_answers_as_large_as_may_be(asked):
    elsewhere = Elsewhere([10_000] * 1_000, 1e9)
    pulled(asked(elsewhere))
    assert elsewhere.largest > 0.9 * ANSWER_BYTES


def test_one_fact_that_never_comes_is_given_up_and_counted(asked):
    got, batch, _ = pulled(asked(Elsewhere([100, 100, 500_000, 100], 60e3)))
    assert [len(fact.key) for fact in got] == [100, 100, 100]
    assert batch.dropped == 1


def test_no_fact_is_given_up_while_the_scheduler_answers_nothing(asked):
    elsewhere = Elsewhere([100, 100], 60e3)
    source = asked(elsewhere)
    elsewhere.answers_nothing = True
    for _ in range(50):
        with pytest.raises(LateError):
            source.pull(1, 2_000, 4.0)
    elsewhere.answers_nothing = False
    got, batch, _ = pulled(source)
    assert len(got) == 2
    assert batch.dropped == 0


# -- versions -----------------------------------------------------------------------------------


def test_more_fields_than_are_known_are_ignored_and_fewer_are_filled():
    unread: Counter[str] = Counter()
    error = (facts.ATTEMPT_ERROR, 1.0, "a", 7, "ValueError", "m", "t", None)
    raw = [(*SUCCEEDED, "more"), SUCCEEDED[:-1], (*STARTED, 1, 2), error]
    assert facts.decode(raw, unread) == [
        SUCCEEDED,
        SUCCEEDED,
        facts.Started(*STARTED),
        facts.AttemptError(*error, (), None),
    ]
    assert not unread


def test_what_cannot_be_read_is_counted_by_kind():
    unread: Counter[str] = Counter()
    raw = [SUCCEEDED[:5], STARTED[:2], STARTED[:3], (77, 1.0), 5, (), [1], ([],), ("a",)]
    assert facts.decode(raw, unread) == []
    assert unread == {
        "unread:Succeeded": 1,
        "unread:Started": 2,
        "unread:kind 77": 1,
        "unread:no fact": 5,
    }


def test_kinds_without_number_are_counted_together():
    unread: Counter[str] = Counter()
    facts.decode([(kind, 1.0) for kind in range(1_000, 3_000)], unread)
    assert len(unread) <= facts.MAX_PLACES + 1
    assert unread.total() == 2_000


class Newer(Elsewhere):
    """A scheduler of a later version: longer facts, kinds that nobody knows here."""

    async def ask(self, *question: Any) -> dict[str, Any]:
        answer = await super().ask(*question)
        return answer | {"facts": [(*SUCCEEDED, "more"), (99, 1.0)], "next": 3, "more": False}


@pytest.mark.parametrize("oldest", [2, 7])
def test_a_newer_scheduler_is_read_as_far_as_may_be(asked, oldest):
    source = asked(Newer([], 1e9, protocol=7, oldest=oldest))
    for _ in range(2):
        batch = source.pull(1, 2_000, 4.0)
        assert batch.facts == [SUCCEEDED]
    too_far = {} if oldest == 2 else {"protocol:scheduler 9.9, protocol 7": 1}
    assert batch.errors == {"unread:kind 99": 2} | too_far


class Older:
    """A scheduler that knows of no sizes and tells no protocol."""

    questions: list[dict[str, Any]]

    def __init__(self) -> None:
        self.questions = []

    async def scalable_pull(self, run: str, after: int, limit: int) -> dict[str, Any]:
        self.questions.append({"after": after, "limit": limit})
        answer = {"facts": [STARTED], "next": after + 1, "more": after < 3, "dropped": 0}
        return answer | {"errors": {}, "now": 0.0}

    async def close_rpc(self) -> None:
        pass


def test_an_older_scheduler_is_asked_what_it_understands(asked):
    source = RemoteSource("tcp://elsewhere", {}, "run")
    source.registered.set()
    source._rpc = older = Older()
    got, batch, _ = pulled(source)
    source.close()
    assert got == [facts.Started(*STARTED)] * 3
    assert batch.errors == {}
    assert all(0 < question["limit"] <= 2_000 for question in older.questions)


def test_a_run_that_the_scheduler_does_not_know_is_gone():
    class Stranger(Older):
        async def scalable_pull(self, **_: Any) -> dict[str, Any]:
            return {"error": "no such run"}

    source = RemoteSource("tcp://elsewhere", {}, "run")
    source.registered.set()
    source._rpc = Stranger()
    with pytest.raises(SourceGoneError):
        source.pull(1, 10, 1.0)
    source.close()


def test_a_closed_port_means_gone_and_not_only_late():
    async def port() -> int:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        number = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return number

    source = RemoteSource(f"tcp://127.0.0.1:{asyncio.run(port())}", {}, "run")
    source.registered.set()
    with pytest.raises(SourceGoneError):
        source.pull(1, 10, 10.0)
    source.close()


def test_graphs_that_the_scheduler_has_not_taken_in_are_counted_after_a_while(monkeypatch):
    now = 100.0
    monkeypatch.setattr("scalable.instrumentation.fact_sources.monotonic", lambda: now)
    count = GraphCount()
    count.add()  # the scheduler has no plugin yet
    count.is_counting = True
    count.add()
    count.add()
    assert count.missing(1) == 0
    now += UNSEEN_AFTER
    assert count.missing(1) == 1
    assert count.missing(2) == 0
    assert count.missing(1) == 0
