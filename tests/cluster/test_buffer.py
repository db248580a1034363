"""What the scheduler keeps for a recorder: bounded, in order, repeated until acknowledged."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from types import SimpleNamespace
from unittest.mock import ANY

import dask
import pytest
from distributed import Client, LocalCluster, Scheduler, wait

from scalable import facts
from scalable.facts.identity import carrier_of
from scalable.facts.protocol import (
    ANNOTATION,
    CLOCK_SHIFT,
    EXPORTS_CHILDREN,
    LEAVE_OP,
    PULL_OP,
    STREAM_OP,
    THREAD_CPU,
)
from scalable.instrumentation import fact_buffer, task_facts
from scalable.instrumentation.fact_buffer import ANSWER_BYTES, PULL_LIMIT, total_size
from scalable.instrumentation.hub import Hub
from scalable.instrumentation.scheduler_plugin import ScalableSchedulerPlugin


def on_a_scheduler(check):
    async def main():
        async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler:
            plugin = ScalableSchedulerPlugin("run", client="Client-1")
            plugin.attach(scheduler)
            scheduler.add_plugin(plugin, name=plugin.name)
            check(plugin, scheduler)
            await plugin.leave()

    asyncio.run(main())


def _fill(plugin, count: int) -> None:
    for number in range(count):
        plugin.buffer.note((facts.FORGOTTEN, float(number), f"key-{number:03}"))


def _times(answer) -> list[float]:
    return [fact[1] for fact in answer["facts"]]


def test_an_answer_is_repeated_until_the_next_call_acknowledges_it():
    def check(plugin, scheduler):
        _fill(plugin, 5)
        first = plugin.pull(1, 2)
        assert _times(first) == [0.0, 1.0]
        assert first["next"] == 3
        assert first["more"] is True
        _fill(plugin, 1)
        assert _times(plugin.pull(1, 2)) == [0.0, 1.0]
        second = plugin.pull(3, 10)
        assert _times(second) == [2.0, 3.0, 4.0, 0.0]
        assert second["more"] is False
        assert plugin.pull(second["next"])["facts"] == []

    on_a_scheduler(check)


@pytest.mark.parametrize("limit", [10**9, 0, -5])
def test_no_caller_gets_more_than_the_bound_or_less_than_one(limit):
    def check(plugin, scheduler):
        _fill(plugin, PULL_LIMIT + 10)
        expected = PULL_LIMIT if limit > 0 else 1
        assert len(plugin.pull(1, limit)["facts"]) == expected

    on_a_scheduler(check)


def test_beyond_the_bound_facts_are_dropped_and_counted_exactly(monkeypatch):
    size = total_size(((facts.FORGOTTEN, 1.0, "key-000"),))
    monkeypatch.setattr(fact_buffer, "BUFFER_LIMIT", size * 100)

    def check(plugin, scheduler):
        _fill(plugin, 250)
        answer = plugin.pull(1)
        assert _times(answer) == [float(number) for number in range(100)]
        assert answer["dropped"] == 150
        # What is under way takes its room until it has arrived.
        assert plugin.pull(answer["next"])["facts"] == []
        _fill(plugin, 10)
        assert len(plugin.pull(answer["next"])["facts"]) == 10
        assert plugin.pull(111)["dropped"] == 150

    on_a_scheduler(check)


def test_rpc_knows_its_runs_only_and_leaves_nothing_behind():
    def check(plugin, scheduler):
        assert scheduler.handlers[PULL_OP](run="other") == {"error": "no such run"}
        assert "facts" in scheduler.handlers[PULL_OP](run="run", after=1, limit=5)
        # Whatever a worker sends, nobody is harmed.
        scheduler.stream_handlers[STREAM_OP](worker="tcp://x", reports=[(None, (1, 2)), ("run", 7)])
        assert Hub.of(scheduler).plugins == {"run": plugin}
        plugin.detach_quietly()
        assert PULL_OP not in scheduler.handlers
        assert LEAVE_OP not in scheduler.handlers

    on_a_scheduler(check)


def _one_more(number: int) -> int:
    return number + 1


def test_what_waits_is_nothing_for_the_garbage_collector():
    """It visits all that it cannot dismiss at first sight, of each task, again and again."""
    tasks = 500
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        scheduler = cluster.scheduler
        plugin = ScalableSchedulerPlugin("run", client=client.id, scope="cluster")

        async def attach():
            plugin.attach(scheduler)
            scheduler.add_plugin(plugin, name=plugin.name)

        client.sync(attach)
        with dask.annotate(**{ANNOTATION: carrier_of({"run": "run"})}):
            futures = client.map(_one_more, range(tasks), pure=False)
        wait(futures)
        keys = [future.key for future in futures]
        gc.collect()
        of_tasks = (facts.SUBMITTED, facts.SUCCEEDED)
        waiting = [fact for fact in plugin.buffer.waiting if fact[0] in of_tasks]
        assert len(waiting) == 2 * tasks
        assert not any(map(gc.is_tracked, waiting))
        known = [scheduler.tasks[key] for key in keys]
        assert not any(gc.is_tracked(task.annotations) for task in known)
        # Of the workers' report nothing stays behind.
        assert not any(task.metadata for task in known)
        assert plugin.buffer.bytes == total_size(plugin.buffer.waiting)

        answer = plugin.pull(1)
        done = [
            facts.Succeeded._make(fact)
            for fact in facts.decode(answer["facts"])
            if fact[0] == facts.SUCCEEDED
        ]
        assert sorted(fact.key for fact in done) == sorted(keys)
        for fact in done:
            assert fact.worker == next(iter(scheduler.workers))
            assert fact.ready <= fact.start <= fact.stop
            assert fact.typename == "int"
            assert fact.nbytes > 0

        # Of a task whose end has been told only its key is left.
        del futures
        while scheduler.tasks:
            client.sync(asyncio.sleep, 0.01)
        answer = plugin.pull(answer["next"])
        assert sorted(answer["facts"]) == sorted(keys)
        assert plugin.pull(answer["next"])["facts"] == []
        assert plugin.buffer.bytes == 0
        client.sync(plugin.leave)


@pytest.mark.parametrize("startstops", [({},), ({"action": "compute"},), 7])
def test_a_success_that_makes_no_sense_is_a_success_all_the_same(monkeypatch, startstops):
    monkeypatch.setenv("SCALABLE_STRICT", "0")

    def check(plugin, scheduler):
        scheduler.tasks["a"] = SimpleNamespace(run_id=3)
        plugin.tasks.known["a"] = 1.0
        plugin.transition(
            "a", "processing", "memory", stimulus_id="", worker="tcp://x", startstops=startstops
        )
        del scheduler.tasks["a"]
        answer = plugin.pull(1)
        (fact,) = (facts.Succeeded._make(fact) for fact in answer["facts"])
        assert (fact.key, fact.run_id, fact.worker, fact.cpu) == ("a", 3, "tcp://x", None)
        assert fact.start == fact.stop == fact.time
        assert sum(answer["errors"].values()) == 1

    on_a_scheduler(check)


@pytest.mark.parametrize(
    ("more", "times", "cpu", "exports"),
    [
        ({}, (10.0, 11.0), None, False),
        ({THREAD_CPU: 0.5}, (10.0, 11.0), 0.5, False),
        ({THREAD_CPU: 0.5, CLOCK_SHIFT: 7.0}, (17.0, 18.0), 0.5, False),
        ({CLOCK_SHIFT: 7.0}, (17.0, 18.0), None, False),
        ({THREAD_CPU: 0.5, CLOCK_SHIFT: 7.0, EXPORTS_CHILDREN: True}, (17.0, 18.0), 0.5, True),
        ({EXPORTS_CHILDREN: True}, (10.0, 11.0), None, True),
        ({THREAD_CPU: "0.5", CLOCK_SHIFT: "7.0"}, (10.0, 11.0), None, False),
    ],
)
def test_a_worker_reports_with_a_success_what_it_has_to_say(more, times, cpu, exports):
    def check(plugin, scheduler):
        scheduler.tasks["a"] = SimpleNamespace(run_id=3)
        plugin.tasks.known["a"] = 1.0
        report = {"action": "compute", "start": 10.0, "stop": 11.0, **more}
        plugin.transition("a", "processing", "memory", worker="tcp://x", startstops=(report,))
        del scheduler.tasks["a"]
        answer = plugin.pull(1)
        *before, last = answer["facts"]
        fact = facts.Succeeded._make(last)
        assert ((fact.start, fact.stop), fact.cpu) == (times, cpu)
        assert [tuple(it) for it in before] == [(facts.CHILDREN_EXPORTED, ANY, "a", 3)] * exports
        assert not answer["errors"]

    on_a_scheduler(check)


def test_successes_beyond_the_bound_are_dropped_and_counted(monkeypatch):
    def check(plugin, scheduler):
        scheduler.tasks["a"] = SimpleNamespace(run_id=3)
        for limit in (10**6, 0):
            monkeypatch.setattr(fact_buffer, "BUFFER_LIMIT", limit)
            plugin.tasks.known["a"] = 1.0
            plugin.transition("a", "processing", "memory", worker="tcp://x")
            plugin.transition("a", "released", "forgotten")
        del scheduler.tasks["a"]
        assert plugin.buffer.bytes == total_size(plugin.buffer.waiting)
        answer = plugin.pull(1)
        assert (len(answer["facts"]), answer["dropped"]) == (2, 2)

    on_a_scheduler(check)


# -- bytes ----------------------------------------------------------------------------------------


def _reports(scheduler, *raw, **more) -> None:
    scheduler.stream_handlers[STREAM_OP](
        worker="tcp://x", reports=[(None, fact) for fact in raw], **more
    )


def _event(**fields):
    return (facts.USER_EVENT, 1.0, None, None, "tcp://x", "artifact", fields)


def _error(key: str, run_id: int, text: str):
    return (facts.ATTEMPT_ERROR, 1.0, key, run_id, "ValueError", text, text, None, (), None)


_MEGABYTE = 2**20


def _large(number: int, size: int) -> str:
    return f"{number}".rjust(size, "x")


@pytest.mark.parametrize(
    "hostile",
    [
        lambda number: _event(kind=_large(number, _MEGABYTE)),
        lambda number: _event(**{f"k{i}": _large(number, 20_000) for i in range(50)}),
        lambda number: (facts.STARTED, 1.0, _large(number, _MEGABYTE), number, "tcp://x"),
        lambda number: (facts.WORKER_HELLO, 1.0, _large(number, _MEGABYTE), 1.0),
        lambda number: _error("x", number, _large(number, 7 * _MEGABYTE)),
        lambda number: _error(_large(number, _MEGABYTE), 1, "text"),
        lambda number: _error("x", number, "\U0001f600" * 30_000 + str(number)),
        lambda number: (facts.RELAY_LOGS, 1.0, "tcp://x", 1, bytes(_MEGABYTE), 0),
        lambda number: (facts.WORKER_EVENT, 1.0, "x", "process", {"a": [_large(number, 5_000)]}),
    ],
)
def test_what_peers_send_without_a_pull_stays_within_its_bound(monkeypatch, hostile):
    limit = 8 * _MEGABYTE
    monkeypatch.setattr(fact_buffer, "BUFFER_LIMIT", limit)
    monkeypatch.setattr(task_facts, "PENDING_ERRORS_LIMIT", limit)

    def check(plugin, scheduler):
        count = 400
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(count):
                _reports(scheduler, hostile(number))
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert held < 1.25 * limit
        kept, after, more = len(plugin.tasks.errors), 1, True
        while more:
            answer = plugin.pull(after)
            kept += sum(fact[0] in (*range(10, 41), facts.STARTED) for fact in answer["facts"])
            assert facts.size_of(answer["facts"]) <= 1.1 * ANSWER_BYTES
            after, more = answer["next"], answer["more"]
        assert kept + answer["dropped"] == count
        # And recording goes on.
        _fill(plugin, 3)
        assert _times(plugin.pull(after)) == [0.0, 1.0, 2.0]

    on_a_scheduler(check)


def test_an_answer_is_bounded_in_bytes_and_has_one_fact_at_least():
    def check(plugin, scheduler):
        _reports(scheduler, *(_event(kind=_large(number, 30_000)) for number in range(100)))
        _fill(plugin, 1)
        whole = plugin.pull(1, size=10**9)
        assert 20 < len(whole["facts"]) < 40
        assert whole["more"] is True
        # The same again, in smaller pieces; what was acknowledged is not repeated.
        first = plugin.pull(1, size=1)
        assert first["facts"] == whole["facts"][:1]
        assert first["next"] == 2
        second = plugin.pull(2, size=100_000)
        assert second["facts"] == whole["facts"][1:4]
        assert plugin.pull(2, size=0) == {**second, "facts": [], "next": 2, "now": ANY}
        rest, after = 0, 5
        while (answer := plugin.pull(after))["facts"]:
            rest += len(answer["facts"])
            after = answer["next"]
        assert (rest, answer["more"], answer["dropped"]) == (97, False, 0)
        assert plugin.buffer.bytes == 0

    on_a_scheduler(check)


def test_long_texts_are_cut_in_their_middle():
    def check(plugin, scheduler):
        _reports(scheduler, _event(kind=f"first{'x' * 100_000}last", metadata={"a": "y" * 99_999}))
        (fact,) = plugin.pull(1)["facts"]
        kind = fact.fields["kind"]
        assert (kind[:5], kind[-4:]) == ("first", "last")
        assert len(kind) < facts.MAX_TEXT + 100
        assert len(fact.fields["metadata"]["a"]) < facts.MAX_TEXT + 100

    on_a_scheduler(check)


def test_a_task_with_a_key_beyond_measure_is_counted_and_no_other_is_harmed():
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        plugin = ScalableSchedulerPlugin("run", client=client.id)
        scheduler = cluster.scheduler

        async def attach():
            plugin.attach(scheduler)
            scheduler.add_plugin(plugin, name=plugin.name)

        client.sync(attach)
        long = client.submit(_one_more, 1, key="k" * 50_000)
        assert client.submit(_one_more, long, key="short").result() == 3
        answer = plugin.pull(1)
        assert [fact[2] for fact in answer["facts"] if fact[0] == facts.SUBMITTED] == ["short"]
        assert answer["dropped"] == 1
        client.sync(plugin.leave)


# -- peers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [{}, [], None, 5, {"run": "run"}, b"run"])
def test_a_run_of_a_wrong_type_is_no_run(run):
    def check(plugin, scheduler):
        assert scheduler.handlers[PULL_OP](run=run) == {"error": "no such run"}
        asyncio.get_running_loop().create_task(scheduler.handlers[LEAVE_OP](run=run))

    on_a_scheduler(check)


@pytest.mark.parametrize(
    "question", [{"after": {}}, {"limit": None}, {"size": "x"}, {"after": float("inf")}]
)
def test_a_question_that_makes_no_sense_is_answered_so(question):
    def check(plugin, scheduler):
        assert "error" in scheduler.handlers[PULL_OP](run="run", **question)
        assert not plugin.guard.errors

    on_a_scheduler(check)


def test_a_recorder_of_another_version_is_answered(monkeypatch):
    def check(plugin, scheduler):
        _fill(plugin, 3)
        newer = {"protocol": 99, "size": 10**9, "and": {"more": 1}}
        assert len(scheduler.handlers[PULL_OP](run="run", after=1, limit=5, **newer)["facts"]) == 3
        older = scheduler.handlers[PULL_OP](run="run", after=1, limit=2)
        assert {"facts", "next", "more", "dropped", "errors", "now"} <= set(older)

    on_a_scheduler(check)


def test_a_worker_of_another_version_is_read_as_far_as_may_be():
    started = (facts.STARTED, 1.0, "a", 7, "tcp://x")

    def check(plugin, scheduler):
        _reports(scheduler, (*started, "more"), (99, 1.0), started[:3], started, protocol=3)
        answer = plugin.pull(1)
        assert [tuple(fact) for fact in answer["facts"]] == [started, started]
        assert answer["errors"] == {"unread:kind 99": 1, "unread:Started": 1}
        _reports(scheduler, started, protocol=9, oldest=8, more=1)
        answer = plugin.pull(answer["next"])
        assert [tuple(fact) for fact in answer["facts"]] == [started]
        assert answer["errors"]["protocol:worker 9"] == 1

    on_a_scheduler(check)


@pytest.mark.parametrize("reports", [None, 7, "text", {"a": 1}, [7, (), (1,), (1, 2, 3)], [[]]])
def test_invalid_reports_are_harmless(reports):
    def check(plugin, scheduler):
        scheduler.stream_handlers[STREAM_OP](worker={}, reports=reports, protocol=[], oldest=None)
        _fill(plugin, 1)
        assert len(plugin.pull(1)["facts"]) == 1

    on_a_scheduler(check)
