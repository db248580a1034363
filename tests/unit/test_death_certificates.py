"""What scheduler, nanny and worker say of a death, in whatever order it comes; and bounded logs."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from time import time
from typing import Any

import pytest

from scalable import facts
from scalable.common import spool
from scalable.instrumentation.tee import EMPTY_EXPIRY, EXPIRY, Log, remove_expired
from scalable.telemetry.deaths.deaths import LOG_WAIT, NANNY_WAIT, Deaths
from scalable.telemetry.deaths.worker_logs import WorkerLogs
from scalable.telemetry.semconv import CAUSE, EXIT_CODE, NOT_KNOWN, WORKER_MEMORY_PEAK
from scalable_runs.redact import Redactor
from scalable_runs.stores.file import FileStore

ADDRESS = "tcp://127.0.0.1:4000"


def ready(nanny: str | None = "tcp://127.0.0.1:5000") -> facts.WorkerReady:
    return facts.WorkerReady(facts.WORKER_READY, 0.0, ADDRESS, "w", "127.0.0.1", 7, 1, 10**9, nanny)


def gone(reason: str = "connection-lost") -> facts.WorkerGone:
    return facts.WorkerGone(
        facts.WORKER_GONE, 10.0, ADDRESS, False, reason, 1, (("a", 1),), ((1, 9.0),), 0, 5
    )


def left(status: int = -9, signal: str | None = "SIGKILL", **more: Any) -> facts.WorkerExit:
    fields = {"memory_kill": False, "oom_kills_group": 0, "oom_kills_host": 0, **more}
    return facts.WorkerExit(
        facts.WORKER_EXIT, 10.1, ADDRESS, status, signal, True, log="", tail="", **fields
    )


def deaths(nanny: str | None = "tcp://127.0.0.1:5000") -> Deaths:
    made = Deaths(Redactor(), None)
    made.ready(ready(nanny))
    return made


@pytest.mark.parametrize("nanny_first", [True, False])
def test_the_nannys_word_is_joined_whichever_comes_first(nanny_first):
    book = deaths()
    if nanny_first:
        book.exited(left())
    book.gone(gone(), ready(), ("a",), 10.0)
    if not nanny_first:
        assert book.settle(10.0 + NANNY_WAIT / 2) == []
        book.exited(left())
    (certificate,) = book.settle(10.0)
    assert certificate.failure[EXIT_CODE] == -9
    assert certificate.failure[CAUSE] == "killed"
    assert not book.pending


@pytest.mark.parametrize("nanny_first", [True, False])
def test_a_worker_that_ends_as_it_comes_is_known_by_its_nanny(nanny_first):
    """The scheduler has its address before the nanny has."""
    book = deaths()
    word = left()._replace(address="", nanny="tcp://127.0.0.1:5000")
    if nanny_first:
        book.exited(word)
    book.gone(gone(), ready(), ("a",), 10.0)
    if not nanny_first:
        book.exited(word)
    (certificate,) = book.settle(10.0)
    assert certificate.failure[EXIT_CODE] == -9
    # The next process of that nanny ends without ever having come: nobody's death.
    book.exited(word)
    assert not book.pending
    assert book.settle(20.0) == []


def test_a_silent_nanny_is_waited_for_and_then_reported():
    book = deaths()
    book.gone(gone(), ready(), ("a",), 10.0)
    assert book.settle(10.0 + NANNY_WAIT - 0.1) == []
    (certificate,) = book.settle(10.0 + NANNY_WAIT)
    assert certificate.verdict.confidence == "low"
    assert EXIT_CODE not in certificate.failure
    assert any("nanny sent no report" in said for said in certificate.failure[NOT_KNOWN])


def test_without_a_nanny_the_wait_is_short():
    book = deaths(None)
    book.gone(gone(), ready(None), (), 10.0)
    (certificate,) = book.settle(10.0 + LOG_WAIT)
    assert any("without a nanny" in said for said in certificate.failure[NOT_KNOWN])


@pytest.mark.parametrize("event_first", [True, False])
def test_a_memory_kill_counts_whenever_its_event_comes(event_first):
    book = deaths()
    book.sample(ADDRESS, 5.0, 10**8)
    event = facts.WorkerEvent(
        facts.WORKER_EVENT, 9.9, ADDRESS, "worker-restart-memory", {"rss": 96 * 10**7}
    )
    if event_first:
        book.event(event, "w")
    book.gone(gone(), ready(), ("a",), 10.0)
    if not event_first:
        book.event(event, "w")
    book.exited(left(-15, "SIGTERM"))
    (certificate,) = book.settle(10.0)
    assert certificate.failure[CAUSE] == "memory_limit"
    assert certificate.failure[WORKER_MEMORY_PEAK] == 96 * 10**7


@pytest.mark.parametrize(
    ("kills", "confidence"), [({"oom_kills_group": 1}, "high"), ({"oom_kills_host": 1}, "medium")]
)
def test_the_kernels_kill_for_memory(kills, confidence):
    book = deaths()
    book.gone(gone(), ready(), ("a",), 10.0)
    book.exited(left(**kills))
    (certificate,) = book.settle(10.0)
    assert (certificate.verdict.cause, certificate.verdict.confidence) == ("oom", confidence)


def test_a_report_of_an_earlier_worker_at_the_address_is_not_the_next_ones():
    book = deaths()
    book.exited(left(-11, "SIGSEGV"))
    book.removed(ADDRESS, "127.0.0.1")
    book.ready(ready())
    book.gone(gone(), ready(), (), 20.0)
    assert book.settle(20.0) == []


def test_killed_tasks_are_reported_once_all_their_deaths_are_known():
    book = deaths()
    told: list[Any] = []
    book.gone(gone(), ready(), ("a", "b"), 10.0)
    book.victim("a", "", told.append)
    book.notify_victims()
    assert told == []
    book.exited(left(-11, "SIGSEGV"))
    book.settle(10.0)
    book.notify_victims()
    ((presence,),) = told
    assert (presence.cause, presence.tasks) == ("segfault", 2)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "x/y.stderr.log", "a" * 32 + "/../x"])
def test_a_log_named_by_a_peer_is_looked_for_in_the_spool_alone(tmp_path, name):
    logs = WorkerLogs(FileStore(tmp_path), Redactor())
    logs.begin(ADDRESS, "../w", {"log": name, "log_path": "/etc/passwd"})
    kept = logs.end(ADDRESS, "elsewhere", {"log_path": "/etc/passwd"})
    assert kept.where == "elsewhere:/etc/passwd"
    assert list(tmp_path.iterdir()) == []


def test_a_log_of_this_host_that_is_not_there_is_not_named(tmp_path):
    logs = WorkerLogs(FileStore(tmp_path), Redactor())
    process = {"log_path": str(tmp_path / "gone.stderr.log"), "hostname": socket.gethostname()}
    assert logs.end(ADDRESS, "here", process).where is None
    (tmp_path / "gone.stderr.log").touch()
    assert logs.end(ADDRESS, "here", process).where == f"here:{process['log_path']}"


def written(path: Path, limit: int, pieces: list[bytes]) -> bytes:
    log = Log(spool.create_log(path), str(path), limit)
    for piece in pieces:
        log.write(piece)
    log.close()
    return path.read_bytes() if path.exists() else b""


def test_a_log_within_its_limit_is_whole(tmp_path):
    pieces = [b"line %d\n" % number for number in range(100)]
    assert written(tmp_path / "log", 10_000, pieces) == b"".join(pieces)


@pytest.mark.parametrize("size", [1, 7, 500, 5_000, 200_000])
def test_a_log_keeps_its_head_and_its_end_and_shows_what_it_left_out(tmp_path, size):
    text = b"".join(b"line %06d\n" % number for number in range(30_000))
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    kept = written(tmp_path / "log", 10_000, pieces)
    assert len(kept) <= 10_000 + 100
    head, _, rest = kept.partition(b"\n[... ")
    number, _, tail = rest.partition(b" bytes left out ...]\n")
    assert text.startswith(head)
    assert len(head) == 5_000
    assert text.endswith(tail)
    assert len(tail) >= 2_000
    assert len(head) + int(number) + len(tail) == len(text)


def test_an_empty_log_is_no_log(tmp_path):
    assert written(tmp_path / "log", 1_000, []) == b""
    assert list(tmp_path.iterdir()) == []


def test_the_tail_of_a_crash_begins_where_the_crash_does(tmp_path):
    path = tmp_path / "log"
    stacks = b"Fatal Python error: Aborted\n" + b"  File x, line 1 in f\n" * 5_000
    path.write_bytes(b"early\n" * 9_000 + b"last words\n" + stacks)
    tail = spool.read_tail(path, 4_000)
    assert "last words\nFatal Python error: Aborted\n" in tail
    assert len(tail) <= 4_000


@pytest.fixture
def own_spool(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return spool.spool()


def test_the_directory_of_a_log_that_is_to_come_is_not_removed(own_spool):
    """Another worker's helper tidies between a worker's two steps."""
    path = spool.new_log(ADDRESS, 1.0)
    path.parent.mkdir(mode=0o700)
    remove_expired(str(own_spool))
    assert path.parent.is_dir()
    os.utime(path.parent, (0.0, time() - 2 * EMPTY_EXPIRY))
    remove_expired(str(own_spool))
    assert not path.parent.exists()
    os.close(spool.create_log(path))
    os.utime(path.parent, (0.0, 0.0))
    remove_expired(str(own_spool))
    assert path.exists()
    os.utime(path, (0.0, time() - 2 * EXPIRY))
    os.utime(path.parent, (0.0, 0.0))
    remove_expired(str(own_spool))
    assert not path.parent.exists()


def test_a_directory_that_vanishes_is_made_again(own_spool, monkeypatch):
    path = spool.new_log(ADDRESS, 1.0)
    removed: list[Path] = []
    check = spool.check_private

    def remove_first(directory: Path) -> None:
        check(directory)
        if len(removed) < 3:
            removed.append(directory)
            directory.rmdir()

    monkeypatch.setattr(spool, "check_private", remove_first)
    os.close(spool.create_log(path))
    assert path.exists()


def test_whatever_lies_in_the_place_of_a_log_is_not_waited_for(own_spool):
    os.mkfifo(own_spool / "fifo")
    assert spool.log_state(own_spool / "fifo") == "complete"
