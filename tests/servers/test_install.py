"""Getting the servers: once, whole or not at all, with an error that helps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from servers import install
from servers.install import InstallError, Job, Server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(install.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def a_server(recipe: Callable[[Job], None], *, version: str = "1", text: str = "") -> Server:
    return Server("thing", version, "bin/thing", text, "no time", recipe)


def works(job: Job) -> None:
    (job.target / "bin").mkdir()
    job.run("writing", [sys.executable, "-c", f"open({str(job.target / 'bin/thing')!r}, 'w')"])


def never(job: Job) -> None:
    pytest.fail("installed again")


def left(cache: Path) -> set[str]:
    return {entry.name for entry in cache.iterdir()} - {"thing.lock", "logs"}


def test_a_second_run_finds_what_the_first_installed(cache: Path):
    server = a_server(works)
    assert install.install(server) is True
    assert server.path.is_file()
    assert install.install(a_server(never)) is False
    assert left(cache) == {server.folder.name}


def test_another_version_or_recipe_is_another_installation():
    folders = {
        a_server(works).folder,
        a_server(works, version="2").folder,
        a_server(works, text="other").folder,
    }
    assert len(folders) == 3


def test_a_failure_names_the_step_and_its_log_and_leaves_nothing(cache: Path):
    def fails(job: Job) -> None:
        job.run("the second step", [sys.executable, "-c", "import sys; sys.exit('no space')"])

    with pytest.raises(InstallError, match="the second step failed; log: ") as caught:
        install.install(a_server(fails))
    assert "no space" in str(caught.value)
    log = Path(str(caught.value).split("log: ")[1].splitlines()[0])
    assert "no space" in log.read_text()
    assert left(cache) == set()
    assert install.install(a_server(works)) is True


def test_an_interruption_stops_what_runs_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def endless(job: Job) -> None:
        job.run("waiting", [sys.executable, "-c", "import time; time.sleep(3600)"])

    # Where it waits for the command; that the process is gone is seen after the test.
    monkeypatch.setattr(Job, "_follow", interrupt)
    with pytest.raises(KeyboardInterrupt):
        install.install(a_server(endless))
    assert left(cache) == set()


def test_what_a_killed_installation_left_is_cleared_away(cache: Path):
    (cache / ".thing-killed" / "target" / "bin").mkdir(parents=True)
    (cache / ".other-running").mkdir()
    server = a_server(works)
    install.install(server)
    assert left(cache) == {server.folder.name, ".other-running"}


def test_an_installation_without_its_program_is_an_error(cache: Path):
    with pytest.raises(InstallError, match="no bin/thing came of it"):
        install.install(a_server(lambda job: None))
    assert left(cache) == set()


def test_the_cache_is_in_the_directory_of_the_variable_or_with_other_caches(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    assert install.cache_directory() == cache
    monkeypatch.delenv(install.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert install.cache_directory() == Path("/somewhere/scalable-otel/servers")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert install.cache_directory() == Path("~/.cache/scalable-otel/servers").expanduser()


def test_the_list_shows_what_is_there(capsys: pytest.CaptureFixture[str]):
    assert install.main(["--list", "collector"]) == 0
    assert capsys.readouterr().out == f"collector {install.COLLECTOR_VERSION}: not installed\n"


def test_an_unknown_server_is_wrong_usage(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        install.main(["colector"])
    assert stopped.value.code == 2
    assert "there is no colector; there are prometheus, slurm" in capsys.readouterr().err
