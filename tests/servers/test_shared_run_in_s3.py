"""Programs that share nothing but a storage that speaks S3 write one run, and one is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from cluster import shared_program
from scalable.analysis import load_report
from scalable.telemetry import semconv
from scalable_runs.reader import RunReader
from scalable_runs.stores.places import spec_of
from servers.storages import BUCKET, VersityGateway

RUN_ID = "job-4712"
KINDS = ("killed", "process", "thread")
STORE = """
run_store:
  type: chunked-object
  config:
    endpoint: {endpoint}
    access_key: {access_key}
    secret_key: ${{STORE_SECRET}}
    bucket_name: {bucket}
    prefix: together
"""


class Program:
    def __init__(self, kind: str, server: VersityGateway, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.kind = kind
        text = STORE.format(endpoint=server.endpoint, access_key=server.access_key, bucket=BUCKET)
        (directory / "store.yaml").write_text(text)
        environment = {
            **os.environ,
            "SCALABLE_RUN_ID": RUN_ID,
            "SCALABLE_CONFIGURATION_FILE": "store.yaml",
            "STORE_SECRET": server.secret_key,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        self.process = subprocess.Popen(
            [sys.executable, shared_program.__file__, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=directory,
            env=environment,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> str:
        return self.process.communicate("\n", timeout=120)[0].strip()

    @property
    def files(self) -> list[Path]:
        return list((self.directory / ".scalable" / "runs").rglob("*"))


def test_one_trace_one_root_and_nothing_left_here(
    versitygw: VersityGateway, tmp_path: Path
) -> None:
    programs = [Program(kind, versitygw, tmp_path / kind) for kind in KINDS]
    try:
        said = [program.says().split() for program in programs]
        assert [words[0] for words in said] == ["recorded"] * len(KINDS)
        assert len({words[1] for words in said}) == 1, "one trace"
        for program in programs:
            assert program.end() == ("" if program.kind == "killed" else "completed")
    finally:
        for program in programs:
            program.process.kill()
    there = versitygw.files / BUCKET / "together" / RUN_ID
    assert [path.name for path in there.glob("closed*.json")] == ["closed.json"]
    assert (there / "summary.json").exists()
    config = {
        "endpoint": versitygw.endpoint,
        "access_key": versitygw.access_key,
        "secret_key": versitygw.secret_key,
        "bucket_name": BUCKET,
        "prefix": "together",
    }
    store = spec_of({"type": "chunked-object", "config": config}).open().find(RUN_ID)
    assert store is not None
    reader = RunReader(store)
    assert reader.document["trace_id"] == said[0][1]
    assert Counter(part.status for part in reader.parts.values()) == {"completed": 2, "lost": 1}
    report = load_report(reader)
    assert report.counts["tasks_succeeded"] == 20 * len(KINDS)
    (lost,) = [name for name, part in reader.parts.items() if part.status == "lost"]
    assert any(lost in sentence for sentence in report.missing), "it is named"
    spans = list(reader.records("spans.jsonl"))
    names = Counter(
        record["name"].split()[0]
        for record in spans
        if record.get("scope", {}).get("name") == semconv.SCOPE_NAME
        and record["name"].split()[0] in ("run", "writer")
    )
    assert names == {"run": 1, "writer": len(KINDS)}
    ids = {record["span_id"] for record in spans}
    parents = {record["name"]: record.get("parent_span_id") for record in spans}
    assert {name for name, parent in parents.items() if parent and parent not in ids} == set()
    for program in programs:
        assert bool(program.files) == (program.kind == "killed")
