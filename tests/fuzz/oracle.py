"""Runs the commands that read runs on a broken run, and says what they must not do."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from fuzz.mutate import mutate
from scalable.cli import cli

CORPUS = Path(__file__).parent / "corpus"
#: Seconds that a command may take before it counts as hanging; a loaded machine needs far less.
HANG = 60
#: Characters that a command may print.
MAX_OUTPUT = 20_000_000
#: A sentence that stands outside of the runs, and nowhere in what is printed or written.
SECRET = "this is somebody else's"

GOOD = "run-20260101T000000Z-good-00000000"
BROKEN = "run-20260102T000000Z-broken-00000000"

_CRATE = "crate"

#: What the commands themselves write for colours.
_STYLE = re.compile(r"\x1b\[\d{0,2}(?:;\d{1,2})*m")
_ACTS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)


class _Terminal(io.StringIO):
    """Standard output that says it is a terminal: nothing is removed on the way to it."""

    def isatty(self) -> bool:
        return True


class Faults(AssertionError):
    """What the commands did wrong, and with what."""


def commands(run_id: str, file: Path, choose: random.Random) -> Iterator[list[str]]:
    """Every command that reads a run."""
    which = ["--run-id", run_id]
    yield ["report", *choose.choice(([], ["--scan"])), *which]
    yield ["report", "--format", "json", *which]
    yield ["diagnose", *which]
    yield ["diagnose", "--format", "json", *which]
    yield ["runs"]
    yield ["export", "--file", str(file), *choose.choice(([], ["--all", "--json"])), *which]
    yield ["crash-logs", "list", *which]
    yield ["crash-logs", "show", choose.choice("01"), *which]
    if choose.random() < 0.2:
        yield ["crash-logs", "upload", "--dry-run", *which]
        yield ["report"]
    if choose.random() < 0.2:
        yield ["report", "--format", "md", *which]
        yield ["compare", *choose.choice(([GOOD, run_id], [run_id, GOOD])), "--json"]
    if choose.random() < 0.2:
        yield ["export", "--prov", str(file), *which]
        crate = file.with_name(_CRATE)
        shutil.rmtree(crate, ignore_errors=True)
        profile = choose.choice(("process", "provenance"))
        yield ["export", "--ro-crate", str(crate), "--profile", profile, *which]


class World:
    """A directory of runs of which one is whole and one is broken anew each time."""

    def __init__(self, directory: Path) -> None:
        self.runs = directory / "runs"
        self.outside = directory / "outside"
        self.file = directory / "export.jsonl"
        self.outside.mkdir(parents=True)
        for name in ("secret.log", "tasks.jsonl", "run.json"):
            (self.outside / name).write_text(json.dumps({"task_name": SECRET}) + "\n")
        self.broken = self.runs / BROKEN
        self._corpus = {
            path.name: {
                file.relative_to(path): file.read_bytes()
                for file in path.rglob("*")
                if file.is_file()
            }
            for path in sorted(CORPUS.iterdir())
        }
        self._make("completed", self.runs / GOOD)
        os.environ["SCALABLE_STRICT"] = "1"
        self._good = self._told_of_good()
        assert self._good["readable"]

    def _make(self, name: str, target: Path) -> None:
        for file, data in self._corpus[name].items():
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)

    def check(self, choose: random.Random) -> None:
        """Break a run and run every command on it.

        Raises
        ------
        Faults
            With what was done, and each fault.
        """
        self._clear()
        name = choose.choice(sorted(self._corpus))
        self._make(name, self.broken)
        done = mutate(self.broken, self.outside, choose)
        before = _snapshot(self.runs), _snapshot(self.outside)
        faults: list[str] = []
        for arguments in commands(BROKEN, self.file, choose):
            faults += self._run(arguments)
        if (_snapshot(self.runs), _snapshot(self.outside)) != before:
            faults.append("files were changed")
        try:
            good = self._told_of_good()
        except Exception as error:
            good = repr(error)
        if good != self._good:
            faults.append(f"another run is told as {good}")
        if faults:
            raise Faults("\n".join([f"{name}: {' | '.join(done)}", *faults]))

    def _clear(self) -> None:
        for path in self.runs.iterdir():
            if path.name == GOOD:
                continue
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
                shutil.rmtree(path)
            else:
                path.unlink()

    def _run(self, arguments: list[str]) -> Iterator[str]:
        code, out, err, raised = run(arguments, self.runs)
        what = " ".join(arguments)
        if raised is not None:
            frames = "".join(traceback.format_exception(raised)[-4:])
            yield f"{what}: {type(raised).__name__}: {str(raised)[:200]}\n{frames}"
        elif code not in (0, 1, 2):
            yield f"{what}: exit code {code}"
        for text in (out, err):
            found = _ACTS.search(_STYLE.sub("", text))
            if found:
                around = text[max(0, found.start() - 30) : found.start() + 30]
                yield f"{what}: prints {found[0]!r} in {around!r}"
            if SECRET in text:
                yield f"{what}: prints what is outside"
            if len(text) > MAX_OUTPUT:
                yield f"{what}: prints {len(text):,} characters"
        if code == 0 and ("json" in arguments or "--json" in arguments):
            try:
                json.loads(out)
            except (ValueError, RecursionError) as error:
                yield f"{what}: its JSON cannot be read: {error}"
        crate = self.file.with_name(_CRATE)
        for path in crate.rglob("*") if "--ro-crate" in arguments else ():
            if path.is_symlink() or SECRET in path.read_text(errors="surrogateescape"):
                yield f"{what}: copies what is outside"
        if self.file.exists():
            written = self.file.read_text(encoding="utf-8", errors="surrogateescape")
            self.file.unlink()
            if SECRET in written:
                yield f"{what}: writes what is outside"
            whole = "--prov" in arguments
            for text in filter(None, [written] if whole else written.split("\n")):
                json.loads(text)

    def _told_of_good(self) -> dict[str, Any]:
        _, out, _, _ = run(["runs", "--json"], self.runs)
        rows = [row for row in json.loads(out) if row["path"].endswith(GOOD)] if out else []
        return rows[0] if rows else {}


def run(arguments: list[str], runs: Path) -> tuple[int, str, str, BaseException | None]:
    """Run a command in this process; returns exit code, output, errors and what it raised."""
    out, err = _Terminal(), io.StringIO()
    code, raised = 0, None
    with redirect_stdout(out), redirect_stderr(err), _limit(HANG):
        try:
            cli.main(
                [*arguments, "--runs-dir", str(runs)], prog_name="scalable", standalone_mode=True
            )
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raised = error
    return code, out.getvalue(), err.getvalue(), raised


@contextmanager
def _limit(seconds: int) -> Generator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError("the command hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _snapshot(directory: Path) -> dict[str, tuple[int, int, int]]:
    found: dict[str, tuple[int, int, int]] = {}
    for where, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = Path(where, name)
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def try_many(count: int, seed: int, world: World) -> list[str]:
    """Try `count` broken runs; returns the faults found, one for each kind."""
    kinds: dict[str, str] = {}
    for number in range(seed, seed + count):
        try:
            world.check(random.Random(number))
        except Faults as faults:
            lines = str(faults).splitlines()
            kind = next((line for line in reversed(lines) if line.strip()), "")
            if kind not in kinds:
                kinds[kind] = f"seed {number}: {faults}"
                print(kinds[kind], file=sys.stderr)
        if sys.stderr.isatty() and number % 100 == 0:
            print(f"{number - seed:,} of {count:,}, {len(kinds)} kinds of faults", file=sys.stderr)
    return list(kinds.values())
