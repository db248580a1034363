"""What the processes of a run run with, and in what workers differ from the program."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol, cast

from scalable import facts
from scalable.code.environment import modules_of, unpack
from scalable.telemetry import semconv
from scalable.telemetry.ledger.signals import SignalSink
from scalable_runs.redact import Redactor

#: Packages with different versions that are named of one process, and reports that wait until the
#: program is described.
MAX_DIFFERENCES: Final = 1_000
MAX_WAITING: Final = 10_000

#: Attributes of what one process has, by the names of its fields.
_OF_PROCESS: Final[Mapping[str, str]] = {
    "host": semconv.HOST_NAME,
    "pid": semconv.PROCESS_PID,
    "executable": semconv.EXECUTABLE,
    "platform": semconv.ENVIRONMENT_PLATFORM,
    "cpu": semconv.ENVIRONMENT_CPU,
    "memory_bytes": semconv.ENVIRONMENT_MEMORY,
    "variables": semconv.ENVIRONMENT_VARIABLES,
    "container": semconv.ENVIRONMENT_CONTAINER,
    "batch_job": semconv.ENVIRONMENT_BATCH_JOB,
}
#: Of what many processes have in common.
_OF_SOFTWARE: Final[Mapping[str, str]] = {
    "python": semconv.PYTHON_VERSION,
    "implementation": semconv.PYTHON_NAME,
}
_ONCE: Final[Mapping[str, str]] = {
    "packages": semconv.ENVIRONMENT_PACKAGES,
    "conda_packages": semconv.ENVIRONMENT_CONDA,
    "origins": semconv.ENVIRONMENT_ORIGINS,
}
#: Tables from a package's name to a text: the name of a package says nothing of its value.
_BY_PACKAGE: Final = ("packages", "conda_packages", "origins")


class Described(NamedTuple):
    """What a process runs with, as it found out itself."""

    software: Mapping[str, Any] | None
    process: Mapping[str, Any]


class OwnDescription(Protocol):
    """Describes the program; its methods are called by the recorder's thread."""

    def found(self, timeout: float = 0.0) -> Described | None:
        """What the program runs with, once it is known; waits for it for `timeout` seconds."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be found."""
        ...

    def written(self, digest: str, process: Mapping[str, Any]) -> None:
        """It was written, without secrets."""
        ...


class _Different(NamedTuple):
    """A process of which some versions are not the program's."""

    name: str
    differs: dict[str, list[str | None]]
    modules: set[str]
    imported: set[str]


class Environments:
    """Writes what processes run with; called by the recorder's thread only.

    What workers report before the program is described waits, as they are compared with it. Without
    `own` nothing is written.
    """

    def __init__(
        self,
        sink: SignalSink,
        name_of: Callable[[str], str],
        redact: Redactor,
        own: OwnDescription | None,
    ) -> None:
        self._sink = sink
        self._name_of = name_of
        self._redact = redact
        self._own = own
        self._program: Mapping[str, Any] = {}
        self._program_is = ("", 0)
        self._is_known = own is None
        #: A recorder that died has written the program's line.
        self._is_written = False
        self._waiting: list[facts.WorkerEvent] = []
        #: Digests of packages and configurations that are in the file.
        self._written: set[str] = set()
        self._different: dict[str, _Different] = {}

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits for the description of the program."""
        return not self._waiting

    def take(self, fact: facts.WorkerEvent) -> None:
        """A worker or the scheduler reported what it runs with, or what it has imported."""
        if self._own is None:
            return
        if self._is_known:
            self._enter(fact)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(fact)

    def tick(self, now: float, timeout: float = 0.0) -> None:
        """Write the program's line once it is described, and what waited for it."""
        if self._is_known or self._own is None:
            return
        is_over = self._own.is_over
        found = self._own.found(timeout)
        if found is None and not is_over and not timeout:
            return
        self._is_known = True
        if found is not None:
            self._take_program(found, now)
        waiting, self._waiting = self._waiting, []
        for fact in waiting:
            self._enter(fact)

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over from a line of a recorder that died; makes no signal."""
        if record.get("process") == "program":
            self._is_written = True
        for field, digest in (("packages", "digest"), ("dask_config", "dask_config_digest")):
            if field in record:
                self._written.add(str(record.get(digest)))
        differs: Any = record.get("differs")
        address = record.get("worker")
        if isinstance(address, str) and isinstance(differs, dict):
            imported = set(cast("list[str]", record.get("imported") or ()))
            self._different[address] = _Different(
                str(record.get("worker_id", "")),
                cast("dict[str, list[str | None]]", differs),
                set(),
                imported,
            )

    def _take_program(self, found: Described, now: float) -> None:
        software = self._without_secrets(found.software)
        self._program = software
        self._program_is = str(found.process.get("host")), int(found.process.get("pid", 0))
        attributes = self._attributes("program", found.process, software)
        if not self._is_written:
            self._write(attributes, now)
        self._own_written(attributes, found.process)

    def _own_written(self, attributes: Mapping[str, Any], process: Mapping[str, Any]) -> None:
        assert self._own is not None
        digest = str(attributes.get(semconv.ENVIRONMENT_DIGEST, ""))
        self._own.written(digest, self._redact.attributes(process))

    def _enter(self, fact: facts.WorkerEvent) -> None:
        fields = fact.fields
        kind = "scheduler" if fields.get("process") == "scheduler" else "worker"
        modules = _texts(fields.get("modules"))
        if "software" not in fields:
            self._import(fact, modules)
            return
        if (fields.get("host"), fields.get("pid")) == self._program_is:
            return
        software = self._without_secrets(unpack(fields["software"]))
        attributes = self._attributes(kind, fields, software)
        if fact.address:
            attributes[semconv.WORKER_ADDRESS] = fact.address
            attributes[semconv.WORKER_NAME] = name = self._name_of(fact.address)
            self._different.pop(fact.address, None)
        else:
            name = ""
        differs = _differences(software, self._program) if software and self._program else {}
        if differs:
            attributes[semconv.ENVIRONMENT_DIFFERS] = differs
            imported = _imported(differs, modules)
            if imported:
                attributes[semconv.ENVIRONMENT_IMPORTED] = tuple(sorted(imported))
            if fact.address:
                self._different[fact.address] = _Different(name, differs, modules, imported)
        self._write(attributes, fact.time)

    def _import(self, fact: facts.WorkerEvent, modules: set[str]) -> None:
        """A worker has imported modules: only packages that differ are of interest."""
        about = self._different.get(fact.address)
        if about is None:
            return
        about.modules.update(modules)
        imported = _imported(about.differs, about.modules) - about.imported
        if not imported:
            return
        about.imported.update(imported)
        attributes = {
            semconv.RECORD: "environment",
            semconv.ENVIRONMENT_PROCESS: "worker",
            semconv.WORKER_ADDRESS: fact.address,
            semconv.WORKER_NAME: about.name,
            semconv.ENVIRONMENT_DIFFERS: {name: about.differs[name] for name in sorted(imported)},
            semconv.ENVIRONMENT_IMPORTED: tuple(sorted(imported)),
        }
        self._write(attributes, fact.time)

    def _attributes(
        self, kind: str, process: Mapping[str, Any], software: Mapping[str, Any]
    ) -> dict[str, Any]:
        plain = {name: process[field] for field, name in _OF_PROCESS.items() if process.get(field)}
        attributes: dict[str, Any] = self._redact.attributes(plain)
        attributes |= {semconv.RECORD: "environment", semconv.ENVIRONMENT_PROCESS: kind}
        if not software:
            return attributes
        config = software.get("dask_config") or {}
        digest = _digest({name: of for name, of in software.items() if name != "dask_config"})
        config_digest = _digest(config)
        attributes[semconv.ENVIRONMENT_DIGEST] = digest
        attributes[semconv.ENVIRONMENT_DASK_CONFIG_DIGEST] = config_digest
        attributes |= {name: software[of] for of, name in _OF_SOFTWARE.items() if of in software}
        if digest not in self._written:
            self._written.add(digest)
            attributes |= {name: software[of] for of, name in _ONCE.items() if software.get(of)}
        if config_digest not in self._written:
            self._written.add(config_digest)
            attributes[semconv.ENVIRONMENT_DASK_CONFIG] = config
        return attributes

    def _without_secrets(self, software: Mapping[str, Any] | None) -> dict[str, Any]:
        """Without secrets, and with nothing but what it should have."""
        found: dict[str, Any] = {}
        short = self._redact.short
        for name, value in (software or {}).items():
            if name in _BY_PACKAGE and isinstance(value, dict):
                table = cast("dict[Any, Any]", value)
                found[name] = {short(str(of)): short(str(each)) for of, each in table.items()}
            elif name in _OF_SOFTWARE:
                found[name] = short(str(value))
            elif name == "dask_config" and isinstance(value, dict):
                found[name] = self._redact.attributes(cast("dict[str, Any]", value))
        return found

    def _write(self, attributes: Mapping[str, Any], time: float) -> None:
        self._sink.event(semconv.EVENT_ENVIRONMENT, time, attributes)


def _digest(software: Mapping[str, Any]) -> str:
    text = json.dumps(software, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _differences(
    software: Mapping[str, Any], program: Mapping[str, Any]
) -> dict[str, list[str | None]]:
    """Versions that are not equal: the process's and the program's, None where it has none."""
    found: dict[str, list[str | None]] = {}
    if software.get("python") != program.get("python"):
        found["python"] = [software.get("python"), program.get("python")]
    here: Mapping[str, str] = software.get("packages") or {}
    there: Mapping[str, str] = program.get("packages") or {}
    for name in sorted({*here, *there}):
        pair = [here.get(name), there.get(name)]
        if pair[0] != pair[1] and len(found) < MAX_DIFFERENCES:
            found[name] = pair
    return found


def _imported(differs: Iterable[str], modules: set[str]) -> set[str]:
    return {name for name in differs if not modules.isdisjoint(_modules_of(name))}


@lru_cache(2_000)
def _modules_of(name: str) -> frozenset[str]:
    return frozenset() if name == "python" else modules_of(name)


def _texts(value: Any) -> set[str]:
    members = cast("Iterable[Any]", value) if isinstance(value, list | tuple) else ()
    return {each for each in members if isinstance(each, str)}
