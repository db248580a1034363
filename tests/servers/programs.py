"""Programs as a user has them, run in a process of their own with an environment of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scalable_runs.reader import RunReader

#: Work with successes, retries, failures, dependencies between workers, and a lost worker.
WORK = """
    import os, time
    def double(x): return 2 * x
    def add(*values): return sum(values)
    def flaky(path):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return "done"
        raise ValueError("the first time")
    def fail(x): raise KeyError(x)
    def big(x): return bytes(3_000_000 + x)
    def size(*values): return sum(map(len, values))
    def killer(path):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return "survived"
        os.kill(os.getpid(), 9)
"""


class Done(NamedTuple):
    """How a program ended."""

    code: int
    said: dict[str, Any]
    stderr: str
    wall: float

    @property
    def run(self) -> RunReader:
        """The run that it says it made."""
        return RunReader(self.said["run_dir"])


def run_program(
    directory: Path,
    body: str,
    environ: Mapping[str, str] | None = None,
    *,
    instrument: str = "scalable.instrument(client, project='work')",
    setup: str = "",
    workers: int = 2,
    command: tuple[str, ...] = (sys.executable,),
    timeout: float = 120.0,
) -> Done:
    """Run `body` in a program with a cluster and a recorded client; it sets `result`.

    What it says is the last line of its output: result, run_dir, trace_id, seconds of work and
    of closing.
    """
    indented = textwrap.indent(textwrap.dedent(body), " " * 16)
    code = f"""
import json, time, logging
{textwrap.dedent(WORK)}
{textwrap.dedent(setup)}
if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    import scalable
    from distributed import Client, LocalCluster
    with LocalCluster(n_workers={workers}, threads_per_worker=1, dashboard_address=":0",
                      memory_limit=0, silence_logs=logging.CRITICAL) as cluster:
        with Client(cluster) as client:
            said = {{}}
            run = {instrument}
            if True:
                began = time.monotonic()
{indented}
                said["worked_s"] = time.monotonic() - began
                began = time.monotonic()
                if run is not None:
                    run.close()
                    said.update(run_dir=str(run.run_dir), trace_id=run.trace_id, id=run.run_id)
                said["closed_s"] = time.monotonic() - began
                said["result"] = result
    print(json.dumps(said), flush=True)
"""
    path = directory / "program.py"
    path.write_text(code)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "SCALABLE_"))}
    began = time.monotonic()
    done = subprocess.run(
        [*command, str(path)],
        cwd=directory,
        env={**clean, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    wall = time.monotonic() - began
    last = done.stdout.strip().splitlines()[-1:] or ["{}"]
    assert done.returncode == 0, done.stderr
    return Done(done.returncode, json.loads(last[0]), done.stderr, wall)
