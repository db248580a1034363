"""What the scheduler keeps for a recorder: bounded, in order, repeated until acknowledged."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace

import dask
import pytest
from distributed import Client, LocalCluster, Scheduler, wait

from scalable import facts
from scalable.facts import LEAVE_OP, PULL_OP, STREAM_OP
from scalable.instrumentation import scheduler_plugin
from scalable.instrumentation.hub import PULL_LIMIT, Hub
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
        plugin._note((facts.FORGOTTEN, float(number), f"key-{number}"), 160)


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
    monkeypatch.setattr(scheduler_plugin, "BUFFER_LIMIT", 160 * 100)

    def check(plugin, scheduler):
        _fill(plugin, 250)
        answer = plugin.pull(1)
        assert _times(answer) == [float(number) for number in range(100)]
        assert answer["dropped"] == 150
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
        with dask.annotate(**{facts.ANNOTATION: facts.carrier_of({"run": "run"})}):
            futures = client.map(_one_more, range(tasks), pure=False)
        wait(futures)
        keys = [future.key for future in futures]
        gc.collect()
        of_tasks = (facts.SUBMITTED, facts.SUCCEEDED)
        waiting = [fact for fact in plugin._facts if fact[0] in of_tasks]
        assert len(waiting) == 2 * tasks
        assert not any(map(gc.is_tracked, waiting))
        known = [scheduler.tasks[key] for key in keys]
        assert not any(gc.is_tracked(task.annotations) for task in known)
        # Of the workers' report nothing stays behind.
        assert not any(task.metadata for task in known)
        assert plugin._bytes == sum(map(scheduler_plugin._size, plugin._facts))

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
        assert sorted(plugin.pull(answer["next"])["facts"]) == sorted(keys)
        assert plugin._bytes == 0
        client.sync(plugin.leave)


@pytest.mark.parametrize("startstops", [({},), ({"action": "compute"},), 7])
def test_a_success_that_makes_no_sense_is_a_success_all_the_same(monkeypatch, startstops):
    monkeypatch.setenv("SCALABLE_STRICT", "0")

    def check(plugin, scheduler):
        scheduler.tasks["a"] = SimpleNamespace(run_id=3)
        plugin._known["a"] = 1.0
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
