"""Facts become signals: the cases that a cluster brings about only now and then."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource

from scalable import facts
from scalable.common.guard import Guard
from scalable.facts.identity import attempt_span_id
from scalable.telemetry.ledger import Ledger, UnknownEnds
from scalable.telemetry.ledger.tasks import CANCEL_WAIT, LEAVE_WAIT
from scalable.telemetry.ledger.workers import HELLO_WAIT
from scalable.telemetry.record_map import RECORD_MAP
from scalable.telemetry.signals.spans import span_context
from scalable_runs.otel.encode import encode_logs, encode_spans
from scalable_runs.redact import Redactor
from scalable_runs.summary import RunSummary

RUN = "run-20260101T000000Z-test-00000000"
ROOT = span_context(1 << 100, 1 << 50)
A, B, C = "tcp://a:1", "tcp://b:1", "tcp://c:1"


class Book:
    """A ledger and the records that come out of it."""

    def __init__(self, *secrets: str) -> None:
        self.guard = Guard()
        redact = Redactor(secrets=secrets)
        self.ledger = Ledger(
            RUN, ROOT, Resource({}), provider="test", redact=redact, guard=self.guard
        )
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.take(ready(A), hello(A), ready(B), hello(B))

    def take(self, *new: Any, now: float = 100.0) -> None:
        self.ledger.take(list(new), now)
        self.collect()

    def collect(self) -> None:
        for logs, spans in self.ledger.sink.drain().batches:
            for files in (
                encode_logs(logs, RECORD_MAP),
                encode_spans(spans, RECORD_MAP),
            ):
                for file, records in files.items():
                    self.records += [(file, record) for record in records]

    def lines(self, key: str) -> list[tuple[str, int]]:
        return [
            (record["state"], record["attempt"])
            for file, record in self.records
            if file == "tasks.jsonl" and record["task_id"] == key
        ]

    def of(self, file: str) -> list[dict[str, Any]]:
        return [record for name, record in self.records if name == file]


def ready(address: str, name: str = "0") -> facts.WorkerReady:
    return facts.WorkerReady(facts.WORKER_READY, 90.0, address, name, "host", 1, 2, 0, None)


def hello(address: str) -> facts.WorkerHello:
    return facts.WorkerHello(facts.WORKER_HELLO, 90.0, address, 89.0)


def submitted(key: str) -> facts.Submitted:
    return facts.Submitted(facts.SUBMITTED, 91.0, key, key, None, (), 0, None, False)


def started(key: str, run_id: int, worker: str = A) -> facts.Started:
    return facts.Started(facts.STARTED, 92.0, key, run_id, worker)


def actor_lost(key: str, worker: str) -> facts.Failed:
    message = "Worker holding Actor was lost"
    return facts.Failed(
        *(facts.FAILED, 95.0, key, 1, worker, None, None, 0.0, (), "RuntimeError", message, ""),
        *(None, False),
    )


def succeeded(key: str, run_id: int, worker: str = A) -> facts.Succeeded:
    return facts.Succeeded(
        facts.SUCCEEDED, 94.0, key, run_id, worker, 92.0, 93.0, 91.5, (), 8, "int", 0.5
    )


def gone(
    worker: str, *assigned: tuple[str, int], executing: Any = None, expected: bool = False
) -> facts.WorkerGone:
    return facts.WorkerGone(
        facts.WORKER_GONE, 95.0, worker, expected, "connection-lost", 2, assigned, executing, 0, 0
    )


def unassigned(key: str, run_id: int | None, reason: str = "worker-lost") -> facts.Unassigned:
    return facts.Unassigned(facts.UNASSIGNED, 95.0, key, run_id, A, reason)


def forgotten(key: str) -> facts.Forgotten:
    return facts.Forgotten(facts.FORGOTTEN, 96.0, key)


def waiting(key: str) -> facts.Waiting:
    return facts.Waiting(facts.WAITING, 96.0, key)


def counts_of(book: Book) -> dict[str, int]:
    summary = RunSummary()
    for file, record in book.records:
        summary.add(file, {"timestamp": "2026-01-01T00:00:00.000000Z", **record})
    return summary.document({})["counts"]


@pytest.fixture
def book():
    book = Book()
    yield book
    assert not book.guard.errors


def test_a_key_that_holds_a_secret_has_one_id_of_its_own_everywhere():
    secret = "a-value-that-is-known"
    book = Book(secret)
    keys = [f"load-{secret}-{number}" for number in range(3)]
    total = submitted(f"sum-{secret}")._replace(dependencies=tuple(keys), dependency_count=3)
    book.take(total, *map(submitted, keys), submitted("plain"), ready(C, f"w-{secret}"), hello(C))
    book.take(*(succeeded(key, n) for n, key in enumerate(keys[:2], 1)), started(keys[2], 3, C))
    book.take(gone(C, (keys[2], 3), executing=((3, 92.0),)), unassigned(keys[2], 3))
    failed = facts.Failed(
        *(facts.FAILED, 97.0, keys[2], 4, A, None, None, 0.0, ()),
        *(f"{secret}Error", f"said {secret}", f"trace {secret}", None, False),
    )
    book.take(failed, facts.Blamed(facts.BLAMED, 98.0, total.key, keys[2]))
    fields = {"name": "x", "location": "s3://x", "metadata": {"password": "any"}}
    book.take(facts.UserEvent(facts.USER_EVENT, 99.0, keys[0], 1, A, "artifact", fields))
    book.ledger.close(100.0)
    book.collect()
    assert secret not in repr(book.records)
    tasks = book.of("tasks.jsonl")
    shown = list(dict.fromkeys(record["task_id"] for record in tasks))
    assert len(shown) == 5
    (summed, *loads, plain) = shown
    assert plain == "plain"
    assert tasks[0]["dependencies"] == tuple(loads)
    assert book.lines(loads[0]) == [("submitted", 0), ("running", 1), ("succeeded", 1)]
    assert [state for state, _ in book.lines(loads[2])][-2:] == ["running", "failed"]
    (blamed,) = (record for record in tasks if "blame" in record)
    assert (blamed["task_id"], blamed["blame"]) == (summed, loads[2])
    failure, death = book.of("failures.jsonl")
    assert death["details"]["tasks"] == (loads[2],)
    assert failure["task_id"] == loads[2]
    (artifact,) = book.of("artifacts.jsonl")
    assert artifact["task_id"] == loads[0]
    assert artifact["metadata"] == {"password": "[redacted]"}
    # The worker makes the same span id of the key, which it knows as it is.
    spans = [record["span_id"] for record in tasks if record["state"] == "succeeded"]
    assert spans[0] == f"{attempt_span_id(RUN, keys[0], 1):016x}"


def test_without_a_board_the_first_in_order_fill_the_free_threads(book):
    book.take(*map(submitted, "wxyz"), started("w", 1))
    # Two threads: w was announced, so one more had begun: x is the first in the queue.
    book.take(gone(A, ("w", 1), ("x", 2), ("y", 3), ("z", 4)))
    book.take(*(unassigned(key, number) for number, key in enumerate("wxyz", 1)))
    assert book.lines("w") == [("submitted", 0), ("running", 1), ("lost", 1)]
    assert book.lines("x") == [("submitted", 0), ("running", 1), ("lost", 1)]
    assert book.lines("y") == book.lines("z") == [("submitted", 0)]


def test_with_a_board_it_is_known_exactly(book):
    book.take(*map(submitted, "xyz"))
    book.take(gone(A, ("x", 1), ("y", 2), ("z", 3), executing=((2, 94.5),)))
    book.take(*(unassigned(key, number) for number, key in enumerate("xyz", 1)))
    assert book.lines("y") == [("submitted", 0), ("running", 1), ("lost", 1)]
    assert book.lines("x") == book.lines("z") == [("submitted", 0)]


def test_cancelled_task_waits_for_the_report_of_its_start(book):
    book.take(submitted("x"), submitted("y"))
    for key, run_id in (("x", 1), ("y", 2)):
        book.take(unassigned(key, run_id, "client-releases-keys"), forgotten(key))
    assert book.lines("x") == [("submitted", 0)]
    assert book.ledger.tasks.pending_cancellations
    book.take(started("x", 1))
    assert book.lines("x") == [("submitted", 0), ("running", 1), ("cancelled", 1)]
    book.ledger.tick(100.0 + CANCEL_WAIT + 0.01)
    book.collect()
    assert book.lines("y") == [("submitted", 0), ("cancelled", 0)]
    assert not book.ledger.tasks.pending_cancellations


def test_cancelled_task_that_killed_its_worker_had_started(book):
    book.take(submitted("x"), unassigned("x", 1, "client-releases-keys"), forgotten("x"))
    book.take(gone(A, executing=((1, 94.0),)))
    assert book.lines("x") == [("submitted", 0), ("running", 1), ("cancelled", 1)]


def test_same_key_again_ends_the_waiting_for_the_old_one(book):
    book.take(submitted("x"), unassigned("x", 1, "client-releases-keys"), forgotten("x"))
    book.take(submitted("x"), succeeded("x", 2))
    assert book.lines("x") == [
        ("submitted", 0),
        ("cancelled", 0),
        ("submitted", 0),
        ("running", 1),
        ("succeeded", 1),
    ]


#: Lines of a task whose first attempt was lost.
LOST_AND_MADE_AGAIN = [
    ("submitted", 0),
    ("running", 1),
    ("lost", 1),
    ("running", 2),
    ("succeeded", 2),
]


@pytest.mark.parametrize("late", [1, 2])
def test_late_word_of_an_attempt_that_was_taken_back_is_a_lost_attempt(book, late):
    book.take(submitted("x"), unassigned("x", 1, "dependency-lost"), waiting("x"))
    book.take(unassigned("x", 2, "dependency-lost"), waiting("x"), started("x", late))
    book.take(succeeded("x", 3, B))
    assert book.lines("x") == LOST_AND_MADE_AGAIN


def test_a_report_after_the_start_of_the_next_attempt_is_late(book):
    book.take(submitted("x"), unassigned("x", 1, "dependency-lost"), waiting("x"))
    book.take(started("x", 2, B), started("x", 1), succeeded("x", 2, B))
    assert book.lines("x") == [("submitted", 0), ("running", 1), ("succeeded", 1)]


def test_a_result_of_which_there_was_a_copy_is_not_computed_again(book):
    book.take(submitted("x"), succeeded("x", 1), waiting("x"))
    found = succeeded("x", 2, B)._replace(start=94.0, stop=94.0)
    book.take(found)
    assert book.lines("x") == [("submitted", 0), ("running", 1), ("succeeded", 1)]
    book.take(waiting("x"), succeeded("x", 3))
    assert book.lines("x")[3:] == [("running", 2), ("succeeded", 2)]
    reopened = book.of("tasks.jsonl")[3]
    assert reopened["reopens"] == "succeeded"
    assert reopened["recomputed"] is True


def test_attempt_taken_back_while_it_ran_is_lost(book):
    book.take(submitted("x"), started("x", 1), unassigned("x", 1, "missing-data"), waiting("x"))
    book.take(succeeded("x", 2, B))
    assert book.lines("x") == LOST_AND_MADE_AGAIN


def test_reschedule_is_no_failure(book):
    book.take(submitted("x"), started("x", 1), unassigned("x", 1, "reschedule"), waiting("x"))
    book.take(succeeded("x", 2, B))
    assert [state for state, _ in book.lines("x")] == [
        "submitted",
        "running",
        "retried",
        "running",
        "succeeded",
    ]
    retried = book.of("tasks.jsonl")[2]
    assert retried["rescheduled"] is True
    assert "error_type" not in retried
    assert not book.of("failures.jsonl")
    assert "rescheduled" not in book.of("tasks.jsonl")[-1]


def test_result_lost_and_not_needed_again(book):
    book.take(submitted("x"), succeeded("x", 1), waiting("x"), forgotten("x"))
    assert book.lines("x") == [("submitted", 0), ("running", 1), ("succeeded", 1)]


@pytest.mark.parametrize("end", ["forgotten", "closed", "restarted"])
def test_result_lost_and_released_before_it_is_made_again(book, end):
    book.take(submitted("x"), succeeded("x", 1), waiting("x"), started("x", 2, B))
    if end == "forgotten":
        book.take(unassigned("x", 2, "client-releases-keys"), forgotten("x"))
    elif end == "restarted":
        book.take(facts.Restarted(facts.RESTARTED, 160.0))
    else:
        book.ledger.close(160.0)
        book.collect()
    assert book.lines("x")[2:] == [
        ("succeeded", 1),
        ("running", 2),
        ("cancelled", 2),
        ("succeeded", 2),
    ]
    *_, running, cancelled, last = book.of("tasks.jsonl")
    assert (running["reopens"], last["reopens"]) == ("succeeded", "cancelled")
    assert cancelled["span_id"] == running["span_id"]
    assert "span_id" not in last
    assert "duration_s" not in last
    counts = counts_of(book)
    assert (counts["tasks"], counts["tasks_succeeded"], counts["attempts"]) == (1, 1, 2)
    assert counts["tasks_cancelled"] == counts["tasks_recomputed"] - 1 == 0


def test_result_lost_and_its_second_attempt_too(book):
    book.take(submitted("x"), succeeded("x", 1), waiting("x"), started("x", 2), gone(B))
    book.take(unassigned("x", 2, "worker-lost"), waiting("x"), forgotten("x"))
    assert book.lines("x")[3:] == [("running", 2), ("lost", 2), ("succeeded", 2)]
    assert counts_of(book)["tasks_succeeded"] == 1


def test_an_attempt_whose_worker_left_before_word_of_its_start_is_lost_with_the_next(book):
    book.take(ready(B, "1"), submitted("x"), unassigned("x", 1), waiting("x"))
    book.take(started("x", 1), started("x", 2, B), succeeded("x", 2, B))
    assert book.lines("x") == [
        *(("submitted", 0), ("running", 1), ("lost", 1)),
        *(("running", 2), ("succeeded", 2)),
    ]


def test_actor_is_lost_with_its_worker(book):
    book.take(submitted("x"), succeeded("x", 1))
    book.take(gone(A, executing=()), actor_lost("x", A))
    assert book.lines("x")[2:] == [("succeeded", 1), ("failed", 1)]
    last = book.of("tasks.jsonl")[-1]
    assert last["reopens"] == "succeeded"
    assert "recomputed" not in last
    assert not [r for r in book.of("failures.jsonl") if r.get("task_id") == "x"]
    book.ledger.close(110.0)
    book.collect()
    lost, failure = book.of("failures.jsonl")
    assert lost["failure_class"] == "WorkerLost"
    assert failure["details"]["cause"] == lost["details"]["cause"]
    assert [death["worker"] for death in failure["details"]["deaths"]] == [A]
    counts = counts_of(book)
    assert (counts["tasks"], counts["tasks_succeeded"], counts["tasks_failed"]) == (1, 0, 1)
    assert counts["attempts"] == 1


def test_actor_leaves_with_a_worker_that_was_asked_to_go(book):
    book.take(submitted("x"), succeeded("x", 1))
    book.take(gone(A, executing=(), expected=True), actor_lost("x", A))
    (failure,) = book.of("failures.jsonl")
    assert failure["message"] == "Worker holding Actor was lost"
    assert "deaths" not in failure["details"]


def test_dropped_submission_still_leaves_the_attempt(book):
    book.take(succeeded("inc-0123456789abcdef0123456789abcdef", 1))
    (running, last) = book.of("tasks.jsonl")
    assert running["state"] == "running"
    assert last["task_name"] == "inc"


def test_no_end_is_written_that_is_not_known(book):
    book.take(*map(submitted, "vwxy"), started("y", 1), succeeded("w", 2))
    # It was cancelled: only whether it had begun is not known.
    book.take(unassigned("v", 3, "client-releases-keys"), forgotten("v"))
    unknown = book.ledger.close(120.0, complete=False)
    book.ledger.scheduler_lost("refused", unknown, 120.0)
    book.collect()
    assert unknown == UnknownEnds(running=("y",), waiting=1)
    assert [book.lines(key)[-1][0] for key in "vwxy"] == [
        "cancelled",
        "succeeded",
        "submitted",
        "running",
    ]
    (failure,) = book.of("failures.jsonl")
    assert failure["failure_class"] == "SchedulerLost"
    assert failure["details"] == {
        "phase": "scheduler_lost",
        "tasks": ("y",),
        "tasks_running": 1,
        "tasks_waiting": 1,
    }
    assert "1 tasks were running and 1 had not started" in failure["message"]


def test_a_complete_record_knows_that_what_is_open_was_cancelled(book):
    book.take(submitted("x"), submitted("y"), started("y", 1))
    assert not book.ledger.close(120.0)
    book.collect()
    assert [book.lines(key)[-1][0] for key in "xy"] == ["cancelled", "cancelled"]


def test_silent_worker_is_announced_after_a_while(book):
    book.take(ready("tcp://c:1"), now=200.0)
    assert len(book.of("workers.jsonl")) == 4
    book.ledger.tick(200.0 + HELLO_WAIT + 0.01)
    book.collect()
    states = [r["state"] for r in book.of("workers.jsonl") if r["worker"] == "tcp://c:1"]
    assert states == ["launched", "ready"]
    assert book.ledger.workers.unwatched == {"0": "it sends nothing of its own"}


def test_a_fact_that_makes_no_sense_costs_itself_alone(book, monkeypatch):
    monkeypatch.delenv("SCALABLE_STRICT", raising=False)
    broken = facts.Succeeded(
        facts.SUCCEEDED, 94.0, "x", 1, A, "early", None, 91.5, (), 8, "int", 0.5
    )
    book.take(submitted("x"), broken, submitted("y"))
    assert book.lines("y") == [("submitted", 0)]
    assert book.guard.errors
    book.guard.errors.clear()


def test_a_bare_key_forgets_a_task_that_has_ended(book):
    book.take(submitted("x"), succeeded("x", 1), "x")
    assert book.lines("x") == [("submitted", 0), ("running", 1), ("succeeded", 1)]
    assert not book.ledger.tasks.open_tasks()
    # Its result is wanted anew: another task with the same key, not the same one again.
    book.take(submitted("x"))
    assert book.lines("x")[3:] == [("submitted", 0)]


def test_a_bare_key_of_a_task_whose_end_was_dropped_ends_it_all_the_same(book):
    book.take(submitted("x"), "x", "", "unknown")
    assert book.lines("x") == [("submitted", 0), ("cancelled", 0)]


def test_entering_decides_nothing_that_a_later_fact_of_the_same_batch_would(book):
    book.take(submitted("x"), unassigned("x", 1, "client-releases-keys"), forgotten("x"))
    late = 100.0 + CANCEL_WAIT + 0.01
    book.ledger.enter([submitted("y")], late)
    book.ledger.enter([started("x", 1)], late)
    book.ledger.tick(late)
    book.collect()
    assert book.lines("x") == [("submitted", 0), ("running", 1), ("cancelled", 1)]


def test_facts_from_the_wire_are_decoded_and_rubbish_left_out():
    raw: list[Any] = [
        tuple(started("x", 1)),
        (999, 1.0),
        (facts.STARTED, 1.0),
        b"text",
        (),
        None,
        started("y", 2),
        # The key of a task that had ended and is forgotten.
        "z",
    ]
    assert facts.decode(raw) == [started("x", 1), started("y", 2), "z"]


def test_ids_of_attempts_are_the_same_everywhere_and_differ():
    one = attempt_span_id(RUN, "x", 1)
    assert one == attempt_span_id(RUN, "x", 1)
    others = {
        attempt_span_id(RUN, "x", 2),
        attempt_span_id(RUN, "y", 1),
        attempt_span_id(f"{RUN}x", "", 1),
    }
    assert one not in others
    assert len(others) == 3
    assert all(0 < number < 1 << 64 for number in (one, *others))


def test_attempt_whose_worker_went_as_the_run_ended_is_cancelled(book):
    """Its program was stopped, and its workers with it: it does not run again."""
    book.take(submitted("x"), started("x", 1))
    book.take(gone(A, executing=(), expected=True), unassigned("x", 1), waiting("x"))
    book.ledger.close(101.0)
    book.collect()
    assert book.lines("x") == [("submitted", 0), ("running", 1), ("cancelled", 1)]
    running, cancelled = book.of("tasks.jsonl")[1:]
    assert cancelled["span_id"] == running["span_id"]


@pytest.mark.parametrize("again", [True, False])
def test_attempt_whose_worker_went_while_the_run_goes_on_is_lost(book, again):
    book.take(submitted("x"), started("x", 1))
    book.take(gone(A, executing=(), expected=True), unassigned("x", 1), waiting("x"))
    if again:
        book.take(started("x", 2, B))
    else:
        book.take(now=100.0 + LEAVE_WAIT)
    lines = [("submitted", 0), ("running", 1), ("lost", 1)]
    assert book.lines("x") == lines + ([("running", 2)] if again else [])
