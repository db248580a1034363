"""A run as W3C PROV-JSON (https://www.w3.org/submissions/prov-json/).

The run, the tasks of each name by final state, and attempts that failed are activities; artifacts,
functions and the code's version are entities; Dask and the package are software agents.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

from scalable.provenance.gathered import Artifact, Failed, Gathered, Group

Properties = dict[str, Any]

#: Failed attempts that are described; the journals have the rest.
MAX_FAILED: Final = 5_000
_MAX_TEXT: Final = 2_000
_PREFIXES: Final = {
    "run": "https://scalable.invalid/{run_id}/",
    "scalable": "https://pypi.org/project/scalable-otel/#",
}
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]+")


def prov_of(run: Gathered) -> dict[str, Any]:
    """Return the PROV-JSON document of a run."""
    return _Document(run).made()


class _Document:
    """Makes one document; used by one thread."""

    def __init__(self, run: Gathered) -> None:
        self._run = run
        self._parts: dict[str, dict[str, Properties]] = {}
        self._numbers: dict[str, int] = {}

    def made(self) -> dict[str, Any]:
        run = self._run
        engine = self._software("dask", "Dask", run.packages.get("distributed"))
        recorder = self._software(
            "scalable-otel", "scalable-otel", run.packages.get("scalable-otel")
        )
        code = self._code()
        whole = self._activity(
            "run:run",
            run.started_at,
            run.ended_at if run.status != "running" else "",
            {
                "prov:label": f"Run {run.run_id}",
                "scalable:status": run.status,
                "scalable:project": str(run.run.get("project_name") or ""),
                "scalable:error": run.why[:_MAX_TEXT],
            },
        )
        self._relate("wasAssociatedWith", activity=whole, agent=engine, plan=code)
        record = self._entity("run:record", {"prov:label": "The record of the run"})
        self._relate("wasAttributedTo", entity=record, agent=recorder)
        functions = self._functions()
        for at, group in enumerate(run.groups):
            activity = self._group(f"run:tasks-{at}", group)
            self._relate("wasAssociatedWith", activity=activity, agent=engine)
            self._relate("wasInformedBy", informed=activity, informant=whole)
            for function in functions.get(group.name, ()):
                self._relate("used", activity=activity, entity=function)
            if group.state == "succeeded" or not self._has_succeeded(group.name):
                self._use_and_make(activity, group.name)
        for at, one in enumerate(run.failed):
            activity = self._failed(f"run:failed-{at}", one)
            self._relate("wasInformedBy", informed=activity, informant=whole)
        self._use_and_make(whole, "")
        prefixes = {key: url.format(run_id=quote(run.run_id)) for key, url in _PREFIXES.items()}
        return {"prefix": prefixes, **self._parts}

    def _has_succeeded(self, name: str) -> bool:
        return any(one.name == name and one.state == "succeeded" for one in self._run.groups)

    # -- what there is -----------------------------------------------------------------------------

    def _add(self, part: str, identifier: str, properties: Properties) -> str:
        known = {name: value for name, value in properties.items() if value not in (None, "")}
        self._parts.setdefault(part, {}).setdefault(identifier, known)
        return identifier

    def _entity(self, identifier: str, properties: Properties) -> str:
        return self._add("entity", identifier, properties)

    def _activity(self, identifier: str, began: str, ended: str, rest: Properties) -> str:
        times = {"prov:startTime": began, "prov:endTime": ended}
        return self._add("activity", identifier, times | rest)

    def _software(self, name: str, label: str, version: str | None) -> str:
        kind = {"$": "prov:SoftwareAgent", "type": "prov:QUALIFIED_NAME"}
        return self._add(
            "agent",
            f"scalable:{name}",
            {"prov:type": kind, "prov:label": label, "scalable:version": version},
        )

    def _relate(self, relation: str, **ends: str | None) -> None:
        number = self._numbers[relation] = self._numbers.get(relation, 0) + 1
        known = {f"prov:{end}": identifier for end, identifier in ends.items() if identifier}
        self._parts.setdefault(relation, {})[f"_:{relation}{number}"] = known

    def _code(self) -> str | None:
        code = self._run.code
        if not code.get("code_identifier"):
            return None
        plan = {"$": "prov:Plan", "type": "prov:QUALIFIED_NAME"}
        return self._entity(
            "run:code",
            {
                "prov:type": plan,
                "prov:label": str(self._run.program or "program"),
                "scalable:version": str(code["code_identifier"]),
                "scalable:kind": str(code.get("code_identifier_type") or ""),
                "scalable:url": str(code.get("code_identifier_url") or ""),
                "scalable:dependable": bool(code.get("code_identifier_dependable")),
            },
        )

    def _functions(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for at, row in enumerate(self._run.functions):
            name = str(row.get("task_name") or "-")
            identifier = self._entity(
                f"run:function-{at}",
                {
                    "prov:label": str(row.get("function_name") or name),
                    "scalable:identity": str(row.get("identity") or ""),
                    "scalable:file": str(row.get("file") or ""),
                },
            )
            found.setdefault(name, []).append(identifier)
        return found

    # -- what happened -----------------------------------------------------------------------------

    def _group(self, identifier: str, group: Group) -> str:
        return self._activity(
            identifier,
            group.first_at,
            group.last_at,
            {
                "prov:label": f"{group.name} ({group.state})",
                "scalable:state": group.state,
                "scalable:tasks": group.count,
                "scalable:attempts": group.attempts,
                "scalable:seconds": round(group.seconds, 6),
            },
        )

    def _failed(self, identifier: str, one: Failed) -> str:
        return self._activity(
            identifier,
            one.started_at,
            one.ended_at,
            {
                "prov:label": f"{one.task_id[:200]}, attempt {one.attempt}",
                "scalable:state": "retried" if one.retried else "failed",
                "scalable:error": one.error[:_MAX_TEXT],
                "scalable:worker": one.worker,
            },
        )

    def _use_and_make(self, activity: str, name: str) -> None:
        """Relate an activity to its artifacts; those without a task are the program's."""
        for one in self._run.inputs(name):
            self._relate("used", activity=activity, entity=self._artifact(one))
        for one in self._run.outputs(name):
            self._relate("wasGeneratedBy", entity=self._artifact(one), activity=activity)

    def _artifact(self, one: Artifact) -> str:
        # The same content under two names is one entity; without a digest the place is the name.
        key = one.digest or f"{one.name}-{one.location}"
        return self._entity(
            f"run:artifact-{_UNSAFE.sub('-', key)[:300]}",
            {
                "prov:label": one.name,
                "prov:location": one.location,
                "scalable:digest": one.digest,
                "scalable:size_bytes": one.size,
                "scalable:kind": one.kind,
            },
        )
