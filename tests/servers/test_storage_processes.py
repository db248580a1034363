"""Which processes of a recorded program use the library of object storages: the recorder alone."""

from __future__ import annotations

import uuid
from pathlib import Path

from servers.programs import Done, run_program
from servers.storages import BUCKET, VersityGateway

HAS = """
    import sys
    def has(): return any(name.split(".")[0] == "obstore" for name in sys.modules)
"""
WORK = """
    assert client.gather(client.map(double, range(20))) == list(range(0, 40, 2))
"""
ASK = """
    result = {"workers": list(client.run(has).values()), "program": has()}
    result["scheduler"] = client.run_on_scheduler(has)
"""
#: The copy begins beside the program.
FORK = """
    while not has():
        time.sleep(0.01)
    child = os.fork()
    if not child:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def recorded(versitygw: VersityGateway, directory: Path, body: str, recorder: str) -> Done:
    """Run a program whose run is copied; the copy is there when it has ended."""
    prefix = uuid.uuid4().hex
    environ = {
        **versitygw.environ(),
        "SCALABLE_RUN_STORE": f"s3://{BUCKET}/{prefix}",
        "SCALABLE_RECORDER": recorder,
    }
    done = run_program(directory, HAS + body, environ)
    keys = [entry.key for entry in versitygw.store(prefix).list()]
    assert {f"{done.said['id']}/{name}" for name in ("run.json", "tasks.jsonl")} <= set(keys)
    return done


def test_program_scheduler_and_workers_never_import_what_is_not_fork_safe(
    versitygw: VersityGateway, tmp_path: Path
):
    done = recorded(versitygw, tmp_path, WORK + ASK, "process")
    assert done.said["result"] == {"workers": [False] * 2, "program": False, "scheduler": False}


def test_a_program_whose_recorder_is_a_thread_imports_it_and_may_still_fork(
    versitygw: VersityGateway, tmp_path: Path
):
    done = recorded(versitygw, tmp_path, WORK + FORK + ASK, "thread")
    assert done.said["result"]["workers"] == [False] * 2
    assert done.said["result"]["program"] is True
