"""A run as an RO-Crate: a directory that says what is in it.

The crate follows Process Run Crate 0.5 or Provenance Run Crate 0.5, both on RO-Crate 1.1
(https://www.researchobject.org/workflow-run-crate/profiles/). Each name of tasks is a tool, and the
tasks of a name that ended in one state are one action. Attempts that failed are actions of their
own. In a Provenance Run Crate the program is a workflow besides, each name of tasks is a step of
it, and Dask is the engine that ran the steps.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from scalable.provenance.gathered import Artifact, Failed, Gathered, Group
from scalable_runs.plain import parse_time

Entity = dict[str, Any]
#: What a crate follows; see the module.
Profile: TypeAlias = Literal["process", "provenance"]

METADATA: Final = "ro-crate-metadata.json"
README: Final = "README.md"
#: The names of the run's tasks with their functions: the workflow of a Provenance Run Crate.
WORKFLOW: Final = "workflow.json"
#: Entities of a crate: viewers load all of them.
MAX_ENTITIES: Final = 5_000
#: Names of tasks that are steps: each has up to ten entities.
_MAX_STEPS: Final = 300
_MAX_ARTIFACTS: Final = 500
_MAX_TEXT: Final = 2_000

#: Terms of the run crates that RO-Crate 1.1 lacks stand in the crate: it can be read offline.
_TERMS: Final = {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}
_CONTEXT: Final = ("https://w3id.org/ro/crate/1.1/context", _TERMS)
_CRATE: Final = "https://w3id.org/ro/crate/1.1"
_WORKFLOW_CRATE: Final = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
_PROFILES: Final = {
    "process": ("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate"),
    "workflow": ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate"),
    "provenance": ("https://w3id.org/ro/wfrun/provenance/0.5", "Provenance Run Crate"),
}
_BIOSCHEMAS: Final = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
_PROJECT: Final = "https://pypi.org/project/scalable-otel/"
#: Names below `.invalid` are reserved for what does not exist (RFC 2606).
_NOWHERE: Final = "scalable.invalid"
_PYTHON: Final = "https://www.python.org/"
_DASK: Final = "https://www.dask.org/"

_COMPLETED: Final = "http://schema.org/CompletedActionStatus"
_FAILED: Final = "http://schema.org/FailedActionStatus"
#: Media type and identifier of the National Archives' PRONOM registry, by the end of a file's name.
_FORMATS: Final = {
    ".json": ("application/json", "fmt/817", "JSON Data Interchange Format"),
    ".jsonl": ("application/jsonl", "x-fmt/111", "Plain text"),
    ".md": ("text/markdown", "fmt/1149", "Markdown"),
    ".yaml": ("application/yaml", "fmt/818", "YAML"),
    ".log": ("text/plain", "x-fmt/111", "Plain text"),
    ".patch": ("text/x-diff", "x-fmt/111", "Plain text"),
    ".lock": ("text/plain", "x-fmt/111", "Plain text"),
    "": ("application/octet-stream", "", ""),
}
_PRONOM: Final = "https://www.nationalarchives.gov.uk/PRONOM/"


@dataclass(frozen=True, slots=True)
class People:
    """Who publishes a crate, and under which terms."""

    author: str = ""
    affiliation: str = ""
    #: An address such as https://spdx.org/licenses/CC-BY-4.0.
    license: str = ""


def crate_of(
    run: Gathered, people: People, sizes: Mapping[str, int], profile: Profile
) -> dict[str, Any]:
    """Return the metadata of a crate, with at most :data:`MAX_ENTITIES` entities.

    Parameters
    ----------
    run
        What the run did.
    people
        Who publishes the crate.
    sizes
        Bytes of the files in the crate, by name; :data:`README` and :data:`WORKFLOW` among them.
    profile
        What the crate follows. A run without tasks has no steps: its crate is a process run crate.
    """
    return _Crate(run, people, sizes, profile if run.groups else "process").document()


def workflow_of(run: Gathered) -> str:
    """Return the steps of a run as JSON: the names of its tasks, with what they called."""
    functions: dict[str, list[Entity]] = {}
    for row in run.functions:
        wanted = ("function_name", "identity", "file", "line")
        known = {name: row[name] for name in wanted if row.get(name) is not None}
        functions.setdefault(str(row.get("task_name") or "-"), []).append(known)
    steps: list[Entity] = []
    for name in run.names:
        states = {group.state: group.count for group in run.groups if group.name == name}
        step: Entity = {"name": name, "tasks": states}
        if functions.get(name):
            step["functions"] = functions[name]
        steps.append(step)
    document = {"program": run.program, "code": dict(_code_facts(run)), "steps": steps}
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n"


def _code_facts(run: Gathered) -> Iterable[tuple[str, Any]]:
    wanted = ("code_identifier_type", "code_identifier", "code_identifier_url", "branch")
    return ((name, run.code[name]) for name in wanted if run.code.get(name))


class _Crate:
    """Makes one crate; used by one thread."""

    def __init__(
        self, run: Gathered, people: People, sizes: Mapping[str, int], profile: Profile
    ) -> None:
        self._run = run
        self._has_steps = profile == "provenance"
        self._people = people
        self._sizes = sizes
        self._entities: dict[str, Entity] = {}
        self._mentions: list[str] = []

    def document(self) -> dict[str, Any]:
        run = self._run
        self._descriptor()
        profiles = self._profiles()
        agent = self._agent()
        files = [self._file(name, size) for name, size in sorted(self._sizes.items())]
        self._artifacts()
        engine = self._application("dask", "Dask", _DASK, run.packages.get("distributed"))
        recorder = self._application(
            "scalable-otel", "scalable-otel", _PROJECT, run.packages.get("scalable-otel")
        )
        self._language()
        self._tools()
        program = self._workflow(agent) if self._has_steps else self._program()
        whole = self._whole(agent, program)
        controls = self._tasks(agent)
        if self._has_steps:
            self._organize(agent, engine, whole, controls)
        left_out = self._failed_attempts(agent)
        self._root(profiles, files, agent, recorder, left_out)
        return {"@context": list(_CONTEXT), "@graph": list(self._entities.values())}

    def _add(self, identifier: str, kind: str | list[str], /, **rest: Any) -> str:
        entity: Entity = {"@id": identifier, "@type": kind}
        for name, value in rest.items():
            if value not in (None, "", []):
                entity[name] = _one(value) if isinstance(value, list) else value
        self._entities.setdefault(identifier, entity)
        return identifier

    def _unique(self, name: str) -> str:
        """An absolute identifier; nothing is to be fetched there."""
        return f"https://{_NOWHERE}/{self._run.run_id}/{name}"

    # -- what the crate is -------------------------------------------------------------------------

    def _descriptor(self) -> None:
        conforms = [_ref(_CRATE)]
        if self._has_steps:
            conforms.append(_ref(_WORKFLOW_CRATE))
        self._add(METADATA, "CreativeWork", about=_ref("./"), conformsTo=conforms)

    def _profiles(self) -> list[str]:
        wanted = list(_PROFILES) if self._has_steps else ["process"]
        made = [
            self._add(_PROFILES[name][0], "CreativeWork", name=_PROFILES[name][1], version="0.5")
            for name in wanted
        ]
        if self._has_steps:
            made.append(
                self._add(_WORKFLOW_CRATE, "CreativeWork", name="Workflow RO-Crate", version="1.0")
            )
        return made

    def _root(
        self, profiles: list[str], files: list[str], agent: str, recorder: str, left_out: int
    ) -> None:
        run, people = self._run, self._people
        project = str(run.run.get("project_name") or "run")
        count = sum(group.count for group in run.groups)
        told = f"Record of a run of {run.program or project}: {count:,} tasks, {run.status}."
        if left_out:
            told += f" {left_out:,} more failed attempts are in tasks.jsonl."
        terms = people.license or "#license"
        if people.license:
            self._add(terms, "CreativeWork", name=people.license, description="Terms of use.")
        else:
            text = "No licence was given: ask the author before you use this."
            self._add(terms, "CreativeWork", name="Not stated", description=text)
        self._add(
            "./",
            "Dataset",
            identifier=run.run_id,
            name=f"{project}: {run.run_id}",
            description=told,
            datePublished=run.ended_at or run.started_at,
            license=_ref(terms),
            author=_ref(agent),
            publisher=_ref(self._organization()),
            conformsTo=[_ref(one) for one in profiles],
            hasPart=[_ref(one) for one in files],
            mainEntity=_ref(WORKFLOW) if self._has_steps else None,
            mentions=[_ref(one) for one in self._mentions],
            creator=_ref(recorder),
        )

    def _agent(self) -> str:
        return self._add(
            "#author",
            "Person",
            name=self._people.author or "Not stated",
            affiliation=_ref(self._organization()),
        )

    def _organization(self) -> str:
        return self._add(
            "#organization",
            "Organization",
            name=self._people.affiliation or "Not stated",
            url=self._unique("organization"),
        )

    def _file(self, name: str, size: int) -> str:
        if name == WORKFLOW and self._has_steps:
            return WORKFLOW  # described as the workflow
        return self._add(
            name,
            "File",
            name=name,
            description=_DESCRIPTIONS.get(name),
            contentSize=str(size),
            encodingFormat=self._format(name),
            about=_ref("./") if name == README else None,
        )

    def _format(self, name: str) -> Any:
        suffix = f".{name.rpartition('.')[2]}" if "." in name else ""
        media, pronom, title = _FORMATS.get(suffix) or (
            mimetypes.guess_type(name)[0] or _FORMATS[""][0],
            "",
            "",
        )
        if not pronom:
            return media
        return [media, _ref(self._add(f"{_PRONOM}{pronom}", "WebSite", name=title))]

    # -- software ----------------------------------------------------------------------------------

    def _application(self, key: str, name: str, url: str, version: str | None) -> str:
        return self._add(
            url,
            "SoftwareApplication",
            name=name,
            url=url,
            softwareVersion=version or "unknown",
            identifier=key,
        )

    def _language(self) -> None:
        environment: Any = self._run.run.get("environment")
        found: Any = environment.get("python") if isinstance(environment, dict) else None
        self._add(
            _PYTHON,
            ["ComputerLanguage", "SoftwareApplication"],
            name="Python",
            url=_PYTHON,
            softwareVersion=str(found or "unknown"),
        )

    @property
    def _version(self) -> str:
        return str(self._run.code.get("code_identifier") or "unknown")

    def _program(self) -> str:
        run = self._run
        identifier = self._unique("program")
        return self._add(
            identifier,
            "SoftwareSourceCode",
            name=run.program or str(run.run.get("project_name") or "run"),
            url=run.code.get("code_identifier_url") or identifier,
            version=self._version,
            programmingLanguage=_ref(_PYTHON),
        )

    def _workflow(self, agent: str) -> str:
        run = self._run
        names = run.names[:_MAX_STEPS]
        for at, name in enumerate(names):
            tool = _ref(self._unique(f"tools/{at}"))
            self._add(f"#step-{at}", "HowToStep", name=name, workExample=tool, position=str(at))
        return self._add(
            WORKFLOW,
            ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
            name=run.program or str(run.run.get("project_name") or "run"),
            description="The names of the run's tasks, with the functions that they called.",
            contentSize=str(self._sizes.get(WORKFLOW, 0)),
            encodingFormat=self._format(WORKFLOW),
            programmingLanguage=_ref(_PYTHON),
            version=self._version,
            url=run.code.get("code_identifier_url") or self._unique(WORKFLOW),
            dateCreated=run.started_at,
            creator=_ref(agent),
            license=_ref(self._people.license or "#license"),
            conformsTo=_ref(_BIOSCHEMAS),
            hasPart=[_ref(self._unique(f"tools/{at}")) for at in range(len(names))],
            step=[_ref(f"#step-{at}") for at in range(len(names))],
        )

    def _tools(self) -> None:
        """What each name of tasks calls."""
        by_name: dict[str, list[Mapping[str, Any]]] = {}
        for row in self._run.functions:
            by_name.setdefault(str(row.get("task_name") or "-"), []).append(row)
        for at, name in enumerate(self._run.names[:_MAX_STEPS]):
            rows = by_name.get(name) or []
            identities = sorted({str(row["identity"]) for row in rows if row.get("identity")})
            called = sorted({str(row["function_name"]) for row in rows if row.get("function_name")})
            tool = self._unique(f"tools/{at}")
            self._add(
                tool,
                "SoftwareSourceCode",
                name=name,
                url=tool,
                description=f"What these call: {', '.join(called)}." if called else None,
                version=", ".join(identities) or self._version,
                programmingLanguage=_ref(_PYTHON),
            )

    # -- actions -----------------------------------------------------------------------------------

    def _whole(self, agent: str, program: str) -> str:
        """The run itself."""
        run = self._run
        outputs = [self._id_of(one) for one in run.outputs()]
        failed = run.status not in ("completed", "running")
        self._mentions.append("#run")
        return self._add(
            "#run",
            "CreateAction",
            name=f"Run {run.run_id}",
            description=f"The run was {run.status}." if not run.why else _cut(run.why),
            startTime=_time(run.started_at),
            endTime=_time(run.ended_at),
            agent=_ref(agent),
            instrument=_ref(program),
            object=_refs(self._id_of(one) for one in run.inputs()),
            result=[*_refs(filter(None, outputs)), _ref("run.json")],
            actionStatus=_FAILED if failed else _COMPLETED,
            error=_cut(run.why or f"The run was {run.status}.") if failed else None,
        )

    def _tasks(self, agent: str) -> list[str]:
        """One action for the tasks of a name that ended in one state; returns their controls."""
        numbers = self._numbers()
        controls: list[str] = []
        for at, group in enumerate(self._run.groups):
            number = numbers.get(group.name)
            if number is None:
                continue
            action = self._group(f"#tasks-{at}", group, number, agent)
            if self._has_steps:
                controls.append(
                    self._add(
                        f"#control-{at}",
                        "ControlAction",
                        name=f"Schedule {group.name}",
                        instrument=_ref(f"#step-{number}"),
                        object=_ref(action),
                        actionStatus=self._entities[action]["actionStatus"],
                    )
                )
        return controls

    def _numbers(self) -> dict[str, int]:
        """The numbers of tools by the names of tasks."""
        return {name: at for at, name in enumerate(self._run.names[:_MAX_STEPS])}

    def _group(self, identifier: str, group: Group, step: int, agent: str) -> str:
        succeeded = group.state == "succeeded"
        tasks = f"{group.count:,} task{'s' if group.count != 1 else ''}"
        told = f"{tasks} of {group.name}: {group.state}. {group.attempts:,} attempts"
        told += f", {group.seconds:.3f} s." if succeeded else "."
        outputs = [self._id_of(one) for one in self._run.outputs(group.name)] if succeeded else []
        self._mentions.append(identifier)
        return self._add(
            identifier,
            "CreateAction",
            name=f"{group.name} ({group.state})",
            description=told,
            startTime=_time(group.first_at),
            endTime=_time(group.last_at or self._run.ended_at),
            agent=_ref(agent),
            instrument=_ref(self._unique(f"tools/{step}")),
            object=_refs(self._id_of(one) for one in self._run.inputs(group.name)),
            result=[*_refs(filter(None, outputs)), _ref("tasks.jsonl")],
            actionStatus=_COMPLETED if succeeded else _FAILED,
            error=None if succeeded else f"{tasks}: {group.state}.",
        )

    def _organize(self, agent: str, engine: str, whole: str, controls: list[str]) -> None:
        run = self._run
        self._add(
            "#scheduling",
            "OrganizeAction",
            name="Scheduling by Dask",
            description="Dask's scheduler ran the tasks on workers.",
            startTime=_time(run.started_at),
            endTime=_time(run.ended_at),
            agent=_ref(agent),
            instrument=_ref(engine),
            object=_refs(controls),
            result=_ref(whole),
        )

    def _failed_attempts(self, agent: str) -> int:
        """Describe failed attempts while there is room; returns the number of those left out."""
        numbers = self._numbers()
        # The root, and what only it refers to, follow.
        room = MAX_ENTITIES - len(self._entities) - 5
        described = 0
        for at, one in enumerate(self._run.failed[: max(0, room)]):
            step = numbers.get(one.task_name)
            if step is not None:
                self._failed(f"#failed-{at}", one, step, agent)
                described += 1
        return self._run.failed_count - described

    def _failed(self, identifier: str, one: Failed, step: int, agent: str) -> None:
        again = " It was retried." if one.retried else ""
        self._mentions.append(identifier)
        self._add(
            identifier,
            "CreateAction",
            name=f"{_cut(one.task_id, 200)}, attempt {one.attempt}",
            description=f"An attempt that failed on worker {one.worker or 'unknown'}.{again}",
            startTime=_time(one.started_at),
            endTime=_time(one.ended_at),
            agent=_ref(agent),
            instrument=_ref(self._unique(f"tools/{step}")),
            result=[_ref("failures.jsonl")],
            actionStatus=_FAILED,
            error=_cut(one.error),
        )

    # -- data --------------------------------------------------------------------------------------

    def _artifacts(self) -> None:
        for one in self._run.artifacts:
            self._id_of(one)

    def _id_of(self, one: Artifact) -> str:
        """The entity of an artifact; empty if there is no room for it."""
        identifier = f"#{one.digest}" if one.digest else f"#artifact-{one.name}-{one.location}"
        identifier = identifier.replace(" ", "%20")
        if identifier in self._entities:
            return identifier
        if sum(1 for key in self._entities if key.startswith(("#sha", "#art"))) >= _MAX_ARTIFACTS:
            return ""
        return self._add(
            identifier,
            "CreativeWork",
            name=one.name,
            description=f"{one.kind or 'File'} at {one.location}" if one.location else one.kind,
            sha256=one.digest.removeprefix("sha256:") if "sha256:" in one.digest else None,
            contentSize=None if one.size is None else str(one.size),
            dateModified=one.at if one.stage == "put" else None,
        )


_DESCRIPTIONS: Final = {
    "run.json": "The run's description and state.",
    "tasks.jsonl": "Every change of state of every task.",
    "workers.jsonl": "Every worker that started or ended.",
    "failures.jsonl": "Every failed attempt and every lost worker.",
    "resources.jsonl": "CPU and memory of workers and attempts.",
    "cache.jsonl": "Look-ups of cached results.",
    "artifacts.jsonl": "Files that the work read and wrote.",
    "cost.jsonl": "Costs that the program recorded.",
    "functions.jsonl": "The functions that ran, with their versions.",
    "summary.json": "Counts, durations and failures of the whole run.",
    "manifest.yaml": "The project.",
    "plan.json": "The workers that were asked for or found.",
    "code.patch": "Changes of the code since its last commit.",
    README: "What this crate contains.",
}


def _ref(identifier: str) -> Entity:
    return {"@id": identifier}


def _refs(identifiers: Iterable[str]) -> list[Entity]:
    return [_ref(one) for one in dict.fromkeys(identifiers) if one]


def _one(values: list[Any]) -> Any:
    """RO-Crate 1.1 has no lists of one."""
    return values[0] if len(values) == 1 else values


def _time(text: str) -> str:
    """A time of a record in the form that the profiles ask for: milliseconds, and an offset."""
    moment = parse_time(text) if text else None
    return "" if moment is None else moment.isoformat(timespec="milliseconds")


def _cut(text: str, limit: int = _MAX_TEXT) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


__all__ = [
    "MAX_ENTITIES",
    "METADATA",
    "README",
    "WORKFLOW",
    "People",
    "crate_of",
    "workflow_of",
]
