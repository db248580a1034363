"""Whose tasks a run records."""

from __future__ import annotations

from distributed import Client

import scalable
from cluster import oracle, tasks


def test_a_run_has_its_own_clients_tasks_and_no_other(make_cluster, notes_dir):
    cluster, mine = make_cluster()
    with Client(cluster) as other, scalable.instrument(mine) as run:
        theirs = other.map(tasks.add, [str(notes_dir)] * 5, range(100, 105))
        ours = mine.map(tasks.add, [str(notes_dir)] * 5, range(5))
        nested = mine.submit(tasks.nested_worker_client, str(notes_dir), 3)
        their_nested = other.submit(tasks.nested_get_client, str(notes_dir), 3)
        mine.gather(ours)
        nested.result()
        other.gather(theirs)
        their_nested.result()
        wanted = {future.key for future in [*ours, nested]}
        foreign = {future.key for future in [*theirs, their_nested]}
    oracle.check_contract(run.run_dir)
    recorded = set(oracle.lives(run.run_dir))
    assert wanted <= recorded
    assert not foreign & recorded
    assert len(recorded) == len(wanted) + 3
    oracle.check_attempts(run.run_dir, notes_dir, recorded)


def test_two_clients_write_two_true_runs(make_cluster, notes_dir):
    cluster, one = make_cluster()
    with Client(cluster) as two:
        with scalable.instrument(one, project="one") as first:
            with scalable.instrument(two, project="two") as second:
                a = one.map(tasks.add, [str(notes_dir)] * 10, range(10))
                b = two.map(tasks.add, [str(notes_dir)] * 10, range(50, 60))
                c = two.submit(tasks.flaky, str(notes_dir), 1, retries=2)
                one.gather(a)
                two.gather([*b, c])
                keys = {f.key for f in a}, {f.key for f in [*b, c]}
            one.submit(tasks.add, str(notes_dir), 1000).result()
    for run, expected in ((first, keys[0]), (second, keys[1])):
        oracle.check_contract(run.run_dir)
        recorded = set(oracle.lives(run.run_dir))
        assert expected <= recorded
        oracle.check_attempts(run.run_dir, notes_dir, recorded)
    assert set(oracle.lives(second.run_dir)) == keys[1]
    assert len(oracle.lives(first.run_dir)) == 11
    assert cluster.scheduler.extensions.get("scalable") is None
    assert not [name for name in cluster.scheduler.plugins if name.startswith("scalable")]
    assert "scalable" not in cluster.scheduler.worker_plugins


def test_a_task_that_both_clients_wait_for_is_in_both_runs(make_cluster, notes_dir):
    cluster, one = make_cluster(n_workers=1)
    with Client(cluster) as two:
        with scalable.instrument(one) as first, scalable.instrument(two) as second:
            a = one.submit(tasks.hold, str(notes_dir), "gate", key="shared")
            tasks.wait_for_notes(notes_dir, 1)
            b = two.submit(tasks.hold, str(notes_dir), "gate", key="shared")
            tasks.wait_until(lambda: len(cluster.scheduler.tasks["shared"].who_wants) == 2)
            (notes_dir / "gate").touch()
            assert a.result() == b.result() == 0
    for run in (first, second):
        oracle.check_contract(run.run_dir)
        assert oracle.states(run.run_dir, "shared") == ["submitted", "running", "succeeded"]


def test_a_task_that_another_client_had_queued_is_in_the_run_all_the_same(make_cluster, notes_dir):
    cluster, other = make_cluster(n_workers=1)

    def chain(client):
        first = client.submit(tasks.hold, str(notes_dir), "gate", key="first")
        return client.submit(abs, first, key="second")

    with Client(cluster) as mine, scalable.instrument(mine) as run:
        theirs = chain(other)
        tasks.wait_for_notes(notes_dir, 1)
        known = cluster.scheduler.tasks
        # Its graph may come after the first task has begun.
        tasks.wait_until(lambda: "second" in known and known["second"].state == "waiting")
        ours = chain(mine)
        tasks.wait_until(lambda: len(cluster.scheduler.tasks["second"].who_wants) == 2)
        (notes_dir / "gate").touch()
        assert ours.result() == theirs.result() == 0
    oracle.check_contract(run.run_dir)
    for key in ("first", "second"):
        assert oracle.states(run.run_dir, key) == ["submitted", "running", "succeeded"]


def test_scope_cluster_records_all(make_cluster, notes_dir):
    cluster, mine = make_cluster()
    with Client(cluster) as other, scalable.instrument(mine, scope="cluster") as run:
        futures = [
            *other.map(tasks.add, [str(notes_dir)] * 5, range(5)),
            other.submit(tasks.nested_worker_client, str(notes_dir), 3),
        ]
        other.gather(futures)
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert len(oracle.lives(run.run_dir)) == 9
