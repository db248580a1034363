"""Breaks a run's directory: its bytes, its values, its files and what stands in their place."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What escapes a terminal, reorders text or cannot be encoded, if it is printed as it is.
HOSTILE = (
    "\x1b]0;OWNED\x07\x1b[2J",
    "a\u202eb\u2066c",
    "\x00\x01\x9b31m",
    "\x1b]8;;http://example.invalid\x1b\\link",
    "one\ntwo\r\x0bthree\u2028four",
    "\ufeff\u200b\u00ad\U000e0041",
)

TEXTS = (
    *HOSTILE,
    "",
    "0",
    "64GB",
    "-1",
    "true",
    "null",
    "\ud800",
    "x" * 70_000,
    "é" * 40_000,
    "-1" * 5_000,
    "[" * 2_000,
    "'" * 3_000,
    '  File "' * 500,
    "run",
    "lost",
    "succeeded",
    "worker_lost",
    "KilledWorker",
    "WorkerLost",
    "tcp://127.0.0.1:1",
    "../../../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    ".",
    "logs",
    "run.json",
    "a\nb" * 2_000,
    "Traceback (most recent call last):\n" * 200,
    "f" * 16,
    "0" * 32,
    "g" * 16,
    "0x" + "1" * 14,
    "\u0663" * 16,
)

TIMES = (
    "9999-12-31T23:59:59.999999Z",
    "0001-01-01T00:00:00+23:59",
    "1969-12-31T23:59:59Z",
    "2554-07-22T00:00:00Z",
    "2999-01-01T00:00:00-23:59",
    "2026-02-30T00:00:00Z",
    "2026-01-02",
    "2026-W01-1",
    "20260102T030405Z",
    "T",
)

NUMBERS: tuple[Any, ...] = (
    0,
    -1,
    1,
    3,
    255,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    10**30,
    0.0,
    -0.0,
    0.5,
    -1e308,
    1e308,
    5e-324,
    float("nan"),
    float("inf"),
)


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _deep(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"details": value}
    return value


STRUCTURES: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    [1, "a", None, {}],
    [0] * 2_000,
    ["a"] * 200,
    [{"a": 1}] * 50,
    {"": ""},
    {"a": None, "b": [1]},
    {HOSTILE[0]: 1, HOSTILE[1]: "x"},
    {str(number): number for number in range(2_000)},
    _nested(60),
    _nested(800),
    _deep(40),
    _deep(500),
)


def value(choose: random.Random) -> Any:
    """Any JSON value, mostly a troublesome one."""
    kind = choose.choice((TEXTS, TEXTS, TIMES, NUMBERS, STRUCTURES))
    chosen = choose.choice(kind)
    # A copy: what is put into one place may be changed there.
    return json.loads(json.dumps(chosen)) if kind is STRUCTURES else chosen


def mutate(run: Path, outside: Path, choose: random.Random) -> list[str]:
    """Break a run in one to five ways; returns what was done.

    Parameters
    ----------
    run
        A run's directory, or what is to be one.
    outside
        A directory beside it, of which nothing may be read.
    choose
        Makes every choice.
    """
    done: list[str] = []
    for _ in range(choose.choice((1, 1, 1, 2, 3, 5))):
        change = choose.choice(_CHANGES)
        if not run.is_dir() or run.is_symlink():
            break
        said = change(run, outside, choose)
        if said:
            done.append(said)
    return done


# -- values ---------------------------------------------------------------------------------------


def _is_small(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size < 4_000_000


def _files(run: Path) -> list[Path]:
    return [path for path in sorted(run.rglob("*")) if _is_small(path)]


def _pick(run: Path, choose: random.Random, *suffixes: str) -> Path | None:
    files = [path for path in _files(run) if not suffixes or path.suffix in suffixes]
    return choose.choice(files) if files else None


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if len(path) > 8:
        return []
    found: list[tuple[Any, ...]] = []
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, below in items:
        found.append((*path, key))
        if isinstance(below, dict | list):
            found += _places(below, (*path, key))
    return found


def _change_values(run: Path, outside: Path, choose: random.Random) -> str:
    """Replace, remove, rename or double values somewhere in a document or in a journal's record."""
    path = _pick(run, choose, ".json", ".jsonl")
    if path is None:
        return ""
    try:
        documents = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        if path.suffix == ".json":
            documents = [json.loads(path.read_text())]
    except (ValueError, RecursionError):
        return ""
    if not documents:
        return ""
    said: list[str] = []
    for _ in range(choose.choice((1, 1, 2, 4, 12, 40))):
        index = choose.randrange(len(documents))
        document = documents[index]
        places = _places(document) if isinstance(document, dict | list) else []
        if not places or choose.random() < 0.05:
            documents[index] = value(choose)
            continue
        place = choose.choice(places)
        holder = document
        for key in place[:-1]:
            holder = holder[key]
        key = place[-1]
        how = choose.choice(("value", "value", "value", "all", "remove", "rename", "outside"))
        new = value(choose)
        if how == "value":
            holder[key] = new
        elif how == "outside":
            holder[key] = str(outside / "secret.log")
        elif how == "remove":
            del holder[key]
        elif how == "rename" and isinstance(holder, dict):
            holder[choose.choice(HOSTILE)] = holder.pop(key)
        elif how == "all":
            # The same field in every record that has it.
            for other in documents:
                here = other
                try:
                    for step in place[:-1]:
                        here = here[step]
                    here[key] = new
                except (LookupError, TypeError):
                    continue
        said.append(f"{how} {'.'.join(map(str, place))[:80]} = {repr(new)[:40]}")
    try:
        lines = [json.dumps(document) for document in documents]
    except RecursionError:
        return ""
    path.write_text("".join(f"{line}\n" for line in lines))
    _forget_marks(run, choose)
    return f"{path.name}: {'; '.join(said[:6])}"


def _forget_marks(run: Path, choose: random.Random) -> None:
    """Mostly let run.json not know what was synced: else all is scanned and told as damaged."""
    if choose.random() < 0.5:
        return
    path = run / "run.json"
    if not _is_small(path):
        return
    try:
        document = json.loads(path.read_text())
        del document["journal"]
        path.write_text(json.dumps(document))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return


def _without_summary(run: Path, outside: Path, choose: random.Random) -> str:
    path = run / "summary.json"
    if path.is_file():
        path.unlink()
        return "no summary.json"
    return ""


# -- bytes ----------------------------------------------------------------------------------------


def _flip(run: Path, outside: Path, choose: random.Random) -> str:
    path = _pick(run, choose)
    if path is None:
        return ""
    data = bytearray(path.read_bytes())
    for _ in range(choose.choice((1, 1, 3, 20))):
        if data:
            data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    path.write_bytes(data)
    _forget_marks(run, choose)
    return f"{path.name}: bits flipped"


def _cut(run: Path, outside: Path, choose: random.Random) -> str:
    path = _pick(run, choose)
    if path is None:
        return ""
    os.truncate(path, choose.randrange(path.stat().st_size + 1))
    return f"{path.name}: cut"


def _insert(run: Path, outside: Path, choose: random.Random) -> str:
    path = _pick(run, choose)
    if path is None:
        return ""
    lines = path.read_bytes().splitlines(keepends=True)
    new = choose.choice(
        (
            b"\n",
            b"\r\n",
            b"garbage\n",
            b"\xff\xfe{\x00}\x00\n",
            b"\xef\xbb\xbf",
            b"\0" * 1_000,
            b"null\n",
            b"[" * 3_000 + b"\n",
            b'{"a":' * 3_000 + b"\n",
            b'"' + b"x" * 300_000 + b'"\n',
            b"1" * 6_000 + b"\n",
            choose.choice(lines) if lines else b"{}\n",
        )
    )
    lines.insert(choose.randrange(len(lines) + 1), new)
    path.write_bytes(b"".join(lines))
    return f"{path.name}: {new[:20]!r} inserted"


def _shuffle(run: Path, outside: Path, choose: random.Random) -> str:
    path = _pick(run, choose, ".jsonl")
    if path is None:
        return ""
    lines = path.read_bytes().splitlines(keepends=True)
    for _ in range(3):
        if len(lines) > 1:
            one, other = choose.randrange(len(lines)), choose.randrange(len(lines))
            lines[one], lines[other] = lines[other], lines[one]
    path.write_bytes(b"".join(lines))
    return f"{path.name}: lines swapped"


def _sparse(run: Path, outside: Path, choose: random.Random) -> str:
    path = _pick(run, choose)
    if path is None:
        return ""
    size = choose.choice((5_000_000, 40_000_000, 3_000_000_000))
    try:
        os.truncate(path, size)
    except OSError:
        return ""
    if choose.random() < 0.5 and path.suffix == ".jsonl":
        with path.open("ab") as file:
            file.write(b"\n{}\n")
    return f"{path.name}: sparse, {size:,} bytes"


# -- files ----------------------------------------------------------------------------------------


def _remove(run: Path, outside: Path, choose: random.Random) -> str:
    path = _pick(run, choose)
    if path is None:
        return ""
    path.unlink()
    return f"{path.name}: removed"


_NAMES = (
    "tasks.jsonl",
    "tasks.1.jsonl",
    "tasks.999999.jsonl",
    "failures.2.jsonl",
    "workers.jsonl",
    "uploads.jsonl",
    "spans.jsonl",
    "metrics.jsonl",
    "run.json",
    "summary.json",
    "owner.json",
    "\x1b[2J.jsonl",
    "tasks.\u0661.jsonl",
)


def _rename(run: Path, outside: Path, choose: random.Random) -> str:
    path = _pick(run, choose)
    if path is None:
        return ""
    target = run / choose.choice(_NAMES)
    if target == path or (os.path.lexists(target) and not target.is_file()):
        return ""
    if choose.random() < 0.5:
        shutil.copyfile(path, target)
    else:
        path.rename(target)
    return f"{path.name}: as {target.name!r}"


def _replace(run: Path, outside: Path, choose: random.Random) -> str:
    """Put something that is no regular file in the place of one."""
    path = _pick(run, choose)
    if path is None:
        return ""
    if path.parent != run and choose.random() < 0.2:
        path = path.parent  # the directory of the logs
        shutil.rmtree(path)
    else:
        path.unlink()
    kind = choose.choice(
        ("fifo", "directory", "outside", "loop", "dangling", "zero", "device", "socket", "mode")
    )
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
            (path / "run.json").write_text("{}")
        case "outside":
            path.symlink_to(outside / choose.choice(("secret.log", "tasks.jsonl", "run.json", ".")))
        case "loop":
            path.symlink_to(path.name)
        case "dangling":
            path.symlink_to("nothing")
        case "zero":
            path.symlink_to("/dev/zero")
        case "device":
            try:
                os.mknod(path, 0o020600, os.makedev(1, 5))
            except OSError:
                path.symlink_to("/dev/zero")
        case "socket":
            here = Path.cwd()
            os.chdir(path.parent)  # a socket's name is short
            try:
                with socket.socket(socket.AF_UNIX) as unix:
                    unix.bind(path.name)
            finally:
                os.chdir(here)
        case _:
            path.write_text("{}")
            path.chmod(0)
    return f"{path.name}: {kind}"


def _replace_run(run: Path, outside: Path, choose: random.Random) -> str:
    """Put something else in the place of the run itself."""
    shutil.rmtree(run)
    kind = choose.choice(("nothing", "empty", "file", "outside", "fifo", "mode", "loop"))
    match kind:
        case "nothing":
            pass
        case "empty":
            run.mkdir()
        case "file":
            run.write_text("{}")
        case "outside":
            run.symlink_to(outside)
        case "fifo":
            os.mkfifo(run)
        case "loop":
            run.symlink_to(run.name)
        case _:
            run.mkdir(mode=0)
    return f"the run: {kind}"


def _litter(run: Path, outside: Path, choose: random.Random) -> str:
    """Put strange names beside the files of the run and beside the run."""
    where = choose.choice((run, run.parent))
    for name in (b"\x1b[2J", b"\xff\xfe", "\u202e".encode(), b"run-x\n", b"-rf", b"notes"):
        path = where / os.fsdecode(name)
        if not os.path.lexists(path):
            path.mkdir()
    for name in ("run-fifo", "run-20260101T000000Z-fifo-00000000"):
        if not os.path.lexists(where / name):
            os.mkfifo(where / name)
    return "litter"


_CHANGES: tuple[Callable[[Path, Path, random.Random], str], ...] = (
    *[_change_values] * 12,
    *[_without_summary] * 2,
    _flip,
    _flip,
    _cut,
    _insert,
    _insert,
    _shuffle,
    _sparse,
    _remove,
    _rename,
    _rename,
    _replace,
    _replace,
    _replace_run,
    _litter,
)
