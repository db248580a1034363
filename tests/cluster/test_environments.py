"""What program, scheduler and workers run with, and a worker with another version of a package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

import scalable
from cluster import oracle
from cluster.tasks import wait_until
from scalable import diagnose_run
from scalable.analysis import load_report, render_text
from scalable_runs.reader import RunReader

#: A package that nothing imports but a task, and its versions in the program and in a worker.
PACKAGE = "twofold"
VERSION, OTHER = "2.3.0", "2.1.0"

#: In the URL that a package was installed from, in a variable, and in Dask's configuration.
PLANTED = ("planted-in-url-17", "planted-in-variable-17", "planted-in-config-17")


def where(_: int) -> str:
    import twofold

    return str(twofold.__file__)


def nothing(_: int) -> None:
    pass


def install(place: Path, version: str) -> Path:
    """Install `PACKAGE`; returns the directory of its metadata."""
    (place / f"{PACKAGE}.py").write_text("")
    about = place / f"{PACKAGE}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: {PACKAGE}\nVersion: {version}\n")
    return about


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment that has all of this one's, and another `PACKAGE`."""
    place = tmp_path_factory.mktemp("other")
    venv.create(place, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")
    site = sysconfig.get_path("purelib")
    (packages / "first.pth").write_text(f"import site; site.addsitedir({site!r})\n")
    about = install(packages, OTHER)
    url = f"https://me:{PLANTED[0]}@example.com/{PACKAGE}.git"
    found = {"url": url, "vcs_info": {"vcs": "git", "commit_id": "4ae1d0"}}
    (about / "direct_url.json").write_text(json.dumps(found))
    return str(place / "bin" / "python")


@pytest.fixture(scope="module")
def own_packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on the program's path, in which `PACKAGE` is."""
    place = tmp_path_factory.mktemp("own")
    install(place, VERSION)
    sys.path.insert(0, str(place))
    yield place
    sys.path.remove(str(place))


@pytest.fixture(scope="module")
def address(
    other_python: str, own_packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A cluster of processes: a scheduler, worker `same`, and worker `odd` with another package."""
    directory = tmp_path_factory.mktemp("cluster")
    file = directory / "scheduler.json"
    # For the functions above.
    path = [str(place) for place in Path(__file__).parents[:2]]
    secrets = {"OMP_ACCESS_TOKEN": PLANTED[1], "DASK_GATEWAY__PASSWORD": PLANTED[2]}
    common = ("--scheduler-file", str(file), "--no-dashboard")
    worker = (*common, "--no-nanny", "--nthreads", "1", "--name")
    commands = (
        (sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", *common),
        (sys.executable, "-m", "dask", "worker", *worker, "same"),
        (other_python, "-m", "distributed.cli.dask_worker", *worker, "odd"),
    )
    with ExitStack() as stack:
        for command in commands:
            own = [str(own_packages)] if command[0] == sys.executable else []
            process = subprocess.Popen(
                command,
                cwd=directory,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **secrets, "PYTHONPATH": os.pathsep.join([*own, *path])},
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        wait_until(file.exists)
        yield json.loads(file.read_text())["address"]


def environments(run: Any) -> dict[str, list[dict[str, Any]]]:
    """Lines of environments.jsonl by the name of the worker, or the kind of process."""
    run.flush()
    found: dict[str, list[dict[str, Any]]] = {}
    if (run.run_dir / "environments.jsonl").exists():
        for record in oracle.read(run.run_dir, "environments.jsonl"):
            found.setdefault(record.get("worker_id") or record["process"], []).append(record)
    return found


def test_a_worker_with_another_package_is_named(address, other_python, tmp_path):
    with Client(address) as client, Client(address) as second:
        client.wait_for_workers(2)
        with scalable.instrument(client, runs_dir=tmp_path / "runs") as run:
            wait_until(lambda: set(environments(run)) == {"program", "scheduler", "same", "odd"})
            by_name = {it["name"]: at for at, it in client.scheduler_info()["workers"].items()}
            file = client.submit(where, 1, workers=[by_name["odd"]]).result()
            assert Path(other_python).parents[1] in Path(file).parents
            wait_until(lambda: len(environments(run)["odd"]) == 2)
            # What is known of the workers is known of them in a run that begins later, too.
            with scalable.instrument(second, runs_dir=tmp_path / "more") as later:
                second.submit(nothing, 1).result()
                wait_until(lambda: set(environments(later)) >= {"program", "same", "odd"})
                assert len(environments(later)["odd"]) == 2
    oracle.check_contract(run.run_dir)
    found = environments(run)
    (program,), (same,), (scheduler,) = (found[it] for it in ("program", "same", "scheduler"))
    assert program["pid"] == os.getpid()
    assert program["packages"]["distributed"] == version("distributed")
    assert program["packages"][PACKAGE] == VERSION
    assert program["executable"] == sys.executable
    for line in (same, scheduler):
        assert line["digest"] == program["digest"]
        assert "differs" not in line
        assert "packages" not in line
    odd, since = found["odd"]
    assert odd["digest"] != program["digest"]
    assert odd["packages"] == {**program["packages"], PACKAGE: OTHER}
    assert odd["differs"] == since["differs"] == {PACKAGE: [OTHER, VERSION]}
    assert odd["executable"] == other_python
    assert odd["origins"][PACKAGE] == f"git+https://me:[redacted]@example.com/{PACKAGE}.git@4ae1d0"
    assert "imported" not in odd
    assert since["imported"] == [PACKAGE]
    sentence = f"orker odd has {PACKAGE} {OTHER}, the program {VERSION}"
    assert f"w{sentence}" in " ".join(render_text(load_report(RunReader(run.run_dir))).split())
    (finding,) = [it for it in diagnose_run(run_dir=run.run_dir).findings if sentence in it.title]
    assert finding.category == "environment"
    environment = json.loads((run.run_dir / "run.json").read_text())["environment"]
    assert environment["digest"] == program["digest"]
    assert environment["cpu"] == program["cpu"]
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        assert not [each for each in PLANTED if each.encode() in content], path


@pytest.mark.parametrize("recorder", ["process", "thread"])
def test_the_program_is_described_however_short_the_run_is(address, tmp_path, recorder):
    with Client(address) as client:
        given = {"recorder": recorder, "runs_dir": tmp_path / "runs"}
        with scalable.instrument(client, **given) as run:
            pass
        assert [it["pid"] for it in environments(run)["program"]] == [os.getpid()]
        with scalable.instrument(client, **given, environment=False) as run:
            client.submit(nothing, 2).result()
        assert environments(run) == {}
        assert "digest" not in json.loads((run.run_dir / "run.json").read_text())["environment"]
