"""What a process runs with: packages by their metadata's directories, host, variables, settings."""

from __future__ import annotations

import importlib.metadata
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource

from scalable import facts
from scalable.code.environment import (
    OwnSettings,
    installed,
    modules_of,
    pack,
    process_of,
    software_of,
    unpack,
)
from scalable.code.environment.host import MAX_VARIABLE
from scalable.code.environment.payload import MAX_PACKED, MAX_UNPACKED
from scalable.common.guard import Guard
from scalable.telemetry.ledger import Ledger
from scalable.telemetry.ledger.environments import Described
from scalable.telemetry.record_map import RECORD_MAP
from scalable.telemetry.signals.spans import span_context
from scalable_runs.otel.encode import encode_logs
from scalable_runs.redact import Redactor

A = "tcp://a:1"


def add(place: Path, name: str, version: str, **files: str) -> None:
    """Make the metadata of a distribution."""
    directory = place / f"{name}-{version}.dist-info"
    directory.mkdir(parents=True)
    files.setdefault("METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for file, text in files.items():
        (directory / file.replace("_json", ".json")).write_text(text)


# -- packages --------------------------------------------------------------------------------------


def test_versions_are_those_that_importlib_reads():
    found = installed().packages
    assert len(found) > 20
    assert found == {name: importlib.metadata.version(name) for name in found}


def test_the_first_on_the_path_is_the_one_that_is_imported(tmp_path):
    add(tmp_path / "first", "thing", "2.1.0")
    add(tmp_path / "second", "thing", "2.3.0")
    add(tmp_path / "second", "Other_Thing.x", "1.0+cpu")
    found = installed([str(tmp_path / "first"), str(tmp_path / "second")]).packages
    assert found == {"thing": "2.1.0", "other-thing-x": "1.0+cpu"}


def test_a_directory_without_a_version_is_read(tmp_path):
    egg = tmp_path / "old.egg-info"
    egg.mkdir()
    (egg / "PKG-INFO").write_text("Name: Old\nVersion: 0.3\n\nName: Not\nVersion: this\n")
    (tmp_path / "broken-1.0.dist-info").write_text("a file")
    (tmp_path / "empty.egg-info").mkdir()
    found = installed([str(tmp_path), str(tmp_path / "missing")]).packages
    assert found["old"] == "0.3"
    assert set(found) <= {"old", "broken"}


@pytest.mark.parametrize(
    ("about", "origin"),
    [
        ({"url": "file:///src/x", "dir_info": {"editable": True}}, "file:///src/x (editable)"),
        ({"url": "file:///src/x", "dir_info": {}}, "file:///src/x"),
        (
            {"url": "https://h/x.git", "vcs_info": {"vcs": "git", "commit_id": "4ae1"}},
            "git+https://h/x.git@4ae1",
        ),
        ({"url": "https://h/x.whl", "archive_info": {}}, "https://h/x.whl"),
        (["no", "table"], None),
    ],
)
def test_where_a_package_comes_from(tmp_path, about, origin):
    add(tmp_path, "thing", "1.0", direct_url_json=json.dumps(about))
    add(tmp_path, "plain", "1.0", direct_url_json="{not json")
    assert installed([str(tmp_path)]).origins == ({} if origin is None else {"thing": origin})


def test_condas_packages_by_the_names_of_its_files(tmp_path):
    (tmp_path / "conda-meta").mkdir()
    for name in ("numpy-2.1.0-py311_0.json", "libgcc-ng-13.2.0-h77fa898_1.json", "history"):
        (tmp_path / "conda-meta" / name).write_text("")
    assert installed([], str(tmp_path)).conda == {
        "libgcc-ng": "13.2.0=h77fa898_1",
        "numpy": "2.1.0=py311_0",
    }


def test_modules_of_a_distribution():
    assert "yaml" in modules_of("PyYAML")
    assert "distributed" in modules_of("distributed")
    assert modules_of("not-installed-here") == {"not_installed_here"}


# -- the process and its settings ------------------------------------------------------------------


def test_only_variables_of_the_list_are_recorded():
    found = process_of({"OMP_NUM_THREADS": "2", "AWS_SECRET_ACCESS_KEY": "x", "TZ": "U" * 9_999})
    assert found["variables"] == {"OMP_NUM_THREADS": "2", "TZ": "U" * MAX_VARIABLE}
    assert found["memory_bytes"] > 10**8
    assert found["cpu"]["count"] >= found["cpu"]["usable"] >= 1
    assert "batch_job" not in found


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        (
            {"SLURM_JOB_ID": "7", "SLURM_JOB_PARTITION": "gpu", "SLURM_JOB_NAME": ""},
            {"system": "slurm", "id": "7", "partition": "gpu"},
        ),
        (
            {"PBS_JOBID": "7.host", "PBS_QUEUE": "q"},
            {"system": "pbs", "id": "7.host", "queue": "q"},
        ),
        ({"LSB_JOBID": "9"}, {"system": "lsf", "id": "9"}),
    ],
)
def test_the_job_of_a_batch_system(environ, job):
    assert process_of(environ)["batch_job"] == job


def test_the_configuration_is_plain_and_bounded():
    itself: dict[str, Any] = {"a": {"b": [1, 2.5, None, True, ("x",)]}, "long": "y" * 10**6}
    itself["object"] = object()
    itself[5] = Path("x")  # type: ignore[index]
    itself["self"] = itself
    itself["many"] = list(range(10**5))
    plain = OwnSettings.here(itself).dask_config
    assert plain["a"] == {"b": [1, 2.5, None, True, ["x"]]}
    assert plain["object"] == "<object>"
    assert plain["<int>"] == "<PosixPath>"
    assert len(json.dumps(plain)) < 100_000


def test_what_was_packed_is_unpacked_and_nothing_else():
    software = software_of(OwnSettings.here({"a": 1}))
    assert unpack(pack(software)) == json.loads(json.dumps(software))
    assert pack(software) == pack(dict(reversed(software.items())))
    assert pack({"x": "y" * (MAX_UNPACKED + 1)}) == b""
    noise = "".join(chr(65 + (n * n * 7919 + n // 3) % 5_000) for n in range(MAX_PACKED))
    assert pack({"x": noise}) == b""
    bomb = zlib.compress(b" " * (MAX_UNPACKED * 50))
    for sent in (b"", b"no", None, "text", 5, pack({})[:-3], bomb, zlib.compress(b"[]")):
        assert not unpack(sent)


# -- the lines of a run ----------------------------------------------------------------------------


class Own:
    """A description of the program that is there when a test says so."""

    def __init__(self, **software: Any) -> None:
        self.software = {"python": "3.11.1", "packages": {}, "dask_config": {}, **software}
        self.is_over = False
        self.told: list[Any] = []
        self.ready = True

    def found(self, timeout: float = 0.0) -> Described | None:
        process = {"host": "h", "pid": 1, "variables": {"OMP_NUM_THREADS": "1"}}
        return Described(self.software, process) if self.ready else None

    def written(self, digest: str, process: Any) -> None:
        self.told.append((digest, process))


@pytest.fixture
def make() -> Callable[..., Any]:
    def make(own: Own | None, *secrets: str) -> Any:
        guard = Guard()
        redact = Redactor(secrets=secrets)
        ledger = Ledger(
            *("run-20260101T000000Z-test-00000000", span_context(1, 2), Resource({})),
            provider="test",
            redact=redact,
            guard=guard,
            environment=own,
        )

        def lines(*given: Any) -> list[dict[str, Any]]:
            ledger.take(list(given), 100.0)
            found: list[dict[str, Any]] = []
            for logs, _ in ledger.sink.drain().batches:
                found += encode_logs(logs, RECORD_MAP).get("environments.jsonl", [])
            return found

        lines.ledger = ledger
        return lines

    return make


def reported(address: str = A, pid: int = 2, modules: Any = (), **software: Any) -> Any:
    software = {"python": "3.11.1", "packages": {}, "dask_config": {}, **software}
    fields = {"software": pack(software), "host": "h", "pid": pid, "modules": modules}
    if not address:
        fields["process"] = "scheduler"
    return facts.WorkerEvent(facts.WORKER_EVENT, 95.0, address, facts.ENVIRONMENT, fields)


def imported(*modules: str) -> Any:
    fields = {"modules": list(modules)}
    return facts.WorkerEvent(facts.WORKER_EVENT, 96.0, A, facts.ENVIRONMENT, fields)


def test_packages_are_written_once_for_each_digest(make):
    own = Own(packages={"numpy": "2.3.0"})
    lines = make(own)
    equal = [reported(A, 2, packages={"numpy": "2.3.0"}), reported("tcp://b:1", 3, packages={})]
    first, second, third = lines(*equal)
    assert first["process"] == "program"
    assert first["packages"] == {"numpy": "2.3.0"}
    assert second["digest"] == first["digest"] != third["digest"]
    assert "packages" not in second
    assert "differs" not in second
    assert third["differs"] == {"numpy": [None, "2.3.0"]}
    assert own.told == [
        (first["digest"], {"host": "h", "pid": 1, "variables": {"OMP_NUM_THREADS": "1"}})
    ]


def test_reports_wait_until_the_program_is_described(make):
    own = Own(packages={"numpy": "2.3.0"})
    own.ready = False
    lines = make(own)
    assert lines(reported(packages={"numpy": "2.1.0"}, python="3.12.4")) == []
    assert not lines.ledger.environments.is_settled
    own.ready = True
    program, worker = lines()
    assert program["process"] == "program"
    assert worker["differs"] == {"python": ["3.12.4", "3.11.1"], "numpy": ["2.1.0", "2.3.0"]}
    assert lines.ledger.environments.is_settled


def test_a_program_that_cannot_be_described_hides_no_worker(make):
    own = Own()
    own.ready, own.is_over = False, True
    (worker,) = make(own)(reported(packages={"numpy": "2.1.0"}))
    assert worker["packages"] == {"numpy": "2.1.0"}
    assert "differs" not in worker


def test_a_package_that_differs_is_named_when_it_is_imported(make):
    lines = make(Own(packages={"numpy": "2.3.0", "pyyaml": "6.0"}))
    packages = {"numpy": "2.1.0", "pyyaml": "5.0"}
    _, worker = lines(reported(modules=["numpy", "json"], packages=packages))
    assert list(worker["imported"]) == ["numpy"]
    assert lines(imported("toolz", "numpy")) == []
    (later,) = lines(imported("yaml"))
    assert list(later["imported"]) == ["pyyaml"]
    assert later["differs"] == {"pyyaml": ["5.0", "6.0"]}
    assert later["worker"] == A
    assert lines(imported("yaml")) == []


def test_the_programs_own_process_is_described_once(make):
    lines = make(Own())
    assert [line["process"] for line in lines(reported("", pid=1), reported(A, pid=1))] == [
        "program"
    ]
    (scheduler,) = lines(reported("", pid=9))
    assert scheduler["process"] == "scheduler"
    assert "worker" not in scheduler


def test_secrets_are_taken_out(make):
    secret = "hunter2-and-more"
    own = Own(
        packages={"tokenize-rt": "6.0", "secretstorage": "3.3"},
        origins={"x": f"git+https://me:{secret}@h/x.git@1", "y": "https://u:p4ssw0rd@h/y.whl"},
        dask_config={"gateway": {"password": "opensesame", "auth": {"token": "a"}}, "n": 1},
    )
    (line,) = make(own, secret)()
    text = json.dumps(line)
    assert all(each not in text for each in (secret, "p4ssw0rd", "opensesame"))
    assert line["packages"] == {"tokenize-rt": "6.0", "secretstorage": "3.3"}
    assert line["dask_config"]["n"] == 1


def test_what_a_peer_sends_instead_is_no_harm(make):
    lines = make(Own())
    event = facts.WorkerEvent(facts.WORKER_EVENT, 95.0, A, facts.ENVIRONMENT, {})
    for fields in (
        {},
        {"modules": 5},
        {"software": b"x", "pid": "no"},
        {"software": pack({"packages": [1]})},
    ):
        lines(event._replace(fields=fields))
    assert lines.ledger._guard.errors == {}


def test_without_the_option_nothing_is_written(make):
    assert make(None)(reported(packages={"numpy": "2.1.0"})) == []


def test_a_successor_writes_no_second_line_of_the_program(make):
    before = make(Own(packages={"numpy": "2.3.0"}))
    written = before(reported(packages={"numpy": "2.1.0"}))
    after = make(Own(packages={"numpy": "2.3.0"}))
    after.ledger.restore(("environments.jsonl", line) for line in written)
    assert after(reported("tcp://b:1", 5, packages={"numpy": "2.1.0"}))[0].get("packages") is None
    (later,) = after(imported("numpy"))
    assert list(later["imported"]) == ["numpy"]
