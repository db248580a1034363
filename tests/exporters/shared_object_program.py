"""One of several programs that write a run together; they share nothing but a place of objects."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from time import monotonic

from store_world import failure, run_document, task

from scalable.telemetry.recorder.copies import start_copies
from scalable_runs.stores.places import spec_of
from scalable_runs.writer import RunWriter


def main(objects: str, folder: str, count: int) -> None:
    """Join the run, write `count` tasks, and do at each line of input what it says."""
    config = {"provider": "directory", "path": objects}
    place = spec_of({"type": "chunked-object", "config": config}).beside(Path(folder))
    sys.stdin.readline()
    problems: list[str] = []
    writer = RunWriter.create(
        place, run_document(), on_problem=lambda problem: problems.append(problem.message)
    )
    copies = start_copies(place, writer, problems.append, keep=False)
    assert writer.shared is not None
    run = writer.shared.run
    writer.append("tasks.jsonl", [task(number) for number in range(1, count + 1)])
    writer.append("failures.jsonl", [failure(count)])
    writer.sync(30.0)
    copies.before_leaving(monotonic() + 30.0)
    print(writer.shared.writer, run["trace_id"], run["root_span_id"], flush=True)
    if sys.stdin.readline().strip() == "die":
        os._exit(9)
    writer.close(status="completed")
    copies.finish(monotonic() + 60.0)
    print(len(problems), *problems, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
