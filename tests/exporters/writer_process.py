"""A process that writes one run and reports on stdout what it did; the tests kill it.

Each line is true when it is printed: `accepted n` (given to append), `flushed n` (flush
returned), `synced n` (sync returned True), `created`, `closed`. `n` counts records of tasks.jsonl;
failures.jsonl gets one for every third.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import orjson
from store_world import create, create_shared, failure, task

from scalable_runs import sync_loop
from scalable_runs.schema import FAILURES, TASKS
from scalable_runs.stores import _directory
from scalable_runs.stores import file as file_store
from scalable_runs.stores import shared as shared_files


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs_dir", type=Path)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--size", type=int, default=3)
    parser.add_argument("--padding", type=int, default=20)
    parser.add_argument("--limit-file-size", type=int)
    parser.add_argument("--unwritable", action="store_true")
    parser.add_argument("--as-nobody", action="store_true")
    parser.add_argument("--wait", action="store_true", help="wait for a line before closing")
    parser.add_argument("--shared", action="store_true", help="as one of several writers")
    parser.add_argument("--kill-at", help="CALL:N, where there is no strace")
    options = parser.parse_args()
    if options.as_nobody:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    if options.kill_at:
        kill_at(options.kill_at)
    # Two syncs in a row are what is tested here, not how seldom they are.
    sync_loop.MIN_GAP = 0.0  # type: ignore[misc]
    if options.shared:
        writer = create_shared(options.runs_dir, sync_interval=10)
    else:
        writer = create(options.runs_dir, sync_interval=10)
    say("created")
    if options.limit_file_size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.limit_file_size, resource.RLIM_INFINITY))
    count = 0
    for batch in range(options.batches):
        if options.unwritable:
            writer.path.chmod(0o500 if batch == 1 else 0o700)
        records = [task(count + n + 1, options.padding) for n in range(options.size)]
        writer.append(TASKS, records)
        count += options.size
        if batch % 3 == 0:
            writer.append(FAILURES, [failure(batch // 3 + 1)])
        say(f"accepted {count}")
        writer.flush()
        say(f"flushed {count}")
        if batch % 2 == 1 and writer.sync(30):
            say(f"synced {count}")
    if options.wait:
        sys.stdin.readline()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writer.close({"counts": {"task_events": count}}, status="completed")
    found = {"losses": writer.losses, "uncertain": writer.uncertain, "errors": writer.errors}
    say("closed " + orjson.dumps(found).decode())


def say(what: str) -> None:
    os.write(1, what.encode() + b"\n")


def kill_at(where: str) -> None:
    """Die by SIGKILL before the Nth call of a function of `os` that the writer makes."""
    name, _, number = where.partition(":")
    left = int(number)
    real = getattr(os, name)

    class Os:
        def __getattr__(self, attribute: str) -> Any:
            return getattr(os, attribute)

    def call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **keywords)

    replaced: Any = Os()
    setattr(replaced, name, call)
    file_store.os = _directory.os = shared_files.os = replaced


if __name__ == "__main__":
    main()
