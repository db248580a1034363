"""Run a short core of the tests on the machine's other Pythons, and on the oldest supported Dask
and OpenTelemetry.

``make core`` calls this. Each combination has a virtual environment of its own under
``.venv-core``, which a second run reuses. The core is every attempt against the oracle, the deaths
of workers, a session, the readers, and the contract tests of what is used of Dask beyond its public
interface. With the oldest OpenTelemetry it is what a collector receives, what workers relay, and
the units that use the SDK.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".venv-core"
MINORS = range(11, 15)

TESTS = (
    "tests/cluster/test_dask_compat.py",
    "tests/cluster/test_task_calls.py",
    "tests/cluster/test_tasks.py",
    "tests/cluster/test_deaths.py::test_every_way_to_die",
    "tests/cluster/test_deaths.py::test_culprit_and_innocent_are_distinguished",
    "tests/cluster/test_deaths.py::test_asked_to_go_is_no_death",
    "tests/cluster/test_session.py::test_a_session_leaves_twelve_files",
    "tests/exporters/test_earlier_runs.py",
    "tests/exporters/test_reader.py",
)
#: The core for the oldest OpenTelemetry.
TELEMETRY_TESTS = (
    "tests/servers/test_run_over_otlp.py::test_a_run_arrives_whole",
    "tests/servers/test_user_code.py",
    "tests/servers/test_autoinstrument.py",
    "tests/cluster/test_relay.py",
    "tests/cluster/test_otel_variables.py",
    "tests/unit/test_ids.py",
    "tests/unit/test_limits.py",
    "tests/unit/test_metering.py",
    "tests/unit/test_otel_environment.py",
    "tests/unit/test_recorder.py",
    "tests/unit/test_routes.py",
    "tests/unit/test_shipping.py",
    "tests/unit/test_signals.py",
    "tests/unit/test_testing.py",
)
PACKAGES = ("hypothesis>=6.100", "psutil>=5.9", "pytest>=8.2", "pytest-timeout>=2.3")
EXTRAS = "session,otlp"

#: Where Pythons are kept that are not on PATH, or are there only as shims.
PLACES = ("~/.pyenv/versions/*/bin", "~/.local/share/uv/python/*/bin", "/opt/python*/bin")


@dataclass(frozen=True)
class Combination:
    """An interpreter and, where they are not the newest, releases of Dask or OpenTelemetry."""

    python: str
    minor: int
    dask: str | None = None
    #: Requirements of OpenTelemetry's packages.
    otel: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        name = f"python3.{self.minor}" + (f"-dask{self.dask}" if self.dask else "")
        return name + (f"-otel{self.otel[0].partition('==')[2]}" if self.otel else "")

    @property
    def tests(self) -> tuple[str, ...]:
        return TELEMETRY_TESTS if self.otel else TESTS

    @property
    def requirements(self) -> list[str]:
        wanted = [*PACKAGES, *self.otel]
        wanted += ["--editable", f".[{EXTRAS}{',auto' if self.otel else ''}]"]
        if self.dask:
            wanted += [f"dask=={self.dask}", f"distributed=={self.dask}"]
        return wanted


def oldest_dask() -> str:
    """The lower bound of distributed in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (requirement,) = project["optional-dependencies"]["dask"]
    found = re.fullmatch(r"distributed>=([\d.]+)", requirement)
    assert found is not None, requirement
    return found[1]


def oldest_otel() -> tuple[str, ...]:
    """The lower bounds of OpenTelemetry's packages in pyproject.toml, the API's first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["otlp"], *extras["auto"]]
    bounds = [one for one in wanted if re.fullmatch(r"opentelemetry-[\w-]+>=[\w.]+", one)]
    assert bounds[0].startswith("opentelemetry-api>="), wanted
    return tuple(one.replace(">=", "==") for one in bounds)


def interpreters() -> dict[int, str]:
    """A working interpreter for each minor version of Python 3 that the machine has."""
    found: dict[int, str] = {}
    for directory in directories():
        for minor in MINORS:
            python = directory / f"python3.{minor}"
            if minor not in found and python.exists() and works(python, minor):
                found[minor] = str(python)
    return found


def directories() -> Iterator[Path]:
    for place in os.get_exec_path():
        yield Path(place)
    for pattern in PLACES:
        base = Path(pattern).expanduser()
        yield from sorted(Path(base.anchor).glob(str(base.relative_to(base.anchor))))


def works(python: Path, minor: int) -> bool:
    """Whether it starts and can make a virtual environment; shims of version managers may not."""
    program = "import ensurepip, sys, venv; print(sys.version_info[1])"
    try:
        ran = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ran.returncode == 0 and ran.stdout.strip() == str(minor)


def combinations() -> list[Combination]:
    found = interpreters()
    own = sys.version_info[1]
    others = [Combination(path, minor) for minor, path in sorted(found.items()) if minor != own]
    oldest = Combination(sys.executable, own)
    if found:
        minor = min(found)
        oldest = Combination(found[minor], minor)
    python = oldest.python, oldest.minor
    return [
        *others,
        Combination(*python, dask=oldest_dask()),
        Combination(*python, otel=oldest_otel()),
    ]


def installed(combination: Combination) -> Path:
    """Make the environment where it does not fit yet; return its interpreter."""
    environment = ENVIRONMENTS / combination.name
    python = environment / "bin/python"
    wanted = combination.requirements
    key = f"{wanted} {ROOT} {hashlib.sha256((ROOT / 'pyproject.toml').read_bytes()).hexdigest()}"
    made = environment / ".made"
    if made.exists() and made.read_text() == key:
        return python
    run = [combination.python, "-m", "venv", "--clear", str(environment)]
    subprocess.run(run, check=True, cwd=ROOT)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *wanted]
    subprocess.run(pip, check=True, cwd=ROOT)
    made.write_text(key)
    return python


def tested(combination: Combination, python: Path) -> bool:
    print(f"\n=== {combination.name}", flush=True)
    run = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *combination.tests]
    return subprocess.run(run, cwd=ROOT).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="such as python3.12; default: all")
    parser.add_argument("--list", action="store_true", help="print the combinations and stop")
    options = parser.parse_args()
    wanted = [one for one in combinations() if not options.names or one.name in options.names]
    if options.list or not wanted:
        print(*(f"{one.name}: {one.python}" for one in combinations()), sep="\n")
        return 0 if options.list else 2
    print("Installing", *(one.name for one in wanted), flush=True)
    failed: list[str] = []
    with ThreadPoolExecutor() as pool:
        made: dict[Combination, Future[Path]] = {one: pool.submit(installed, one) for one in wanted}
        for one, python in made.items():
            try:
                good = tested(one, python.result())
            except subprocess.CalledProcessError as error:
                print(f"{one.name} cannot be installed: {error}", flush=True)
                good = False
            if not good:
                failed.append(one.name)
    print("\nThe core fails on" if failed else "\nThe core passes on", end=" ")
    print(*(failed or [one.name for one in wanted]), sep=", ")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
