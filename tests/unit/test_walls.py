"""The walls between the rooms: who may import whom, and what an import may bring along."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "src", ROOT / "exporters")

DASK = frozenset({"dask", "distributed"})
OTEL = frozenset({"opentelemetry"})
OURS = frozenset({"scalable", "scalable_runs"})


@dataclass(frozen=True)
class Room:
    """Some modules, the other rooms they may import from, and what they never import."""

    name: str
    modules: tuple[str, ...]
    doors: tuple[str, ...] = ()
    never: frozenset[str] = frozenset()


RUNS = ("run store", "run store's SDK side")

#: A module belongs to the first room that names it or a package above it.
ROOMS = (
    Room("facts", ("scalable.facts",), never=DASK | OTEL),
    Room(
        "common",
        ("scalable.common",),
        doors=("run store",),
        never=DASK | {"opentelemetry.sdk", "opentelemetry.exporter"},
    ),
    Room("causes", ("scalable.causes",), never=DASK | OTEL),
    Room(
        # Which code runs: asked where a run is recorded, and where runs are read.
        "code",
        ("scalable.code",),
        doors=("common", "run store"),
        never=DASK | OTEL,
    ),
    Room("crash upload", ("scalable.crash_upload",), doors=("run store",), never=DASK | OTEL),
    Room(
        "worker's SDK side",
        # Imported when user code in a worker first records something, and no provider is there; or
        # where a provider of the SDK is.
        (
            "scalable.instrumentation.relay_sdk",
            "scalable.instrumentation.detectors",
            "scalable.instrumentation.child_spans",
        ),
        doors=("facts", "instrumentation"),
        never=frozenset({"opentelemetry.exporter"}),
    ),
    Room(
        "instrumentation",
        ("scalable.instrumentation",),
        doors=("facts", "common", "code", "worker's SDK side"),
        # Inside the cluster there are facts, not spans: of OpenTelemetry at most the API.
        never=frozenset({"opentelemetry.sdk", "opentelemetry.exporter"}),
    ),
    Room(
        "telemetry",
        ("scalable.telemetry",),
        doors=("facts", "common", "causes", "code", *RUNS),
        never=DASK,
    ),
    Room(
        "manifest",
        ("scalable.manifest",),
        # The redactor says which keys are secret.
        doors=("common", "run store"),
        # What is checked and planned starts nothing: a provider imports Dask when it starts.
        never=DASK | OTEL,
    ),
    Room(
        # What user code calls, in a process of the cluster or any other.
        "cache",
        ("scalable.cache", "scalable.records"),
        doors=("instrumentation", "common", "code"),
        never=DASK | OTEL,
    ),
    Room(
        # What user code calls, too; it says what it puts and gets to the run that goes on there.
        "catalog",
        ("scalable.catalog",),
        doors=("facts", "common", "instrumentation", "run store"),
        never=DASK | {"opentelemetry.sdk", "opentelemetry.exporter"},
    ),
    Room(
        # Hooks around tasks, in the processes of the cluster.
        "again's worker side",
        (
            "scalable.again.code_digests",
            "scalable.again.failed_calls",
            "scalable.again.fingerprints",
            "scalable.again.keeping",
            "scalable.again.kept_objects",
            "scalable.again.worker_plugin",
        ),
        doors=("again", "cache", "catalog", "code", "common", "facts", "instrumentation"),
        never=OTEL,
    ),
    Room(
        # What is kept of runs, and what is made of it when a program runs again.
        "again",
        ("scalable.again",),
        doors=("cache", "catalog", "code", "common", "run store"),
        never=DASK | OTEL,
    ),
    Room(
        "session",
        ("scalable.session",),
        doors=(
            *(
                "manifest",
                "cache",
                "catalog",
                "composition",
                "configuration files",
                "instrumentation",
                "common",
            ),
            *RUNS,
        ),
        never=OTEL,
    ),
    Room(
        "analysis",
        ("scalable.analysis", "scalable.ai"),
        doors=("causes", "code", "run store"),
        never=DASK | OTEL,
    ),
    Room("advice", ("scalable.advice",), never=DASK | OTEL),
    Room("provenance", ("scalable.provenance",), doors=("run store",), never=DASK | OTEL),
    Room(
        "cli",
        ("scalable.cli", "scalable.__main__"),
        # What a command starts it imports when it is called; see the tests of imports below.
        doors=(
            "again",
            *("analysis", "cache", "code", "common", "crash upload", "demo", "manifest"),
            "public face",
            *("catalog", "configuration files"),
            *("provenance", "run store", "session", "telemetry"),
        ),
        never=DASK | OTEL,
    ),
    Room("demo", ("scalable.demo",), doors=("public face",), never=OTEL),
    Room(
        # What they say holds where a run begins, and where runs are read.
        "configuration files",
        ("scalable.configured",),
        # One that names a run store is YAML, like a manifest.
        doors=("common", "manifest", "telemetry"),
        never=DASK | OTEL,
    ),
    Room(
        "composition",
        (
            "scalable.api",
            "scalable.autoinstrument",
            "scalable.begin",
            "scalable.documents",
            "scalable.resource_detector",
            "scalable.testing",
        ),
        doors=(
            *(
                "facts",
                "catalog",
                "common",
                "code",
                "instrumentation",
                "telemetry",
                "crash upload",
                *RUNS,
            ),
            *("again", "again's worker side"),
            # A run can report itself.
            *("analysis", "configuration files"),
        ),
    ),
    Room(
        "run store's SDK side",
        ("scalable_runs.otel", "scalable_runs.exporter"),
        doors=("run store",),
        never=DASK,
    ),
    Room("run store", ("scalable_runs",), never=DASK | OTEL),
    Room(
        "public face",
        ("scalable",),
        doors=("analysis", "cache", "catalog", "common", "composition", "manifest", "session"),
        never=DASK | OTEL,
    ),
)


#: Packages of the telemetry: each may import those before it. "" is its modules that are in none.
TELEMETRY = (
    "",
    "signals",
    "export",
    "configuration",
    "deaths",
    "ledger",
    "metrics",
    "spans",
    "submissions",
    "recorder",
    "process",
    "resend",
)


def room_of(module: str) -> Room | None:
    for room in ROOMS:
        for member in room.modules:
            # "scalable" stands for itself alone: a new module must be given a room.
            if module == member or (member != "scalable" and module.startswith(f"{member}.")):
                return room
    return None


def imports_of(source: str, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import, wherever it stands, also those for type checkers.

    ``from a import b`` is ``a.b``, as `b` may be a module; and so is ``import scalable`` with the
    names that are then used of it. A literal in ``import_module`` counts.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(
            alias.name == "scalable" and alias.asname is None for alias in node.names
        ):
            yield from attributes_of(tree, "scalable")
        yield from imports_of_node(node, module, is_package=is_package)


def imports_of_node(
    node: ast.AST, module: str, *, is_package: bool = False
) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import that a node of a module's tree is."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name != "scalable" or alias.asname is not None:
                yield node.lineno, alias.name
    elif isinstance(node, ast.ImportFrom):
        above = module.split(".")[: -node.level + is_package or None] if node.level else []
        for alias in node.names:
            yield node.lineno, ".".join(filter(None, [*above, node.module, alias.name]))
    elif (
        isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("import_module")
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ):
        yield node.lineno, str(node.args[0].value)


def attributes_of(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == name:
            yield node.lineno, f"{name}.{node.attr}"


def breaches(sources: Mapping[str, str], packages: frozenset[str] = frozenset()) -> list[str]:
    """Say every import in `sources` (module to text) that goes through a wall."""
    found: list[str] = []
    for module, source in sources.items():
        room = room_of(module)
        if room is None:
            found.append(f"{module} is in no room")
            continue
        for line, name in imports_of(source, module, is_package=module in packages):
            parts = name.split(".")
            above = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
            target = next((module for module in above if module in sources), None)
            if name == "scalable.__version__" and module.startswith("scalable."):
                continue
            if any(name in room.never for name in above):
                found.append(f"{module}:{line}: {room.name} must not import {name}")
            elif target is not None:
                other = room_of(target)
                if other is not room and (other is None or other.name not in room.doors):
                    found.append(f"{module}:{line}: {room.name} must not import {target}")
    return found


def our_sources() -> tuple[dict[str, str], frozenset[str]]:
    sources: dict[str, str] = {}
    packages: set[str] = set()
    for base in SOURCES:
        for path in base.rglob("*.py"):
            parts = path.relative_to(base).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
                packages.add(".".join(parts))
            sources[".".join(parts)] = path.read_text()
    return sources, frozenset(packages)


def test_no_module_imports_through_a_wall():
    sources, packages = our_sources()
    assert {"scalable.facts", "scalable.api", "scalable_runs.reader"} <= set(sources)
    assert breaches(sources, packages) == []


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("scalable.facts", "import distributed", "facts must not import distributed"),
        (
            "scalable.facts",
            "from scalable.common import guard",
            "must not import scalable.common.guard",
        ),
        ("scalable.common.guard", "from .. import facts", "common must not import scalable.facts"),
        (
            "scalable.instrumentation.plugin",
            "def f():\n    from scalable_runs.schema import TASKS",
            "plugin:2: instrumentation must not import scalable_runs.schema",
        ),
        (
            "scalable.instrumentation.plugin",
            "from opentelemetry.sdk.trace import Span",
            "instrumentation must not import opentelemetry.sdk.trace.Span",
        ),
        (
            "scalable.telemetry.recorder.router",
            "from ...instrumentation.plugin import X",
            "telemetry must not import scalable.instrumentation.plugin",
        ),
        (
            "scalable.telemetry.recorder.router",
            "from distributed import Client",
            "telemetry must not",
        ),
        (
            "scalable.analysis",
            "import importlib\nimportlib.import_module('dask.array')",
            "analysis must not import dask.array",
        ),
        (
            "scalable.analysis",
            "from scalable_runs.otel import exporter",
            "scalable_runs.otel.exporter",
        ),
        ("scalable.cli.report", "import scalable.api", "cli must not import scalable.api"),
        (
            "scalable_runs.reader",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import opentelemetry.trace",
            "reader:3: run store must not import opentelemetry.trace",
        ),
        (
            "scalable_runs.reader",
            "from scalable_runs.otel.exporter import E",
            "scalable_runs.otel.exporter",
        ),
        ("scalable_runs.otel.exporter", "import scalable as s", "must not import scalable"),
        (
            "scalable_runs.otel.exporter",
            "import scalable\nscalable.__version__",
            "exporter:2: run store's SDK side must not import scalable",
        ),
        (
            "scalable.telemetry.recorder.router",
            "import scalable\nscalable.__version__\nscalable.instrument",
            "router:3: telemetry must not import scalable",
        ),
        ("scalable", "from distributed import Client", "public face must not import distributed"),
        ("scalable.helpers", "", "scalable.helpers is in no room"),
    ],
)
def test_the_check_sees_a_breach(module: str, source: str, said: str):
    sources = dict.fromkeys(
        (
            "scalable",
            "scalable.facts",
            "scalable.common.guard",
            "scalable.api",
            "scalable.analysis",
            "scalable.cli.report",
            "scalable.instrumentation.plugin",
            "scalable.telemetry.recorder.router",
            "scalable_runs",
            "scalable_runs.schema",
            "scalable_runs.reader",
            "scalable_runs.otel.exporter",
        ),
        "",
    )
    packages = frozenset({"scalable", "scalable.analysis", "scalable_runs"})
    assert breaches(sources, packages) == []
    (breach,) = breaches({**sources, module: source}, packages)
    assert said in breach


def test_no_modules_import_each_other_in_a_circle():
    """A type for a checker is an import too: what it ties together cannot be read apart."""
    sources, packages = our_sources()
    below: dict[str, set[str]] = {}
    for module, source in sources.items():
        below[module] = set()
        for _, name in imports_of(source, module, is_package=module in packages):
            parts = name.split(".")
            above = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
            target = next((module for module in above if module in sources), None)
            # A package's face may name what is in it, which imports the package by standing in it.
            if target not in (None, module) and target not in packages:
                below[module].add(target)
    circles: list[list[str]] = []
    for module in sources:
        seen: set[str] = set()
        todo = list(below[module])
        while todo:
            one = todo.pop()
            if one == module:
                circles.append([module])
                break
            if one not in seen:
                seen.add(one)
                todo.extend(below[one])
    assert circles == []


def upward(sources: Mapping[str, str], packages: frozenset[str]) -> list[str]:
    """Say every import within the telemetry of a package that comes after the importing one."""
    prefix = "scalable.telemetry."

    def place(module: str) -> int:
        package, dot, _ = module.removeprefix(prefix).partition(".")
        return TELEMETRY.index(package if dot or module in packages else "")

    found: list[str] = []
    for module in filter(lambda module: module.startswith(prefix), sources):
        for line, name in imports_of(sources[module], module, is_package=module in packages):
            parts = name.split(".")
            above = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
            target = next((module for module in above if module in sources), "")
            if target.startswith(prefix) and place(target) > place(module):
                found.append(f"{module}:{line}: {target}")
    return found


def test_packages_of_the_telemetry_import_only_those_before_them():
    assert upward(*our_sources()) == []


def test_the_check_sees_an_import_of_a_later_package():
    sources = {
        "scalable.telemetry.semconv": "from scalable.telemetry.signals.logs import EventFactory",
        "scalable.telemetry.signals": "",
        "scalable.telemetry.signals.logs": "from scalable.telemetry import semconv, spans",
        "scalable.telemetry.spans": "from .. import signals",
        "scalable.telemetry.spans.budget": "from ..signals import logs\nfrom ..ledger import L",
        "scalable.telemetry.ledger": "def f():\n    from scalable.telemetry.spans import budget",
    }
    packages = frozenset(f"scalable.telemetry.{name}" for name in ("signals", "spans", "ledger"))
    assert upward(sources, packages) == [
        "scalable.telemetry.semconv:1: scalable.telemetry.signals.logs",
        "scalable.telemetry.signals.logs:1: scalable.telemetry.spans",
        "scalable.telemetry.ledger:2: scalable.telemetry.spans.budget",
    ]


def test_a_class_of_more_than_400_lines_gives_a_reason():
    """`Long because …` in its docstring."""
    sources, _ = our_sources()
    long: list[str] = []
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > 400 and "Long because" not in (ast.get_docstring(node) or ""):
                    long.append(f"{module}.{node.name}: {lines} lines")
    assert long == []


# --- what an import really brings along -------------------------------------------------------

BLOCKED = textwrap.dedent(
    """
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {blocked!r}:
                raise ModuleNotFoundError("blocked: " + name, name=name)

    sys.meta_path.insert(0, Blocker())
    """
)


def python(code: str, *, blocked: frozenset[str] = frozenset()) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter in which the packages `blocked` do not exist."""
    code = BLOCKED.format(blocked=sorted(blocked)) + textwrap.dedent(code)
    # Isolated, so that neither the working directory nor the tests' own paths help an import.
    paths = f"import sys; sys.path[:0] = {[str(base) for base in SOURCES]!r}\n"
    return subprocess.run(
        [sys.executable, "-I", "-c", paths + code], capture_output=True, text=True, check=False
    )


def brought_along(code: str) -> set[str]:
    """Which of Dask's and OpenTelemetry's packages are imported after `code`."""
    result = python(
        f"""
        {code}
        print("brought", *{{name.split(".")[0] for name in sys.modules}})
        """
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split()) & (DASK | OTEL)


def test_brought_along_sees_what_an_import_brings():
    assert brought_along("import opentelemetry.trace") == {"opentelemetry"}


def test_what_is_not_fork_safe_is_imported_in_one_place_when_a_store_is_opened():
    """A process that has used `obstore` must not fork: programs, schedulers and workers do."""
    found: dict[str, set[bool]] = {}
    for module, source in our_sources()[0].items():
        if "obstore" not in source:
            continue
        tree = ast.parse(source)
        late: set[int] = set()
        for node in ast.walk(tree):
            for_checkers = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            if for_checkers:
                node.body.clear()
            elif isinstance(node, ast.FunctionDef):
                late |= {id(inside) for inside in ast.walk(node)}
        for node in ast.walk(tree):
            names = [name for _, name in imports_of_node(node, module)]
            if any(name.split(".")[0] == "obstore" for name in names):
                found.setdefault(module, set()).add(id(node) in late)
    # In the module of Amazon's profiles only where a profile needs Amazon's own library.
    assert found == {"scalable_runs.stores.aws": {True}, "scalable_runs.stores.cloud": {True}}


def test_importing_scalable_imports_neither_dask_nor_opentelemetry():
    assert brought_along("import scalable") == set()


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        (
            "scalable.begin",
            {
                "opentelemetry.sdk._logs",
                "opentelemetry.sdk.metrics",
                "scalable.causes",
                "scalable.crash_upload",
                "scalable.telemetry.deaths",
                "scalable.telemetry.ledger",
                "scalable.telemetry.recorder.recorder",
                "scalable_runs.otel",
                "scalable_runs.writer",
            },
        ),
        (
            "scalable.instrumentation.worker_plugin",
            {
                "opentelemetry.sdk",
                "scalable.common.options",
                "scalable.telemetry",
                "scalable_runs.schema",
            },
        ),
    ],
)
def test_a_run_begins_without_modules_that_it_may_not_need(module: str, unneeded: set[str]):
    """``instrument()`` waits for the imports of the program and of its workers."""
    result = python(f"import sys, {module}; print(*sys.modules)")
    assert result.returncode == 0, result.stderr
    assert unneeded & set(result.stdout.split()) == set()


def test_help_imports_neither_dask_nor_opentelemetry():
    assert (
        brought_along(
            """
        from scalable.cli import main
        sys.argv[1:] = ["--help"]
        try:
            main()
        except SystemExit as stop:
            assert stop.code == 0, stop.code
        """
        )
        == set()
    )


def test_reading_and_judging_runs_imports_neither_dask_nor_opentelemetry():
    modules = "scalable_runs.reader, scalable_runs.writer, scalable_runs.summary"
    assert brought_along(f"import {modules}, scalable_runs.redact, scalable.analysis") == set()


def test_every_public_name_can_be_had():
    result = python(
        """
        import scalable
        missing = [name for name in scalable.__all__ if not hasattr(scalable, name)]
        assert scalable.__all__ and not missing, missing
        assert set(scalable.__all__) <= set(dir(scalable))
        """
    )
    assert result.returncode == 0, result.stderr


def test_report_works_where_dask_and_opentelemetry_are_not_installed(tmp_path: Path):
    made = python(
        f"""
        from scalable_runs.writer import RunWriter
        from scalable_runs.schema import SCHEMA_VERSION
        writer = RunWriter.create({str(tmp_path / "runs")!r}, dict(
            schema_version=SCHEMA_VERSION, run_id="run-20260101T000000Z-walls-00000000",
            project_name="walls", target_name="existing", provider_name="local",
            manifest_lock="", source_manifest_path=None, started_at="2026-01-01T00:00:00.000000Z",
            finished_at=None, status="running", trace_id="0" * 31 + "1", environment={{}},
            code_identities={{}}, telemetry=dict(dropped={{}}, errors={{}}), journal={{}},
        ))
        writer.close(status="completed", finished_at="2026-01-01T00:00:01.000000Z")
        """,
        blocked=DASK | OTEL,
    )
    assert made.returncode == 0, made.stderr
    report = python(
        f"""
        from scalable.cli import main
        sys.argv[1:] = ["report", "--runs-dir", {str(tmp_path / "runs")!r}]
        main()
        """,
        blocked=DASK | OTEL,
    )
    assert report.returncode == 0, report.stderr
    assert "run-20260101T000000Z-walls-00000000" in report.stdout


def test_the_commands_print_through_one_function_alone() -> None:
    """Names and messages come from runs and manifests that may be somebody else's."""
    printing = {"echo", "secho", "echo_via_pager", "confirm", "prompt", "style"}
    found: list[str] = []
    for path in sorted((ROOT / "src/scalable/cli").glob("*.py")):
        if path.name == "_terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="print")):
                    found.append(f"{path.name}:{node.lineno}")
                case ast.Attribute(value=ast.Name(id="click"), attr=name) if name in printing:
                    found.append(f"{path.name}:{node.lineno}")
                case ast.Attribute(value=ast.Name(id="traceback"), attr=name) if "print" in name:
                    found.append(f"{path.name}:{node.lineno}")
                case _:
                    pass
    assert not found, f"print with scalable.cli._terminal.echo: {found}"


def test_each_file_of_tests_has_a_name_of_its_own():
    """The folders of tests are no packages: two files of one name cannot be collected together."""
    names = Counter(path.name for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
