"""A run says which code ran: in run.json, code.patch, and on what is sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from scalable_runs.run_reader import RunReader
from scalable_runs.schema import CODE_PATCH

SECRET = "ghp_0123456789abcdefABCDEF0123456789abcd"
PROGRAM = textwrap.dedent(
    """
    import sys
    from distributed import Client, LocalCluster
    import scalable

    if __name__ == "__main__":
        with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
            with Client(cluster) as client:
                for options in ({}, {"code_patch": False}, {"recorder": "thread"}):
                    with scalable.instrument(client, project="floods", **options) as run:
                        assert client.submit(abs, -1).result() == 1
                    print(run.run_dir)
    """
)


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Take spans over OTLP."""
    taken: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                taken.append(ExportTraceServiceRequest.FromString(data))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_real_run_says_which_code_it_was(tmp_path: Path):
    git("init", "--quiet", "--initial-branch=main", ".")
    Path("work.py").write_text(PROGRAM)
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    git("remote", "add", "origin", f"https://ada:{SECRET}@github.com/ada/floods.git")
    Path("work.py").write_text(f"{PROGRAM}\n# changed\ntoken = {SECRET!r}\n")
    commit = git("rev-parse", "HEAD")
    with collector() as (url, taken):
        environ = {
            **os.environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        }
        done = subprocess.run(
            [sys.executable, "work.py"], env=environ, check=True, capture_output=True, text=True
        )
    assert "internal error" not in done.stderr
    runs = [Path(line) for line in done.stdout.split()]
    assert len(runs) == 3
    for run in runs:
        reader = RunReader(run)
        (found,) = reader.document["code_identities"]
        assert found["code_identifier"] == commit
        assert found["unstaged"] == ["work.py"]
        # The runs before are no change of the code.
        assert found["untracked"] == []
        assert found["code_identifier_url"] == "https://github.com/ada/floods.git"
        assert found["directory"] == str(tmp_path)
        roots = [span for span in reader.records("spans.jsonl") if span["name"] == "run floods"]
        attributes = roots[-1]["attributes"]
        assert attributes["vcs.ref.head.revision"] == commit
        assert attributes["vcs.repository.url.full"] == "https://github.com/ada/floods"
        files = [path for path in run.rglob("*") if path.is_file()]
        assert not [path for path in files if SECRET.encode() in path.read_bytes()]
        summary = json.loads((run / "summary.json").read_text())
        assert summary["run"]["code_identities"] == [found]
    patch = (runs[0] / CODE_PATCH).read_text()
    assert "+# changed\n" in patch
    assert "+token = '[redacted]'\n" in patch
    assert [(run / CODE_PATCH).exists() for run in runs] == [True, False, True]
    assert sent_revisions(taken) == {run.name: commit for run in runs}
    assert not [each for each in taken if SECRET.encode() in each.SerializeToString()]


def sent_revisions(taken: list[ExportTraceServiceRequest]) -> dict[str, str]:
    """The commit on the root span of each run, as it was sent."""
    found: dict[str, str] = {}
    for request in taken:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    names = {one.key: one.value.string_value for one in span.attributes}
                    if span.name == "run floods" and "vcs.ref.head.revision" in names:
                        found[names["scalable.run.id"]] = names["vcs.ref.head.revision"]
    return found


def test_a_program_that_is_no_script_has_its_code_in_the_working_directory(tmp_path: Path):
    script = "from scalable.code.program import program_places as p; print(p('m/s.yaml'))"
    text = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    assert text.strip() == str([str(tmp_path), str(tmp_path / "m" / "s.yaml")])
    Path("steps.py").write_text(script)
    Path("bin").mkdir()
    Path("bin/link.py").symlink_to("../steps.py")
    for arguments in (["steps.py"], ["-m", "steps"], ["bin/link.py"]):
        command = [sys.executable, *arguments]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert text.strip() == str([str(tmp_path / "steps.py"), str(tmp_path / "m" / "s.yaml")])
