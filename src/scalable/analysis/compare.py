"""What differs between two runs: code, packages, parameters, inputs and results.

Everything is compared by name and digest, so two runs on different machines, or a year apart, can
be compared. What only one of them has recorded is said, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, cast

from scalable.analysis.environments import Environments, load_environments, packages_of
from scalable.code.changes import differences as changes_of
from scalable_runs.reader import RunReader
from scalable_runs.run_parts import code_identities_of
from scalable_runs.schema import ARTIFACTS, FINAL_STATES, FUNCTIONS, TASKS, Record

#: What a difference is about.
Subject = Literal[
    "status", "code", "function", "package", "environment", "parameter", "input", "result", "metric"
]

#: Different values of one argument that are kept for each run, and arguments and results.
_MAX_VALUES: Final = 20
_MAX_TABLE: Final = 20_000
_MAX_TEXT: Final = 300
#: Keys of the environment that differ between any two runs, and say nothing of their code.
_NOT_COMPARED: Final = frozenset(
    {"packages", "command", "resource", "host", "program", "digest", "batch_job"}
)
#: Variables that differ between any two runs: Dask chooses the seed.
_VARIABLES_NOT_COMPARED: Final = frozenset({"PYTHONHASHSEED", "TMPDIR"})

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs.

    Attributes
    ----------
    subject
        What it is about.
    name
        The package, argument, file, …
    before, after
        What the first and the second run have; None if that run has none.
    details
        Further sentences, such as the components of a function that differ.
    diff
        A unified diff, where both sources are recorded.
    """

    subject: Subject
    name: str
    before: Any
    after: Any
    details: tuple[str, ...] = ()
    diff: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs, and what differs between them.

    Attributes
    ----------
    before, after
        Ids of the runs.
    differences
        In the order of the subjects.
    same
        How many things of each subject are equal.
    unknown
        What could not be compared, a sentence each.
    """

    before: str
    after: str
    differences: tuple[Difference, ...]
    same: Mapping[str, int]
    unknown: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The same as a JSON document."""
        return {
            "before": self.before,
            "after": self.after,
            "differences": [
                {field.name: getattr(one, field.name) for field in fields(one)}
                for one in self.differences
            ],
            "same": dict(self.same),
            "unknown": list(self.unknown),
        }


@dataclass(slots=True)
class _Side:
    """What one run has."""

    run: Mapping[str, Any]
    environments: Environments
    #: By task name and function: identity → record.
    functions: dict[tuple[str, str], dict[str, Record]] = field(
        default_factory=dict[tuple[str, str], dict[str, Record]]
    )
    #: By task name and argument.
    parameters: dict[tuple[str, str], set[str]] = field(
        default_factory=dict[tuple[str, str], set[str]]
    )
    artifacts: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    #: By task: digest of its result, where that was recorded.
    results: dict[str, str] = field(default_factory=dict[str, str])
    states: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])


def compare(before: RunReader, after: RunReader, progress: Progress | None = None) -> Comparison:
    """Compare two runs.

    Parameters
    ----------
    before, after
        The runs.
    progress
        Called now and then while journals are read.
    """
    total = sum(one.size(file) for one in (before, after) for file in (TASKS, ARTIFACTS))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    sides = _read(before, advance), _read(after, advance)
    compared = _Compared(*sides)
    compared.all()
    return Comparison(
        before=before.run_id,
        after=after.run_id,
        differences=tuple(compared.differences),
        same=compared.same,
        unknown=tuple(compared.unknown),
    )


# -- reading ---------------------------------------------------------------------------------------


def _read(reader: RunReader, advance: Callable[[int], None]) -> _Side:
    run = {**reader.document, "status": reader.status}
    side = _Side(run, load_environments(reader))
    for record in reader.records(FUNCTIONS):
        key = str(record.get("task_name") or "-"), str(record.get("function_name") or "-")
        side.functions.setdefault(key, {})[str(record.get("identity") or "")] = record
    for record in reader.records(ARTIFACTS, progress=advance):
        stage = "input" if record.get("stage") == "get" else "result"
        name = str(record.get("artifact_name") or record.get("location") or "-")
        if len(side.artifacts) < _MAX_TABLE:
            side.artifacts[stage, name] = str(record.get("digest") or "")
    for record in reader.records(TASKS, progress=advance):
        state = record.get("state")
        if state in FINAL_STATES and not record.get("recomputed"):
            key = str(record.get("task_name") or "-"), str(state)
            side.states[key] = side.states.get(key, 0) + 1
        _take_parameters(side, record)
    return side


def _take_parameters(side: _Side, record: Record) -> None:
    name = str(record.get("task_name") or "-")
    for row in _rows(record.get("input_parameters")):
        key = name, str(row.get("name") or "-")
        if key in side.parameters or len(side.parameters) < _MAX_TABLE:
            values = side.parameters.setdefault(key, set())
            if len(values) <= _MAX_VALUES:
                values.add(_described(row))
    results = _rows(record.get("output_parameters"))
    if results and len(side.results) < _MAX_TABLE:
        side.results[str(record.get("task_id"))] = "; ".join(map(_described, results))


def _described(row: Mapping[str, Any]) -> str:
    """A value as it was recorded: itself, its digest, or what it is."""
    for name in ("value", "digest"):
        if row.get(name) is not None:
            return str(row[name])[:_MAX_TEXT]
    parts = [f"{row[name]}" for name in ("type", "shape", "dtype", "length") if row.get(name)]
    return " ".join(parts) or str(row.get("description") or "")[:_MAX_TEXT]


def _rows(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        return []
    return [
        cast("dict[str, Any]", row) for row in cast("list[Any]", value) if isinstance(row, dict)
    ]


def _dict(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


# -- comparing -------------------------------------------------------------------------------------


class _Compared:
    """Collects what differs; used by one thread."""

    def __init__(self, before: _Side, after: _Side) -> None:
        self._before = before
        self._after = after
        self.differences: list[Difference] = []
        self.same: dict[str, int] = {}
        self.unknown: list[str] = []

    def all(self) -> None:
        """Compare everything, in the order in which it is shown."""
        self._states()
        self._code()
        self._functions()
        self._environment()
        self._parameters()
        self._artifacts()
        self._results()
        self._metrics()

    def _tables(
        self, subject: Subject, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        for name in sorted({*before, *after}):
            one, other = _plain(before.get(name)), _plain(after.get(name))
            if one == other:
                self.same[subject] = self.same.get(subject, 0) + 1
            else:
                self.differences.append(Difference(subject, name, one, other))

    def _states(self) -> None:
        before, after = self._before, self._after
        self._tables("status", {"run": before.run["status"]}, {"run": after.run["status"]})
        self._tables("status", _by_name(before.states), _by_name(after.states))

    def _code(self) -> None:
        before, after = code_identities_of(self._before.run), code_identities_of(self._after.run)
        if not before or not after:
            self._say_missing("the version of the code", bool(before), bool(after))
            return
        for name in ("code_identifier", "branch", "code_identifier_url"):
            self._tables("code", _picked(before[0], name), _picked(after[0], name))
        for which, row in (("first", before[0]), ("second", after[0])):
            if row.get("code_identifier_dependable") is False:
                self.unknown.append(
                    f"The {which} run's code had changes that were not committed: its commit alone "
                    "does not say what ran."
                )

    def _functions(self) -> None:
        before, after = self._before.functions, self._after.functions
        if not before or not after:
            self._say_missing("its functions", bool(before), bool(after))
            return
        for key in sorted({*before, *after}):
            one, other = before.get(key, {}), after.get(key, {})
            if set(one) == set(other):
                self.same["function"] = self.same.get("function", 0) + 1
                continue
            details: tuple[str, ...] = ()
            diff: tuple[str, ...] = ()
            if one and other:
                first, second = _last(one), _last(other)
                changes = changes_of(first, second)
                details = tuple(change.sentence for change in changes)
                diff = tuple(line for change in changes for line in change.diff.splitlines())
            name = (
                key[1] if key[0] in (key[1], key[1].rpartition(".")[2]) else " as ".join(key[::-1])
            )
            self.differences.append(
                Difference("function", name, _identities(one), _identities(other), details, diff)
            )

    def _environment(self) -> None:
        before = _dict(self._before.run.get("environment"))
        after = _dict(self._after.run.get("environment"))
        rest = [
            {name: value for name, value in one.items() if name not in _NOT_COMPARED}
            for one in (before, after)
        ]
        self._tables("environment", *rest)
        sides = self._before, self._after
        known = [bool(side.environments.program) for side in sides]
        packages = [packages_of(side.environments, side.run) for side in sides]
        if known[0] != known[1]:
            # A run that does not have all of its packages has those that record.
            common = set(packages[0]).intersection(packages[1])
            packages = [{name: one[name] for name in common} for one in packages]
            self._say_missing("all packages", *known)
        self._tables("package", *packages)
        if all(known):
            self._tables("environment", *(_settings(side.environments.program) for side in sides))
        commands = [_command(one) for one in (before, after)]
        if all(commands):
            self._tables("parameter", {"command line": commands[0]}, {"command line": commands[1]})

    def _parameters(self) -> None:
        before, after = self._before.parameters, self._after.parameters
        if not before or not after:
            if before or after:
                self._say_missing("arguments of tasks", bool(before), bool(after))
            return
        names = [
            {f"{key[1]} of {key[0]}": _values(values) for key, values in one.items()}
            for one in (before, after)
        ]
        self._tables("parameter", *names)

    def _artifacts(self) -> None:
        subjects: tuple[Subject, ...] = ("input", "result")
        for subject in subjects:
            tables = [
                {
                    name: digest
                    for (stage, name), digest in one.artifacts.items()
                    if stage == subject
                }
                for one in (self._before, self._after)
            ]
            self._tables(subject, *tables)

    def _results(self) -> None:
        before, after = self._before.results, self._after.results
        both = [task for task in before if task in after]
        for task in both:
            self._tables("result", {task: before[task]}, {task: after[task]})

    def _metrics(self) -> None:
        self._tables(
            "metric",
            _dict(self._before.run.get("user_defined_metrics")),
            _dict(self._after.run.get("user_defined_metrics")),
        )

    def _say_missing(self, what: str, first: bool, second: bool) -> None:
        which = "Neither run has" if not (first or second) else "Only the {} run has"
        which = which.format("first" if first else "second")
        self.unknown.append(f"{which} {what} in its record.")


def _identities(records: Mapping[str, Record]) -> str | None:
    return ", ".join(sorted(records)) or None


def _last(records: Mapping[str, Record]) -> Record:
    return list(records.values())[-1]


def _by_name(states: Mapping[tuple[str, str], int]) -> dict[str, str]:
    names: dict[str, list[str]] = {}
    for (name, state), count in sorted(states.items()):
        names.setdefault(name, []).append(f"{count:,} {state}")
    return {f"tasks of {name}": ", ".join(counts) for name, counts in names.items()}


def _plain(value: Any, depth: int = 3) -> Any:
    """A value without what is nested deeply: run.json may hold what others wrote."""
    if isinstance(value, dict):
        table = cast("dict[Any, Any]", value)
        return {str(name): _plain(one, depth - 1) for name, one in table.items()} if depth else "…"
    if isinstance(value, list):
        return [_plain(one, depth - 1) for one in cast("list[Any]", value)] if depth else "…"
    return value


def _picked(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    labels = {"code_identifier": "commit", "code_identifier_url": "repository"}
    return {labels.get(name, name): row[name]} if row.get(name) else {}


def _settings(program: Mapping[str, Any]) -> dict[str, Any]:
    """Dask's configuration with dotted names, and variables."""
    found = {
        f"variable {name}": value
        for name, value in _dict(program.get("variables")).items()
        if name not in _VARIABLES_NOT_COMPARED
    }
    waiting = [("dask", program.get("dask_config"))]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict) and value:
            table = cast("dict[str, Any]", value)
            waiting += [(f"{name}.{key}", below) for key, below in table.items()]
        elif value is not None:
            found[name] = value
    return found


def _command(environment: Mapping[str, Any]) -> str:
    argv: Any = _dict(environment.get("command")).get("argv")
    return " ".join(map(str, cast("list[Any]", argv))) if isinstance(argv, list) else ""


def _values(values: set[str]) -> str:
    shown = sorted(values, key=_natural)
    text = ", ".join(shown[:_MAX_VALUES])
    return f"{text}, …" if len(shown) > _MAX_VALUES else text


def _natural(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text
