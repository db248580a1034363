"""Logs of dead workers sent to a real HTTP server that misbehaves in every way it can."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import run_builder as build
from scalable.cli import cli
from scalable.crash_upload import logs, transfer, uploads
from scalable.crash_upload.logs import CrashLog, outcomes
from scalable.crash_upload.transfer import check_url
from scalable.crash_upload.uploads import CrashUploads
from scalable_runs.redact import Redactor
from scalable_runs.schema import UPLOADS
from scalable_runs.stores.file import FileStore

Reply = tuple[int, bytes, dict[str, str]]


class Store(ThreadingHTTPServer):
    """Gives places and takes logs; `on_post` and `on_put` may answer otherwise."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.taken: list[bytes] = []
        self.on_post: Callable[[Store, int], Reply | None] = lambda store, number: None
        self.on_put: Callable[[Store, int], Reply | None] = lambda store, number: None
        self.place: dict[str, Any] = {}
        self.puts = 0
        self.let_go = threading.Event()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.base}/logs?key=1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    server: Store

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        place = {"url": f"{self.server.base}/put/{body['sha256']}", **self.server.place}
        usual = (200, json.dumps(place).encode(), {})
        self._answer(self.server.on_post(self.server, len(self.server.asked)) or usual)

    def do_PUT(self) -> None:
        self.server.puts += 1
        reply = self.server.on_put(self.server, self.server.puts)
        if reply is None:
            self.server.taken.append(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(reply or (200, b"", {}))

    def _answer(self, reply: Reply) -> None:
        status, body, headers = reply
        if status == 0:  # die in the middle
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.let_go.set()
        server.shutdown()
        thread.join()


TEXT = "last words\npassword=hunter2hunter2\n"


def run_with_logs(tmp_path: Path, *texts: str) -> Path:
    """A finished run with a dead worker for each text."""
    run = build.RunBuilder(tmp_path / "runs", "run-20260102T030405Z-x-0000aaaa")
    for number, text in enumerate(texts):
        log = f"logs/workers/{number}/20260102T030405.00000{number}Z.stderr.log"
        path = run.path / log
        path.parent.mkdir(parents=True)
        path.write_text(text)
        run.add(
            build.worker("lost", number, 5),
            build.failure(
                "WorkerLost", "lost", 5, phase="worker_lost", worker_id=str(number),
                cause="segfault", signal="SIGSEGV", stderr_path=log,
            ),
        )  # fmt: skip
    return run.finish(10)


def logs_of(run_dir: Path) -> list[CrashLog]:
    from scalable_runs.reader import RunReader

    return list(logs.crash_logs(RunReader(run_dir)))


def uploads_of(run_dir: Path, store: Store, **more: Any) -> CrashUploads:
    more.setdefault("redact", Redactor())
    return CrashUploads(
        FileStore(run_dir), run_dir.name, store.url, versions={"dask": "1"}, backoff=0.001, **more
    )


def ended(run_dir: Path) -> list[str]:
    return [record["outcome"] for record in outcomes(FileStore(run_dir))]


def send(tmp_path: Path, store: Store, *texts: str, **more: Any) -> Path:
    run_dir = run_with_logs(tmp_path, *(texts or (TEXT,)))
    uploads_of(run_dir, store, **more).send_all(logs_of(run_dir))
    return run_dir


def test_a_log_is_sent_redacted_with_the_hash_of_what_is_sent(tmp_path, store):
    run_dir = send(tmp_path, store)
    (content,) = store.taken
    assert b"last words\n" in content
    assert b"hunter2" not in content
    (asked,) = store.asked
    assert asked == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "contentType": "text/plain; charset=utf-8",
        "runId": run_dir.name,
        "workerId": "0",
        "cause": "segfault",
        "versions": {"dask": "1"},
    }
    (record,) = outcomes(FileStore(run_dir))
    assert (record["outcome"], record["tries"]) == ("uploaded", 1)
    assert record["sha256"] == asked["sha256"]


def test_raw_bytes_on_request(tmp_path, store):
    send(tmp_path, store, redact=None)
    assert store.taken == [TEXT.encode()]
    assert store.asked[0]["sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()


def test_never_twice_the_same_and_never_an_empty_one(tmp_path, store):
    run_dir = send(tmp_path, store, "same", "same", "")
    assert store.taken == [b"same"]
    assert ended(run_dir) == ["uploaded", "skipped", "skipped"]
    # Also not by another process, later.
    uploads_of(run_dir, store).send_all(logs_of(run_dir))
    assert store.taken == [b"same"]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_may_pass_is_tried_again(tmp_path, store, status):
    store.on_post = lambda store, n: (status, b"", {"Retry-After": "0"}) if n < 3 else None
    store.on_put = lambda store, n: (status, b"", {}) if n < 2 else None
    run_dir = send(tmp_path, store)
    assert len(store.taken) == 1
    (record,) = outcomes(FileStore(run_dir))
    assert (record["outcome"], record["tries"]) == ("uploaded", 4)


def test_an_end_to_trying(tmp_path, store):
    store.on_post = lambda store, n: (500, b"", {})
    run_dir = send(tmp_path, store)
    assert ended(run_dir) == ["failed"]
    assert len(store.asked) == uploads.TRIES


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_no_is_no(tmp_path, store, status):
    store.on_post = lambda store, n: (status, b"", {})
    assert ended(send(tmp_path, store)) == ["refused"]
    assert len(store.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[1]",
        b"{}",
        b'{"url": 7}',
        b'{"url": "http://192.0.2.1/x"}',
        b'{"url": "ftp://127.0.0.1/x"}',
        b'{"url": "file:///etc/passwd"}',
        b'{"url": "http://127.0.0.1/", "headers": {"A": "b\\r\\nC: d"}}',
        b'{"url": "http://127.0.0.1/", "headers": {"Content-Length": "1"}}',
        b"\xff\xfe",
    ],
)
def test_nonsense_is_refused(tmp_path, store, answer):
    store.on_post = lambda store, n: (200, answer, {})
    assert ended(send(tmp_path, store)) == ["refused"]
    assert store.puts == 0


def test_the_servers_bounds_are_kept(tmp_path, store):
    store.place = {"maxSize": 5}
    run_dir = send(tmp_path, store)
    assert ended(run_dir) == ["refused"]
    assert store.puts == 0


@pytest.mark.parametrize("expiry", [{"expiresIn": -1}, {"expiresAt": "2020-01-01T00:00:00Z"}])
def test_an_expired_place_is_asked_for_anew(tmp_path, store, expiry):
    store.place = expiry

    def renew(store: Store, number: int) -> None:
        if number == 2:
            store.place = {"expiresIn": 600}

    store.on_post = lambda store, n: renew(store, n)
    # The place of the second answer was made before it was renewed: the third is good.
    run_dir = send(tmp_path, store)
    assert ended(run_dir) == ["uploaded"]
    assert len(store.asked) == 3


def test_redirects_stay_with_their_host(tmp_path, store):
    store.on_post = lambda store, n: (307, b"", {"Location": "/elsewhere"}) if n == 1 else None
    assert ended(send(tmp_path, store)) == ["uploaded"]


@pytest.mark.parametrize(
    "target", ["http://localhost/x", "https://127.0.0.1/x", "http://192.0.2.1/x", "file:///x"]
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_leaves(tmp_path, store, target, status):
    store.on_put = lambda store, n: (status, b"", {"Location": target})
    assert ended(send(tmp_path, store)) == ["refused"]
    assert store.taken == []


def test_a_redirect_in_a_circle_ends(tmp_path, store):
    store.on_post = lambda store, n: (307, b"", {"Location": store.url})
    assert ended(send(tmp_path, store)) == ["refused"]


def test_a_server_that_dies_in_the_middle_is_tried_again(tmp_path, store):
    store.on_post = lambda store, n: (0, b"", {}) if n == 1 else None
    store.on_put = lambda store, n: (0, b"", {}) if n == 1 else None
    assert ended(send(tmp_path, store)) == ["uploaded"]


def test_a_server_that_is_not_there(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_dir = run_with_logs(tmp_path, TEXT)
    sender = CrashUploads(
        FileStore(run_dir),
        run_dir.name,
        f"http://127.0.0.1:{port}/",
        redact=None,
        versions={},
        backoff=0.001,
    )
    sender.send_all(logs_of(run_dir))
    (record,) = outcomes(FileStore(run_dir))
    assert (record["outcome"], record["tries"]) == ("failed", uploads.TRIES)


def test_a_server_that_answers_a_byte_now_and_then_meets_the_limit(tmp_path, store, monkeypatch):
    monkeypatch.setattr(transfer, "REQUEST_TIMEOUT", 0.3)
    monkeypatch.setattr(uploads, "TRIES", 2)

    def drip(store: Store, number: int) -> Reply:
        while not store.let_go.wait(0.05):
            if number > 10:
                break
        return (200, b"{}", {})

    store.on_post = drip
    assert ended(send(tmp_path, store)) == ["failed"]


def test_closing_keeps_its_limit_and_what_is_left_is_sent_later(tmp_path, store):
    run_dir = run_with_logs(tmp_path, "one", "two", "three")
    store.on_post = lambda store, n: store.let_go.wait(30) and None
    uploads = uploads_of(run_dir, store)
    for log in logs_of(run_dir):
        uploads.submit(log)
    begun = time.monotonic()
    assert not uploads.close(0.2)
    assert time.monotonic() - begun < 10
    assert ended(run_dir) == ["pending"] * 3
    store.let_go.set()
    store.on_post = lambda store, n: None
    result = CliRunner().invoke(
        cli, ["crash-logs", "upload", "--runs-dir", str(run_dir.parent), "--url", store.url]
    )
    assert result.exit_code == 0, result.output
    assert {b"one", b"two", b"three"} <= set(store.taken)


def test_closing_drains_what_waits(tmp_path, store):
    run_dir = run_with_logs(tmp_path, "one", "two", "three")
    uploads = uploads_of(run_dir, store)
    for log in logs_of(run_dir):
        uploads.submit(log)
    assert uploads.close(30)
    assert store.taken == [b"one", b"two", b"three"]


def test_the_queue_is_bounded_and_keeps_the_oldest(tmp_path, store):
    run_dir = run_with_logs(tmp_path, *(f"text {number}" for number in range(6)))
    entered = threading.Event()

    def hold(store: Store, number: int) -> None:
        entered.set()
        store.let_go.wait(30)

    store.on_post = lambda store, n: hold(store, n)
    uploads = uploads_of(run_dir, store, queue_size=2)
    first, *others = logs_of(run_dir)
    uploads.submit(first)
    assert entered.wait(30)
    for log in others:
        uploads.submit(log)
    assert uploads.dropped == 3
    store.let_go.set()
    assert uploads.close(30)
    assert store.taken == [b"text 0", b"text 1", b"text 2"]
    assert sorted(ended(run_dir)) == ["dropped"] * 3 + ["uploaded"] * 3


def test_a_log_that_leads_out_of_the_run_is_none(tmp_path, store):
    run_dir = run_with_logs(tmp_path, TEXT)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    log = run_dir / logs_of(run_dir)[0].log
    log.unlink()
    log.symlink_to(secret)
    assert logs_of(run_dir) == []
    uploads_of(run_dir, store).send_all([CrashLog("0", "../../secret", "x")])
    assert store.asked == []


@pytest.mark.parametrize(
    "url",
    ["http://example.org/", "ftp://127.0.0.1/", "//x", "", "https://", "http://127.0.0.1.evil.org/",
     "https://user:secret@example.org/"],
)  # fmt: skip
def test_addresses_that_are_not_taken(url):
    with pytest.raises(ValueError):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    ["https://example.org/x?y", "http://127.0.0.1:9/", "http://[::1]:9/", "http://localhost/"],
)
def test_addresses_that_are_taken(url):
    assert check_url(url) == url


def test_the_commands(tmp_path, store, monkeypatch):
    run_dir = run_with_logs(tmp_path, TEXT, "other\n")
    monkeypatch.setenv("SCALABLE_RUNS_DIR", str(run_dir.parent))
    runner = CliRunner()
    listed = runner.invoke(cli, ["crash-logs", "list"])
    assert listed.exit_code == 0, listed.output
    assert "segfault" in listed.output
    assert "SIGSEGV" in listed.output
    shown = runner.invoke(cli, ["crash-logs", "show", "1"])
    assert shown.output == "other\n"
    assert runner.invoke(cli, ["crash-logs", "show", "9"]).exit_code == 1
    dry = runner.invoke(cli, ["crash-logs", "upload", "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert [line.split(": ")[1] for line in dry.output.splitlines()] == [
        "31 bytes would be sent",
        "6 bytes would be sent",
    ]
    dry = runner.invoke(cli, ["crash-logs", "upload", "--dry-run", "-v"])
    assert '"workerId": "0"' in dry.output
    assert "hunter2" not in dry.output
    assert store.asked == []
    assert not (run_dir / "uploads.jsonl").exists()
    assert runner.invoke(cli, ["crash-logs", "upload"]).exit_code == 2
    assert runner.invoke(cli, ["crash-logs", "upload", "--url", "http://a.org"]).exit_code == 2
    sent = runner.invoke(cli, ["crash-logs", "upload", "--url", store.url, "--no-redact"])
    assert sent.exit_code == 0, sent.output
    assert TEXT.encode() in store.taken
    assert "uploaded" in runner.invoke(cli, ["crash-logs", "list"]).output
    dry = runner.invoke(cli, ["crash-logs", "upload", "--dry-run", "--no-redact"])
    assert dry.output.count("would be skipped (the same content was sent already)") == 2
    (first, second) = json.loads(runner.invoke(cli, ["crash-logs", "list", "--json"]).output)
    assert (first["worker_id"], first["cause"], first["ended_by"]) == ("0", "segfault", "SIGSEGV")
    assert (second["log"], second["size_bytes"]) == (
        "logs/workers/1/20260102T030405.000001Z.stderr.log",
        6,
    )
    assert second["upload"] == "uploaded"
    store.on_post = lambda store, n: (403, b"", {})
    again = runner.invoke(cli, ["crash-logs", "upload", "--url", store.url])
    assert again.exit_code == 1  # redacted, the first log has another content


def test_why_there_is_no_log_is_reported(tmp_path):
    """A worker that wrote nothing, one whose output nobody kept, and one on another host."""
    run = build.RunBuilder(tmp_path / "runs", "run-20260102T030405Z-x-0000aaaa")
    more: dict[str, dict[str, Any]] = {
        "silent": {"not_known": ["exit code and signal: its nanny sent no report"]},
        "unseen": {"not_known": ["its last output"]},
        "far": {"stderr_path": "host7:/tmp/x.log"},
    }
    for number, (name, details) in enumerate(more.items()):
        run.add(
            build.worker("lost", number, 5),
            build.failure(
                "WorkerLost", "lost", 5, phase="worker_lost", worker_id=name, cause="killed",
                **details,
            ),
        )  # fmt: skip
    path = run.finish(10)
    says = {
        "silent": "it wrote nothing",
        "unseen": "nothing was captured",
        "far": "it stayed on the worker's host, host7:/tmp/x.log",
    }
    listed = CliRunner().invoke(cli, ["crash-logs", "list", str(path)]).output
    for name, sentence in says.items():
        assert (sentence in listed) == (name != "far")
        shown = CliRunner().invoke(cli, ["crash-logs", "show", name, str(path)])
        assert shown.exit_code == 1
        assert f"no log of worker {name}: {sentence}." in shown.stderr
    assert "host7:/tmp/x.log" in listed


def test_a_place_may_not_be_another_service_of_this_machine(tmp_path, store):
    with Store() as other:
        store.place = {"url": f"{other.base}/admin", "headers": {"X-Delete": "all"}}
        run_dir = send(tmp_path, store)
        assert (other.asked, other.taken) == ([], [])
    assert ended(run_dir) == ["refused"]
    (record,) = outcomes(FileStore(run_dir))
    assert "another port of this machine" in record["error"]


@pytest.mark.parametrize(
    ("asked", "place", "taken"),
    [
        ("https://logs.example.org/x", "https://bucket.s3.amazonaws.com/k?X-Amz-Signature=1", True),
        ("https://logs.example.org/x", "http://127.0.0.1:80/x", False),
        ("https://logs.example.org/x", "https://127.0.0.1/x", False),
        ("https://logs.example.org/x", "https://localhost:9000/x", False),
        ("https://logs.example.org/x", "http://logs.example.org/x", False),
        ("http://127.0.0.1:80/x", "http://127.0.0.1:80/y", True),
        ("http://127.0.0.1:80/x", "http://127.0.0.1:81/y", False),
        ("http://127.0.0.1:80/x", "http://localhost:80/y", False),
        ("http://127.0.0.1:80/x", "https://store.example.org/y", True),
    ],
)
def test_which_places_are_taken(asked: str, place: str, taken: bool):
    answer = json.dumps({"url": place}).encode()
    if taken:
        assert transfer.Place.of(answer, asked).url == place
    else:
        with pytest.raises(transfer.UploadError):
            transfer.Place.of(answer, asked)


def test_an_answer_nested_deeper_than_can_be_read_is_refused(tmp_path, store):
    store.on_post = lambda store, n: (200, b"[" * 60_000, {})
    assert ended(send(tmp_path, store)) == ["refused"]


def test_many_logs_have_one_time_limit_together(tmp_path, store, monkeypatch):
    monkeypatch.setattr(uploads, "ALL_TIMEOUT", 0.0)
    run_dir = send(tmp_path, store, "one", "two", "three")
    assert store.asked == []
    assert ended(run_dir) == ["pending"] * 3


@pytest.mark.parametrize("kind", ["fifo", "zero", "sparse", "outside"])
def test_outcomes_are_read_from_a_regular_file_alone(tmp_path, kind):
    run_dir = run_with_logs(tmp_path, "one")
    path = run_dir / UPLOADS
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 3 * 10**9)
    else:
        (tmp_path / "other").write_text("{}\n")
        path.symlink_to("/dev/zero" if kind == "zero" else tmp_path / "other")
    tracemalloc.start()
    assert outcomes(FileStore(run_dir)) == []
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()


def test_a_log_that_is_larger_than_a_log_can_be_is_read_from_its_end(tmp_path, monkeypatch):
    run_dir = run_with_logs(tmp_path, "0123456789")
    monkeypatch.setattr(logs, "MAX_LOG", 4)
    (log,) = logs_of(run_dir)
    assert logs.read_log(FileStore(run_dir), log.log) == b"6789"


def test_a_loop_of_links_is_no_log(tmp_path):
    run_dir = run_with_logs(tmp_path, "one")
    (log,) = logs_of(run_dir)
    (run_dir / log.log).unlink()
    (run_dir / log.log).symlink_to(Path(log.log).name)
    assert FileStore(run_dir).stat(log.log) is None
