"""The command line: what it prints where, how it exits, what it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from run_builder import RunBuilder, eventful, failure, life
from scalable import __version__
from scalable.cli import COMMANDS, cli
from scalable.cli import _runs as runs
from scalable.cli import _terminal as terminal

FIRST = "run-20260102T030405Z-flights-0a1b2c3d"
SECOND = "run-20260102T040506Z-flights-1a1b2c3d"


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Two runs where the commands look by default; the later one by name began first."""
    runs = tmp_path / ".scalable" / "runs"
    first = RunBuilder(runs, FIRST)
    eventful(first)
    first.finish(12.5)
    second = RunBuilder(runs, SECOND, started_at="2026-01-02T03:00:00.000000Z", project_name="old")
    second.add(*life("inc-1", 0, 1.0))
    second.finish(2, status="failed")
    return runs


def scalable(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="scalable", **options)


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scalable.cli", *arguments],
        timeout=60,
        check=False,
        **{"capture_output": True, "encoding": "utf-8", **options},
    )


def on_a_terminal(*arguments: str, **environ: str) -> str:
    """Run a command whose output is a terminal of 80 columns; return what it shows."""
    controller, terminal = os.openpty()
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "scalable.cli", *arguments],
            stdout=terminal,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environ},
        )
        os.close(terminal)
        shown = b""
        while True:
            try:
                part = os.read(controller, 65536)
            except OSError:  # the other end was closed
                break
            if not part:
                break
            shown += part
        assert child.wait(60) == 0
    finally:
        os.close(controller)
    return shown.decode().replace("\r\n", "\n")


# -- help and version --------------------------------------------------------------------------


def test_help_teaches_how_to_record_and_what_there_is() -> None:
    shown = process("--help")
    assert shown.returncode == 0
    assert "scalable.instrument(client)" in shown.stdout
    for name, text in COMMANDS.items():
        assert f"  {name:<{max(map(len, COMMANDS))}}  {text}" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", ["report", "runs"])
def test_the_help_of_a_command_fits_80_columns_and_has_examples(name: str) -> None:
    shown = scalable(name, "--help")
    assert shown.exit_code == 0
    assert "Examples:" in shown.output
    assert "SCALABLE_RUNS_DIR" in shown.output
    assert max(map(len, shown.output.splitlines())) <= 80


def test_the_version_is_that_of_the_package() -> None:
    for option in ("--version", "-V"):
        assert scalable(option).output == f"scalable {__version__}\n"


def test_the_package_itself_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scalable", "-V"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"scalable {__version__}\n"


@pytest.mark.parametrize("group", ["cache", "crash-logs"])
def test_no_help_of_a_subcommand_is_cut(group: str) -> None:
    listed = scalable(group, "--help").output.partition("Commands:")[2]
    assert "..." not in listed


def completions(line: str) -> list[str]:
    """What the shell would offer after a line."""
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-m", "scalable"],
        env={
            **os.environ,
            "_SCALABLE_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    return [found.partition(",")[2] for found in done.stdout.splitlines()]


def test_commands_runs_workers_targets_and_functions_are_completed(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert completions("scalable re") == ["report", "retry", "replay"]
    assert completions("scalable report run-20") == [SECOND, FIRST]
    assert completions("scalable diagnose --run-id run-20260102T04") == [SECOND]
    assert completions("scalable crash-logs list run-20260102T03") == [FIRST]
    assert completions("scalable report .scalable/ru") == [".scalable/ru"]
    monkeypatch.chdir(runs_dir)
    assert completions("scalable export run-20260102T04") == [SECOND]
    lost = RunBuilder(runs_dir, "run-20260102T060405Z-flights-0a1b2c3d")
    lost.add(failure("WorkerLost", "lost", 5, phase="worker_lost", worker_id="3", cause="killed"))
    lost.finish(6)
    assert completions("scalable crash-logs show ") == ["3"]
    targets = "targets: {hpc: {provider: slurm}, here: {provider: local}}"
    Path("scalable.yaml").write_text(f"version: 1\nproject: {{name: x}}\n{targets}\n")
    assert completions("scalable plan --target h") == ["here", "hpc"]
    from scalable.cache.store import Store, cache_directory

    Store(cache_directory()).save("0" * 64, 1, None, "steps.convert", 0.1)
    assert completions("scalable cache clear --function steps") == ["steps.convert"]


LOADED = """
import sys
from scalable.cli import main
try:
    main()
except SystemExit as exit:
    status = exit.code
names = {name.partition(".")[0] for name in sys.modules}
heavy = {"dask", "distributed", "opentelemetry", "rich", "orjson"}
print(status, sorted(names & heavy), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [(["--help"], []), (["--version"], []), (["report"], ["orjson"]), (["runs"], ["orjson"])],
)
@pytest.mark.usefixtures("runs_dir")
def test_what_a_command_imports(arguments: list[str], allowed: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == f"0 {allowed}"


def test_every_command_in_the_table_is_there() -> None:
    with click.Context(cli) as context:
        for name in COMMANDS:
            command = cli.get_command(context, name)
            assert command is not None
            assert command.name == name


# -- report ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("runs_dir")
def test_report_shows_the_run_that_started_last() -> None:
    for arguments in (["report"], ["report", "--latest"]):
        shown = scalable(*arguments)
        assert shown.exit_code == 0
        assert shown.output.startswith(f"flights  completed in 12.5 s\n{FIRST}\n")


def test_report_shows_the_run_with_that_prefix(runs_dir: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    runs_dir.rename(elsewhere)
    shown = scalable("report", "--run-id", "run-20260102T04", "--runs-dir", str(elsewhere))
    assert shown.output.startswith("old  failed in ")
    shown = scalable("report", "--run-id", SECOND, env={"SCALABLE_RUNS_DIR": str(elsewhere)})
    assert SECOND in shown.output


@pytest.mark.usefixtures("runs_dir")
def test_report_as_json_is_one_document() -> None:
    shown = scalable("report", "--format", "json")
    document = json.loads(shown.output)
    assert document["run"]["run_id"] == FIRST
    assert document["counts"]["tasks_succeeded"] == 128
    assert document["report"]["source"] == "summary.json"
    scanned = json.loads(scalable("report", "--format", "json", "--scan").output)
    assert scanned["report"].pop("source") == "scan"
    assert scanned["counts"] == document["counts"]


@pytest.mark.usefixtures("runs_dir")
@pytest.mark.parametrize("format_", ["text", "json"])
def test_report_to_a_file_is_what_it_would_print(tmp_path: Path, format_: str) -> None:
    output = tmp_path / "report.out"
    done = scalable("report", "--format", format_, "--output", str(output))
    assert done.exit_code == 0
    assert done.stdout == ""
    assert done.stderr == f"Wrote the report of {FIRST} to {output}\n"
    assert output.read_text() == scalable("report", "--format", format_).output


@pytest.mark.usefixtures("runs_dir")
def test_a_pipe_gets_80_columns_without_colour() -> None:
    bare = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    for more, width in (({}, 80), ({"COLUMNS": "100"}, 100), ({"COLUMNS": "60"}, 60)):
        shown = process("report", env={**bare, **more})
        assert shown.returncode == 0
        assert "\x1b" not in shown.stdout
        assert "…" not in shown.stdout.replace("row …", "")
        lines = [line for line in shown.stdout.splitlines() if not line.startswith("Path ")]
        assert max(map(len, lines)) <= width


@pytest.mark.usefixtures("runs_dir")
def test_a_terminal_gets_colour_unless_switched_off() -> None:
    # Some of its tasks failed.
    assert "\x1b[33;1mcompleted\x1b[0m" in on_a_terminal("report")
    for refusal in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        shown = on_a_terminal("report", **refusal)
        assert "\x1b" not in shown
        assert "completed in 12.5 s" in shown


@pytest.mark.usefixtures("runs_dir")
@pytest.mark.parametrize("arguments", [["report", "--format", "json"], ["runs"], ["--help"]])
def test_the_reader_of_a_pipe_may_leave_early(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = process(*arguments, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


PLAIN_TERMINALS = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
]


@pytest.mark.parametrize("place", PLAIN_TERMINALS, ids=str)
def test_where_characters_cannot_be_shown_plain_ones_are(
    runs_dir: Path, place: dict[str, str]
) -> None:
    third = "run-20260102T050405Z-cafe-0a1b2c3d"
    run = RunBuilder(runs_dir, third, project_name="naïve → 数据")
    run.add(*life("π…-1", 0, 50e-3))
    run.finish(2)
    environ = {**os.environ, **place}
    charset = "latin-1" if "latin-1" in place.values() else "ascii"
    for arguments in (["report"], ["diagnose"], ["runs"], ["report", FIRST], ["run", "--help"]):
        shown = process(*arguments, encoding=None, env=environ)
        assert (shown.returncode, shown.stderr) == (0, b"")
        shown.stdout.decode(charset)
    shown = process("report", third, encoding=charset, env=environ)
    assert "na?ve -> ??" in shown.stdout or "naïve -> ??" in shown.stdout
    assert "?..-1" not in shown.stdout
    assert "?...-1" in shown.stdout
    for arguments in (["report", third], ["runs"]):
        shown = process(*arguments, "--json", encoding=None, env=environ)
        assert "数据" in str(json.loads(shown.stdout.decode("utf-8")))
    said = process("report", "数", encoding=charset, env=environ)
    assert (said.returncode, said.stderr.isascii()) == (1, True)


@pytest.mark.usefixtures("runs_dir")
@pytest.mark.parametrize(
    "arguments",
    [["report"], ["report", "--json"], ["diagnose"], ["runs", "--json"], ["--help"], ["schema"]],
)
def test_an_output_that_takes_nothing_is_one_line_and_exit_code_1(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = process(*arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (
            1,
            "Error: cannot write: No space left on device.\n",
        )
        assert process(*arguments, capture_output=False, stdout=full, stderr=full).returncode == 1


@pytest.mark.usefixtures("runs_dir")
def test_colours_can_be_forced_into_a_pipe_and_refused_all_the_same() -> None:
    for force in ({"FORCE_COLOR": "1"}, {"CLICOLOR_FORCE": "1"}):
        for command in ("report", "runs"):
            assert "\x1b[3" in process(command, env={**os.environ, **force}).stdout
            refused = process(command, env={**os.environ, **force, "NO_COLOR": "1"})
            assert "\x1b" not in refused.stdout
        as_json = process("report", "--json", env={**os.environ, **force})
        assert "\x1b" not in as_json.stdout
    assert "\x1b" not in process("report", env={**os.environ, "FORCE_COLOR": "0"}).stdout


def test_a_run_whose_program_was_killed_reads_as_lost(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from run_builder import RunBuilder, eventful
run = RunBuilder(Path({str(tmp_path / "runs")!r}), {FIRST!r})
eventful(run)
run.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == -9
    shown = scalable("report", "--runs-dir", str(tmp_path / "runs"))
    assert shown.exit_code == 0
    assert shown.output.startswith("flights  lost after ")
    assert "Running when the recorder died (1 task)" in shown.output
    assert "128 succeeded, 6 failed, 1 running" in shown.output


# -- which run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["report", "diagnose"])
def test_a_run_is_named_by_its_id_a_beginning_or_its_path(runs_dir: Path, command: str) -> None:
    path = runs_dir / SECOND
    for name in (SECOND, SECOND[:16], str(path), f"{path}/", f".scalable/runs/{SECOND}"):
        for arguments in ([name], ["--run-id", name]):
            shown = scalable(command, *arguments, "--json")
            assert shown.exit_code == 0, shown.output
            document = json.loads(shown.output)
            assert (document.get("run") or document)["run_id"] == SECOND


def test_within_the_directory_of_runs_an_id_names_one(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs_dir)
    for name in (SECOND, f"{SECOND}/", "."):
        if name == ".":
            monkeypatch.chdir(runs_dir / SECOND)
        assert SECOND in scalable("report", name).output


def test_runs_are_found_from_a_directory_below(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = runs_dir.parents[1] / "src" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert json.loads(scalable("runs", "--json").output)[0]["run_id"] == FIRST
    assert scalable("report").output.startswith("flights  completed")
    # A directory of runs of its own comes first.
    (below / ".scalable" / "runs").mkdir(parents=True)
    assert scalable("report").exit_code == 1


def test_an_ambiguous_beginning_lists_the_runs_it_matches(runs_dir: Path) -> None:
    done = scalable("report", "run-2026")
    assert done.exit_code == 1
    said = done.stderr.splitlines()
    assert said[0] == "Error: 'run-2026' matches 2 runs, give more of the id:"
    assert sorted(said[1:]) == [f"  {FIRST}", f"  {SECOND}"]


@pytest.mark.usefixtures("runs_dir")
def test_json_is_asked_for_in_either_spelling() -> None:
    for command in (["report"], ["diagnose"], ["runs"], ["crash-logs", "list"]):
        once, again = (scalable(*command, *how) for how in (["--json"], ["--format", "json"]))
        assert json.loads(once.output) == json.loads(again.output)
        assert scalable(*command, "--format", "text").exit_code == 0


@pytest.mark.usefixtures("runs_dir")
def test_the_exit_status_can_be_that_of_the_run(tmp_path: Path) -> None:
    well = RunBuilder(tmp_path / "well", FIRST)
    well.add(*life("inc-1", 0, 1.0))
    well.finish(2)
    for command in ("report", "diagnose"):
        assert scalable(command, "--exit-status", str(tmp_path / "well" / FIRST)).exit_code == 0
        # Completed, and tasks failed; failed, and no task did.
        for run in (FIRST, SECOND):
            assert scalable(command, run).exit_code == 0
            assert scalable(command, "--exit-status", run).exit_code == 1


# -- runs --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("runs_dir")
def test_runs_lists_the_newest_first() -> None:
    head, first, second = scalable("runs").output.splitlines()
    assert " ".join(head.split()) == "Run Project Status Started (UTC) Took Tasks Failed"
    assert first.split()[1:3] == ["flights", "completed"]
    assert second.split()[1:3] == ["old", "failed"]
    assert first.split()[-2:] == ["135", "6"]


@pytest.mark.usefixtures("runs_dir")
def test_runs_as_json_has_ids_and_numbers_whole() -> None:
    first, second = json.loads(scalable("runs", "--json").output)
    assert first == {
        "run_id": FIRST,
        "path": f".scalable/runs/{FIRST}",
        "project": "flights",
        "status": "completed",
        "started_at": "2026-01-02T03:04:05Z",
        "finished_at": "2026-01-02T03:04:17.500000Z",
        "duration_s": 12.5,
        "tasks": 135,
        "failures": 6,
        "readable": True,
    }
    assert second["run_id"] == SECOND


@pytest.mark.usefixtures("runs_dir")
def test_runs_may_be_limited_and_the_limit_is_reported() -> None:
    shown = scalable("runs", "--limit", "1")
    assert len(shown.stdout.splitlines()) == 2
    assert shown.stderr == "… and 1 older\n"


def test_no_runs_is_an_empty_list_and_shows_how_to_record_one() -> None:
    shown = scalable("runs")
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "There are no runs yet" in shown.stderr
    assert "scalable.instrument(client)" in shown.stderr
    assert json.loads(scalable("runs", "--json").stdout) == []


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("exists", [False, True])
def test_report_without_runs_shows_how_to_record_one(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / ".scalable" / "runs").mkdir(parents=True)
    done = process("report")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: There are no runs")
    assert "scalable.instrument(client)" in done.stderr
    assert "scalable demo" in done.stderr


@pytest.mark.usefixtures("runs_dir")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report", "--run-id", "run-1999"], "List all runs: scalable runs"),
        (["report", "--run-id", "run-2026"], "give more of the id"),
        (["report", "--run-id", "../../etc"], "is not the directory of a run"),
        (["report", "--output", "missing/dir/report"], "Name another file by --output."),
        (["report", "--runs-dir", "nowhere"], "There are no runs yet: nowhere"),
    ],
)
def test_what_cannot_be_done_exits_with_1_and_shows_what_to_do(
    arguments: Sequence[str], says: str
) -> None:
    done = process(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_that_is_no_run_is_refused(runs_dir: Path) -> None:
    (runs_dir / "stray").mkdir()
    done = scalable("report", "--run-id", "stray")
    assert done.exit_code == 1
    assert "is not a run: it has neither run.json nor journals" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report", "--latest", "--run-id", "x"], "--run-id and --latest exclude each other"),
        (["report", "--format", "yaml"], "'yaml' is not one of 'text', 'json'"),
        (["report", "--nope"], "No such option"),
        (["report", "one", "two"], "unexpected extra argument"),
        (["runs", "--limit", "0"], "0 is not in the range"),
        (["reprot"], "Did you mean 'report'?"),
        (["zzz"], f"There are: {', '.join(COMMANDS)}."),
    ],
)
def test_wrong_usage_exits_with_2_and_shows_the_right_one(
    arguments: Sequence[str], says: str
) -> None:
    done = process(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "--help" in done.stderr


def test_without_a_command_the_help_is_shown() -> None:
    for arguments in ((), ("cache",), ("crash-logs",)):
        done = process(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Commands:" in done.stdout


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "check_readable", interrupted)
    monkeypatch.setattr(cli, "main", interrupted)
    from scalable.cli import main

    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 130


# -- progress ----------------------------------------------------------------------------------


def test_a_scan_that_takes_long_shows_a_bar_and_a_short_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(terminal.sys.stderr, "isatty", lambda: True, raising=False)
    started: list[tuple[int, int]] = []
    monkeypatch.setattr(terminal._Bar, "_start", lambda _, *where: started.append(where))
    with terminal.progress_bar("Reading") as progress:
        assert progress is not None
        progress(1, 10)
        clock[0] = 0.9
        progress(2, 10)
        assert started == []
        clock[0] = 1.1
        progress(3, 10)
    assert started == [(3, 10)]


def test_no_progress_bar_without_a_terminal_on_standard_error() -> None:
    with terminal.progress_bar("Reading") as progress:
        assert progress is None


def test_the_bar_starts_moves_and_goes(capfd: pytest.CaptureFixture[str]) -> None:
    bar = terminal._Bar("Reading")
    bar._start(1, 10)
    bar.advance(10, 10)
    bar.stop()


# What reaches the terminal

HOSTILE = "a\x1b]0;OWNED\x07b\x1b[2Jc\u202ed\x00e\r\x9b31mf\u200bg"


def test_what_is_printed_has_nothing_that_a_terminal_acts_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal.echo(HOSTILE)
    terminal.echo(f"\x1b[31mred\x1b[0m\t{HOSTILE}\nnext", styled=True)
    printed = capsys.readouterr().out
    assert printed == "abcdefg\nred\tabcdefg\nnext\n"
    assert terminal.safe(f"\x1b[1;31mred\x1b[0m {HOSTILE}", styled=True) == (
        "\x1b[1;31mred\x1b[0m abcdefg"
    )


def test_an_unterminated_escape_ends_with_its_line() -> None:
    assert terminal.safe("one\x1b]0;title\ntwo") == "one\ntwo"


def test_an_error_of_a_command_is_as_safe_as_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scalable.yaml").write_text('version: 1\n"k\\e[2J\\u202Ex": 1\n')
    for command in ("validate", "plan", "run"):
        result = scalable(command)
        assert result.exit_code == 1
        assert not set(result.output) & {"\x1b", "\u202e"}, command


def test_an_internal_error_of_a_command_is_one_sentence(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("\x1b[2Jgone")

    monkeypatch.setattr("scalable.analysis.load_overviews", broken)
    arguments = ("runs", "--runs-dir", str(runs_dir))
    monkeypatch.setenv("SCALABLE_STRICT", "1")
    assert isinstance(scalable(*arguments).exception, KeyError)
    monkeypatch.delenv("SCALABLE_STRICT")
    result = scalable(*arguments)
    assert result.exit_code == 1
    assert "internal error: KeyError" in result.output
    assert "\x1b" not in result.output


def test_a_broken_run_json_without_journals_is_named_with_its_line(tmp_path: Path) -> None:
    broken = tmp_path / FIRST
    broken.mkdir()
    (broken / "run.json").write_text("{bad")
    for command in ("report", "diagnose", "export", "crash-logs list"):
        result = scalable(*command.split(), "--runs-dir", str(tmp_path))
        assert result.exit_code == 1
        assert "run.json cannot be read (it is not JSON (line 1))" in result.output, command


def test_foreign_directories_are_no_runs(runs_dir: Path) -> None:
    (runs_dir / "zz-notes").mkdir()
    (runs_dir / "a.txt").write_text("")
    result = scalable("runs", "--json", "--runs-dir", str(runs_dir))
    assert [row["run_id"] for row in json.loads(result.output)] == [FIRST, SECOND]


def test_a_run_given_as_the_directory_of_runs_is_shown(runs_dir: Path) -> None:
    run = runs_dir / FIRST
    assert FIRST in scalable("report", "--runs-dir", str(run)).output
    rows = json.loads(scalable("runs", "--json", "--runs-dir", str(run)).output)
    assert [row["run_id"] for row in rows] == [FIRST]


def test_one_broken_record_is_reported_and_affects_no_other_run(runs_dir: Path) -> None:
    path = runs_dir / FIRST / "workers.jsonl"
    text = path.read_text()
    assert '"memory_limit_bytes":4000000000' in text
    path.write_text(text.replace('"memory_limit_bytes":4000000000', '"memory_limit_bytes":"64GB"'))
    (runs_dir / FIRST / "summary.json").unlink()
    assert scalable("runs", "--runs-dir", str(runs_dir)).exit_code == 0
    for command in ("report", "diagnose"):
        result = scalable(command, "--run-id", FIRST, "--runs-dir", str(runs_dir))
        assert result.exit_code == 0
        assert "of a wrong type left out" in " ".join(result.output.split())


def test_export_sends_what_can_be_sent_and_counts_the_rest(runs_dir: Path, tmp_path: Path) -> None:
    ids = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "00f067aa0ba902b7"}
    run = {"schema_version": 1, "run_id": FIRST, "timestamp": "2026-01-02T03:04:06.000000Z"}
    span = {**run, **ids, "event_type": "span", "name": "good"}
    histogram = {
        **{**run, "event_type": "metric", "name": "rows", "kind": "histogram"},
        **{"count": 1, "sum": 1.5, "bounds": [1, 2], "bucket_counts": [0, 1, 0]},
    }
    log = {**run, "event_type": "log", "body": {"deep": [{"a": 2**63}]}}
    nested = "[" * 900 + "]" * 900
    journals = {
        "spans": [
            span,
            {**span, "trace_id": "0af7651916cd43dd8448eb211c80319X"},
            {**span, "kind": "sideways", "status": {"code": 3}, "attributes": {"x": [1, "a", {}]}},
        ],
        "metrics": [histogram, {**histogram, "bucket_counts": ""}, {**histogram, "name": None}],
        "logs": [log, {**log, "severity_number": 99}, {**log, "body": "BODY"}],
    }
    for name, records in journals.items():
        lines = [json.dumps(record).replace('"BODY"', nested) for record in records]
        (runs_dir / FIRST / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    file = tmp_path / "otlp.jsonl"
    where = ("--run-id", FIRST, "--runs-dir", str(runs_dir), "--file", str(file))
    told = json.loads(scalable("export", *where, "--json").output)
    assert told["left_out"] == 3
    assert told["metric_points"] == 1
    messages = [json.loads(line) for line in file.read_text().splitlines()]
    assert sum('"name": "good"' in json.dumps(message) for message in messages) == 1
    assert "could not be read, and were not sent: 3" in scalable("export", *where).output
