"""Which code, packages and data a run had, as far as its record says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Final, cast

from scalable.analysis.environments import Environments, load_environments, packages_of
from scalable.code.changes import differences
from scalable_runs.reader import RunReader
from scalable_runs.run_parts import code_identities_of
from scalable_runs.schema import ARTIFACTS, CODE_PATCH, FUNCTIONS, Record

#: Bytes of a journal that are read, and functions that are kept.
_MAX_BYTES: Final = 16 * 2**20
_MAX_FUNCTIONS: Final = 1_000
#: Components that are named of a version that differs.
_MAX_DIFFERENCES: Final = 5
#: Kinds of changes in a repository, as run.json names them.
_CHANGES: Final = ("staged", "unstaged", "untracked")


@dataclass(frozen=True, slots=True)
class Code:
    """A version of the program's code.

    Attributes
    ----------
    identifier, kind
        A commit (`git`), or a digest of the sources (`sha256`); empty if neither is known.
    dependable
        The identifier alone says what ran: nothing was changed since. None if that is not known.
    changes
        Changed files by kind: `staged`, `unstaged`, `untracked`, and changed submodules.
    message
        What a reader must know of it, as a sentence.
    """

    identifier: str
    kind: str
    dependable: bool | None
    branch: str
    url: str
    changes: Mapping[str, int]
    message: str


@dataclass(frozen=True, slots=True)
class Function:
    """One version of a function that ran."""

    task_name: str
    function_name: str
    file: str
    line: int | None
    identity: str
    worker: str
    not_covered: tuple[str, ...]
    #: What differs from the version that ran first, a text each.
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CodeAndData:
    """What a report says of code and data.

    Attributes
    ----------
    python, packages
        Version of the program's Python, and of its packages by name.
    environments
        What the processes ran with.
    files_read, files_written
        Records of artifacts: `get` and `put`.
    retry_of
        The run that this one repeats; empty if it repeats none.
    has_patch
        The run has `code.patch`.
    """

    code: tuple[Code, ...]
    functions: tuple[Function, ...]
    python: str
    packages: Mapping[str, str]
    environments: Environments
    files_read: int
    files_written: int
    retry_of: str
    has_patch: bool

    def document(self) -> dict[str, Any]:
        """The same as a JSON document; packages as their number, as the run has them in full."""
        differences = [asdict(one) for one in self.environments.differences]
        found = {**asdict(self), "packages": len(self.packages), "differences": differences}
        del found["environments"]
        return found

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known but the version of Python and of what records."""
        known = self.code or self.functions or self.files_read or self.retry_of
        return not (known or self.environments.differences)

    @property
    def versions(self) -> Mapping[str, tuple[Function, ...]]:
        """Functions that ran in more than one version, by the names of their tasks."""
        rows: dict[tuple[str, str], dict[str, Function]] = {}
        for one in self.functions:
            rows.setdefault((one.task_name, one.function_name), {})[one.identity] = one
        return {name: tuple(by.values()) for (name, _), by in rows.items() if len(by) > 1}


def load_code_and_data(reader: RunReader) -> CodeAndData:
    """Read what a run's record says of code and data."""
    run = reader.document
    environment = _table(run.get("environment"))
    stages: dict[str, int] = {}
    if 0 < reader.size(ARTIFACTS) <= _MAX_BYTES:
        for record in reader.records(ARTIFACTS):
            stage = str(record.get("stage") or "put")
            stages[stage] = stages.get(stage, 0) + 1
    functions: list[Function] = []
    first: dict[tuple[str, str], Record] = {}
    if 0 < reader.size(FUNCTIONS) <= _MAX_BYTES:
        for record in islice(reader.records(FUNCTIONS), _MAX_FUNCTIONS):
            function = _function(record)
            before = first.setdefault((function.task_name, function.function_name), record)
            if before is not record:
                function = replace(function, differs=_differing(before, record))
            functions.append(function)
    environments = load_environments(reader)
    return CodeAndData(
        code=tuple(map(_code, code_identities_of(run))),
        functions=tuple(functions),
        python=_text(environment.get("python")),
        packages=packages_of(environments, run),
        environments=environments,
        files_read=stages.get("get", 0),
        files_written=stages.get("put", 0),
        retry_of=_text(run.get("retry_of")),
        has_patch=reader.file_size(CODE_PATCH) > 0,
    )


def _differing(before: Record, after: Record) -> tuple[str, ...]:
    """Name the components of two versions of a function that differ."""
    changes = differences(before, after)
    named = [f"{change.kind} {change.name}" for change in changes[:_MAX_DIFFERENCES]]
    named = [f"{each.removeprefix('source ')} differs" for each in named]
    left = len(changes) - len(named)
    return (*named, f"{left:,} more differ") if left else tuple(named)


def _code(row: Mapping[str, Any]) -> Code:
    dependable = row.get("code_identifier_dependable")
    changes = {kind: _count(row, kind) for kind in _CHANGES}
    submodules: Any = row.get("submodules")
    if isinstance(submodules, list):
        found = cast("list[Any]", submodules)
        changes["changed submodules"] = sum(
            _table(one).get("code_identifier_dependable") is False for one in found
        )
    return Code(
        identifier=_text(row.get("code_identifier")),
        kind=_text(row.get("code_identifier_type")),
        dependable=dependable if isinstance(dependable, bool) else None,
        branch=_text(row.get("branch")),
        url=_text(row.get("code_identifier_url")),
        changes={kind: count for kind, count in changes.items() if count},
        message=_text(row.get("code_identifier_message")),
    )


def _count(row: Mapping[str, Any], kind: str) -> int:
    """The number of changed files: the list of them is bounded, and their count stands beside."""
    count, files = row.get(f"{kind}_count"), row.get(kind)
    if isinstance(count, int):
        return count
    return len(cast("list[Any]", files)) if isinstance(files, list) else 0


def _function(record: Record) -> Function:
    line = record.get("line")
    covered: Any = record.get("not_covered")
    return Function(
        task_name=_text(record.get("task_name")) or "-",
        function_name=_text(record.get("function_name")),
        file=_text(record.get("file")),
        line=line if isinstance(line, int) else None,
        identity=_text(record.get("identity")),
        worker=_text(record.get("worker_id")) or _text(record.get("worker")),
        not_covered=tuple(map(str, covered)) if isinstance(covered, list) else (),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _table(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
